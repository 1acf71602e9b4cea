"""The parts of the study, in the order in which they build on one another.

demos ▶ tasks ▶ lens ▶ curves ▶ gaps ▶ exit states ─┐
                pattern (SQL) ▶ heads ──────────────┴▶ cases ▶ replay ▶ ablations
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from residuum.analyses.overthinking import ablations, controls, copying, curves, matching, turning
from residuum.analyses.overthinking.cases import Case
from residuum.analyses.overthinking.demos import demo_table
from residuum.analyses.overthinking.lens import Lens
from residuum.analyses.overthinking.params import Params
from residuum.analyses.overthinking.tasks import Task, tasks_of
from residuum.analyses.skipped import MISSING
from residuum.errors import ArgumentError
from residuum.replay.weights import Weights, tensors_of
from residuum.store import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from residuum.replay.engine import Replay
    from residuum.store import Store

Rows = list[dict[str, Any]]

PREFERRED = "unnatural"
SHARED = ["dataset", "prompt_format", "setting", "prefix", "prompt_id", "demo", "shown_label"]
"""Columns in which two stores of the same prompts agree."""


class Study:
    """One store asked with one set of parameters; each part is computed once."""

    def __init__(self, store: "Store", params: Params) -> None:
        """Find the prompts."""
        self.store, self.params = store, params
        self.model = str(store.model.get("name"))
        self.demos = demo_table(store, params.datasets, params.settings)
        self.tasks = tasks_of(self.demos, store.path)
        self.skipped: Rows = []
        n_layer = int(store.model["n_layer"])
        if params.exit_state is not None and params.exit_state > n_layer:
            message = f"exit_state={params.exit_state}: the states of the model are 0 to {n_layer}"
            raise ArgumentError(message)
        if params.late.isdecimal() and int(params.late) >= n_layer:
            message = f"late={params.late}: the blocks of the model are 0 to {n_layer - 1}"
            raise ArgumentError(message)

    @cached_property
    def settings(self) -> list[str]:
        """The settings of false labels."""
        return list(dict.fromkeys(task.setting for task in self.tasks))

    @cached_property
    def lens(self) -> Lens:
        """From stream to label probabilities."""
        return Lens(self.store, double=self.params.reference_double_norm)

    @cached_property
    def curves(self) -> list[curves.Curve]:
        """The measures of each task."""
        every = self.params.all_demos
        return [curves.curve(task, self.lens, all_demos=every) for task in self.tasks]

    @cached_property
    def gaps(self) -> list[turning.Gap]:
        """Where the prefixes part."""
        return turning.gaps(self.curves)

    @cached_property
    def exit_states(self) -> dict[str, int]:
        """The state at which early exit reads, by setting."""
        given = self.params.exit_state
        return {
            setting: turning.exit_state(self.gaps, setting) if given is None else given
            for setting in self.settings
        }

    @cached_property
    def matching(self) -> pa.Table:
        """The scores of heads, by SQL."""
        if self.params.pattern is None:
            return matching.scores(self.store, self.demos)
        other = open_store(self.params.pattern)
        demos = demo_table(other, self.params.datasets, self.params.settings)
        same = other.model.get("weights_hash") == self.store.model.get("weights_hash")
        if not same or demos.select(SHARED) != self.demos.select(SHARED):
            message = (
                f"pattern={self.params.pattern} is not of the model and prompts of "
                f"{self.store.path}: capture the same inputs with the same model"
            )
            raise ArgumentError(message)
        return matching.scores(other, demos)

    @cached_property
    def selected(self) -> tuple[str, str]:
        """Data set and setting on which heads are chosen.

        Raises:
            ArgumentError: `select_on` is none of the store's data sets.
        """
        names = list(dict.fromkeys(task.dataset for task in self.tasks))
        setting = "permuted" if "permuted" in self.settings else self.settings[0]
        wanted = self.params.select_on
        if wanted is None:
            return (PREFERRED if PREFERRED in names else names[0]), setting
        if wanted not in names:
            message = f"select_on={wanted!r} is none of the data sets {', '.join(names)}"
            raise ArgumentError(message)
        return wanted, setting

    @cached_property
    def replay(self) -> "Replay":
        """Patched passes of the store's model."""
        from residuum.replay.opening import replay

        params = self.params
        return replay(self.store, params.model, device=params.device, memory=params.memory)

    @cached_property
    def weights(self) -> Weights:
        """The weights of the blocks, of the folder that replay has checked."""
        of = self.replay.of
        folder = Path(self.params.model or self.store.capture["model_folder"])
        return Weights(tensors_of(folder.expanduser()), of)

    def skip(self, experiment: str, reason: object) -> None:
        """Note what was not computed."""
        self.skipped.append({"experiment": experiment, "reason": str(reason)})

    def accuracy(self) -> Rows:
        """O1 and O2."""
        return list(curves.rows(self.curves, self.model))

    def critical_layers(self) -> Rows:
        """O3."""
        return turning.critical_rows(self.gaps, self.model)

    def early_exit(self) -> Rows:
        """O3."""
        return turning.exit_rows(self.gaps, self.exit_states, self.model)

    def prefix_matching(self) -> Rows:
        """O4."""
        return matching.rows(self.matching, *self.selected, self.model)

    def ablations(self) -> Rows:
        """O5."""
        heads = self._heads()
        cases = {
            setting: [Case("none"), *self._late_cases(setting), *heads] for setting in self.settings
        }
        by_task: dict[tuple[str, str], list[Sequence[ablations.Outcome]]] = {}
        for task in self.tasks:
            outcomes = ablations.outcomes(
                task,
                self.lens,
                self.replay,
                self.weights,
                cases[task.setting],
                exit_state=self.exit_states[task.setting],
                kind=self.params.kind,
                mlp_bias=self.params.mlp_bias,
            )
            by_task.setdefault((task.dataset, task.setting), []).append(outcomes)
        found = {
            key: [ablations.averaged(of) for of in zip(*formats, strict=True)]
            for key, formats in by_task.items()
        }
        return list(
            ablations.rows(
                found, cases, model=self.model, kind=self.params.kind, selected=self.selected
            )
        )

    def label_copying(self) -> Rows:
        """O6; formats of a data set are averaged."""
        made: dict[tuple[str, str], list[tuple[Task, Any, int]]] = {}
        for task in self.tasks:
            labels = copying.looked_at(task, self.demos, self.lens)
            found = copying.copying(task, labels, self.lens, self.replay, self.weights)
            made.setdefault((task.dataset, task.setting), []).append((task, found, labels.num_rows))
        return [
            row
            for of in made.values()
            for row in copying.rows(
                of[0][0],
                np.mean([found for _, found, _ in of], axis=0),
                sum(n for _, _, n in of),
                self.model,
            )
        ]

    def _late_cases(self, setting: str) -> list[Case]:
        """Late attention, late MLP and early exit."""
        n_layer = self.lens.n_state - 1
        made = []
        first = self._first_late(setting)
        late = tuple(range(n_layer if first is None else first, n_layer))
        if late:
            made += [Case("late_attention", blocks=late), Case("late_mlp", blocks=late)]
        else:
            self.skip(
                "ablations",
                f"late attention and MLPs of {setting}: there is no late block "
                f"(late={self.params.late})",
            )
        left = tuple(range(self.exit_states[setting], n_layer))
        return [*made, Case("late_layers", blocks=left)]

    def _first_late(self, setting: str) -> int | None:
        """The first late block. Block b leads from state b to b + 1."""
        if self.params.late.isdecimal():
            return int(self.params.late)
        if self.params.late == "exit":
            return self.exit_states[setting]
        mine = [one for one in self.gaps if one.setting == setting]
        return mine[-1].critical  # of all data sets where there are several

    def _heads(self) -> list[Case]:
        """The chosen heads and their controls, for each number of heads."""
        try:
            order = matching.ranked(self.matching, *self.selected)
        except MISSING as error:
            self.skip("ablations", f"heads: {error}")
            return []
        n_layer, n_head = (int(self.store.model[name]) for name in ("n_layer", "n_head"))
        made = []
        for n in self.params.n_heads:
            chosen = order[:n]
            if len(chosen) < n:
                message = f"n_heads={n}, but the model has {len(order)} heads"
                if self.params.n_heads != Params().n_heads:
                    raise ArgumentError(message)
                self.skip("ablations", message)
                continue
            made.append(Case("pm_heads", heads=tuple(chosen)))
            try:
                for seed in self.params.seeds:
                    drawn = controls.matched(chosen, n_head, seed)
                    made.append(Case("random_matched", heads=tuple(drawn), seed=seed))
            except ArgumentError as error:
                self.skip("ablations", f"random_matched for {n} heads: {error}")
            try:
                for seed in self.params.seeds:
                    drawn = controls.anywhere(chosen, n_layer, n_head, seed)
                    made.append(Case("random_any", heads=tuple(drawn), seed=seed))
            except ArgumentError as error:
                self.skip("ablations", f"random_any for {n} heads: {error}")
        return made


def done(study: Study, experiment: str) -> Rows:
    """The rows of one part; none where it was not asked for.

    Raises:
        ResiduumError: what it needs is missing, and it, or the place of that, was named.
    """
    if not study.params.wants(experiment):
        return []
    try:
        rows: Rows = getattr(study, experiment)()
    except MISSING as error:
        params = study.params
        places = {
            "prefix_matching": params.pattern,
            "ablations": params.model,
            "label_copying": params.model,
        }
        if params.experiments is not None or places.get(experiment) is not None:
            raise
        study.skip(experiment, error)
        return []
    return rows
