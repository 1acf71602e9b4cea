"""Which experiment runs on which prompts, and what it writes into which table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.binding_ids import deltas as differences
from residuum.analyses.binding_ids import slots
from residuum.analyses.binding_ids.geometry import geometry, plane
from residuum.analyses.binding_ids.means import cyclic, mean_intervention, transfer
from residuum.analyses.binding_ids.options import mcq_width
from residuum.analyses.binding_ids.position import by_columns, by_keys
from residuum.analyses.binding_ids.prompts import Unsuited
from residuum.analyses.binding_ids.scan import column_scan
from residuum.analyses.binding_ids.swaps import factorizability
from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from residuum.analyses.binding_ids.deltas import Deltas
    from residuum.analyses.binding_ids.params import Params
    from residuum.analyses.binding_ids.prompts import Prompts
    from residuum.analyses.binding_ids.subject import Subject

Rows = list[dict[str, Any]]
Made = Iterator[tuple[str, Rows]]
MCQ, MCQ_ONLY = "MCQ", "mcq_width"


@dataclass
class Study:
    """A subject, its prompts, and what has been estimated from them.

    Attributes:
        subject: what is asked.
        groups: prompts by task and size.
        params: how.
        model: name, family and number of weights, for the table `cyclic`.
    """

    subject: Subject
    groups: list[Prompts]
    params: Params
    model: dict[str, Any] = field(default_factory=dict)
    _deltas: dict[tuple[str, int], Deltas] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a target that there is no prompt of."""
        target, tasks = self.params.transfer_target, sorted({one.task for one in self.groups})
        if target is not None and target not in tasks:
            message = f"transfer_target={target!r} is none of the tasks {', '.join(tasks)}"
            raise ArgumentError(message)

    @property
    def promote(self) -> bool:
        """Whether attribute keys are moved to the last attribute's position."""
        wanted = self.params.promote_attr_keys
        if wanted and not self.subject.rotary:
            message = (
                "promote_attr_keys moves keys, and this model has no rotary positions: leave it out"
            )
            raise ArgumentError(message)
        return self.subject.rotary if wanted is None else wanted

    def deltas(self, prompts: Prompts) -> Deltas:
        """The mean differences of a group, estimated once."""
        key = (prompts.task, prompts.n)
        if key not in self._deltas:
            self._deltas[key] = differences.estimate(self.subject, prompts)
        return self._deltas[key]

    def estimated(self) -> Iterator[tuple[Prompts, Deltas]]:
        """The groups whose differences were needed."""
        for prompts in self.groups:
            found = self._deltas.get((prompts.task, prompts.n))
            if found is not None:
                yield prompts, found


def _factorizability(study: Study, prompts: Prompts) -> Made:
    answers, expected = factorizability(study.subject, prompts)
    yield "factorizability", answers
    yield "swaps", expected


def _position(study: Study, prompts: Prompts) -> Made:
    how = study.params.position_by or ("keys" if study.subject.rotary else "columns")
    if how == "keys":
        yield "position", by_keys(study.subject, prompts, study.params.position_span)
    elif how == "columns":
        yield "position", by_columns(study.subject, prompts)
    else:
        message = f"position_by={how!r}: it is keys or columns"
        raise ArgumentError(message)


def _mean_intervention(study: Study, prompts: Prompts) -> Made:
    seeds = range(study.params.seed, study.params.seed + study.params.random_seeds)
    table, single = mean_intervention(
        study.subject, prompts, study.deltas(prompts), seeds=seeds, promote=study.promote
    )
    yield "mean_intervention", table
    yield "mean_scores", single


def _cyclic(study: Study, prompts: Prompts) -> Made:
    if prompts.n < 3:
        message = "IDs of two slots have no cyclic order: prompts of 3 or more entities are needed"
        raise Unsuited(message)
    rows = cyclic(study.subject, prompts, study.deltas(prompts), promote=study.promote)
    yield "cyclic", [{**study.model, **row} for row in rows]


def _transfer(study: Study, prompts: Prompts) -> Made:
    sources = [one for one in study.groups if one.n == prompts.n and one.task != MCQ]
    target = study.params.transfer_target or sources[0].task
    if prompts.task != target:
        message = f"the target of the transfer is {target} (transfer_target)"
        raise Unsuited(message)
    own = study.deltas(prompts)
    rng = np.random.default_rng(study.params.seed)
    given = [(one.task, study.deltas(one)) for one in sources]
    given += [("ZEROS", own.zeros()), ("RANDOM", own.random(rng))]
    fitting = []
    for name, source in given:
        shapes = [{c: v.shape for c, v in one.by.items()} for one in (own, source)]
        if shapes[0] == shapes[1]:
            fitting.append((name, source))
        else:
            reason = f"from {name}: its widths are not those of {target} (entity_width, attr_width)"
            yield "skipped", [{"experiment": "transfer", "reason": reason}]
    yield (
        "transfer",
        [
            transfer(study.subject, prompts, own, source, name, promote=study.promote)
            for name, source in fitting
        ],
    )


def _geometry(study: Study, prompts: Prompts) -> Made:
    """The map on the smallest prompts of a task; its plane from those of 3 slots or more."""
    same = sorted((one for one in study.groups if one.task == prompts.task), key=lambda one: one.n)
    if prompts.n != same[0].n:
        message = f"the map is made on the task's prompts of {same[0].n} entities"
        raise Unsuited(message)
    wide = next((one for one in same if one.n >= 3), None)
    if wide is None:
        message = "the map needs two differences: prompts of 3 or more entities"
        raise Unsuited(message)
    own = study.deltas(wide)
    few = prompts.first(study.params.geometry_prompts)
    rows = geometry(study.subject, few, own, grid=study.params.grid, promote=study.promote)
    yield "geometry", rows
    _, _, second = plane(own)
    points = [(0, 0.0, 0.0), (1, 1.0, 0.0), (2, *second)]
    yield "plane", [{"slot": s, "x": x, "y": y, "n_slots": wide.n} for s, x, y in points]


def _mcq_width(study: Study, prompts: Prompts) -> Made:
    yield "mcq_width", mcq_width(study.subject, prompts, study.params.mcq_widths)


def _column_scan(study: Study, prompts: Prompts) -> Made:
    yield "column_scan", column_scan(study.subject, prompts.first(study.params.scan_prompts))


RUNS: dict[str, Callable[[Study, Prompts], Made]] = {
    "factorizability": _factorizability,
    "position": _position,
    "mean_intervention": _mean_intervention,
    "cyclic": _cyclic,
    "transfer": _transfer,
    "geometry": _geometry,
    "mcq_width": _mcq_width,
    "column_scan": _column_scan,
}


def run(study: Study) -> dict[str, Rows]:
    """Rows of every table; what could not be run is listed in `skipped`.

    Raises:
        ArgumentError: an experiment that there is not, or one asked for by name that no prompts
            of the store allow.
    """
    asked = study.params.experiments
    unknown = [name for name in asked if name not in RUNS]
    if unknown:
        message = f"there is no experiment {unknown[0]!r}; there are: {', '.join(RUNS)}"
        raise ArgumentError(message)
    tables: dict[str, Rows] = {}
    for name in asked or RUNS:
        skipped = _run_one(study, name, tables)
        if asked and len(skipped) == max(1, len(_suited(study, name))):
            message = f"{name} cannot be run: {skipped[0]['reason']}"
            raise ArgumentError(message)
        tables.setdefault("skipped", []).extend(skipped)
    for prompts, found in study.estimated():
        tables.setdefault("deltas", []).extend(
            _with_common(prompts, "train", differences.rows(found))
        )
        tables.setdefault("slots", []).extend(
            _with_common(prompts, "test", slots.rows(study.subject, prompts, found))
        )
    return tables


def _run_one(study: Study, name: str, tables: dict[str, Rows]) -> Rows:
    """Run an experiment on all prompts that it is for; rows of `skipped`."""
    skipped: Rows = []
    suited = _suited(study, name)
    if not suited:
        kind = f"there are no prompts of {MCQ}" if name == MCQ_ONLY else "there are no such prompts"
        skipped.append({"experiment": name, "reason": kind})
    for prompts in suited:
        try:
            made = list(RUNS[name](study, prompts))
        except Unsuited as reason:
            where = {"task": prompts.task, "n_entities": prompts.n}
            skipped.append({"experiment": name, **where, "reason": str(reason)})
            continue
        for table, rows in made:
            tables.setdefault(table, []).extend(_with_common(prompts, "test", rows))
    return skipped


def _suited(study: Study, experiment: str) -> list[Prompts]:
    """Multiple choice has one experiment of its own, and no part in the others."""
    return [one for one in study.groups if (experiment == MCQ_ONLY) == (one.task == MCQ)]


def _with_common(prompts: Prompts, split: str, rows: Rows) -> Rows:
    common = {
        "task": prompts.task,
        "n_entities": prompts.n,
        "split": split,
        "seed": prompts.seed,
    }
    return [{**common, **row} for row in rows]
