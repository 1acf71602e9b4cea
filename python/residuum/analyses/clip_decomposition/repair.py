"""T4: removing what should not matter, by heads that texts, a query or labels point at.

Means, ranking and search see the calibration half alone; accuracies are those of the other half.
The projection of the cue's direction out of the whole vector is a rival that is often stronger: it
stands beside the heads so that they are not flattered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.clip_decomposition.study import heads_named_by
from residuum.clip.search import cue_directions, greedy, spurious_scores
from residuum.errors import InputError
from residuum.quantities import wilson

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.clip_decomposition.study import Study

    Numbers = NDArray[np.int64]
    Floats = NDArray[np.float32]
    Wide = NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """One way to repair: its name, the components it ablates, and logits of the judged half."""

    how: str
    heads: tuple[tuple[int, int], ...]
    others: tuple[str, ...]
    logits: Floats | Wide = field(repr=False, compare=False)

    @property
    def removed(self) -> str:
        """As JSON."""
        return json.dumps({"heads": [list(head) for head in self.heads], "others": self.others})


class Repair:
    """All ways, and how they do."""

    def __init__(self, study: Study) -> None:
        """Nothing is computed before it is asked for."""
        self.study = study

    @cached_property
    def ways(self) -> list[Way]:
        """What can be tried with what is there.

        Raises:
            InputError: classes, labels or the groups were not named.
        """
        if self.study.params.group is None:
            message = "this needs `group`: the column of the images that should not matter"
            raise InputError(message)
        self._check_groups()
        return list(self._ways())

    def _check_groups(self) -> None:
        """Refuse a group without an image in a half that needs it.

        Raises:
            InputError: says which.
        """
        halves = {"judged": self.judged}
        if self.study.params.greedy:
            halves["searched"] = self.calibration
        for half, places in halves.items():
            groups = self.study.groups.taken(places)
            if not groups.sizes.all():
                label, cue = groups.names[int(groups.sizes.argmin())]
                message = (
                    f"no image of {self.study.classes.text[label]!r} with {self.study.params.group}"
                    f"={cue} is in the half that is {half}: capture more of them, or take another "
                    "seed or calibration"
                )
                raise InputError(message)

    def _ways(self) -> Iterator[Way]:
        study, none = self.study, np.zeros(0, np.int64)
        yield self._way("none", none)
        mlps = study.all_mlps
        if len(mlps):
            yield self._way("mlps", mlps)
        if study.params.cues:
            ranked = self.ranked[: study.params.n_remove]
            yield self._way("ranked", ranked)
            if len(mlps):
                yield self._way("mlps and ranked", np.concatenate([mlps, ranked]))
            yield self._projected()
        if study.params.remove is not None:
            pairs = heads_named_by(study.store, study.params.remove)
            yield self._way("sql", study.shares.heads(pairs))
        if study.params.greedy:
            found = greedy(
                study.shares.taken(self.calibration),
                study.groups.taken(self.calibration),
                study.shares.numbers("head").tolist(),
                study.params.greedy,
            )
            yield self._way("greedy", np.array(found[-1].components))

    @property
    def calibration(self) -> Numbers:
        """Places of images to choose by."""
        return self.study.halves[0]

    @property
    def judged(self) -> Numbers:
        """Places of images to judge by."""
        return self.study.halves[1]

    @cached_property
    def lost(self) -> Floats:
        """What the judged half loses by each component, `[image, component, class]`."""
        return self.study.shares.lost(self.calibration)[self.judged]

    @cached_property
    def directions(self) -> tuple[Floats, Floats]:
        """The cue's and the classes' directions.

        Raises:
            InputError: a cue that is no text of either store.
        """
        cues = self.study.named(list(self.study.params.cues))
        u, v = cue_directions(self.study.classes.vectors, cues)
        return u.astype(np.float32), v.astype(np.float32)

    @cached_property
    def ranked(self) -> Numbers:
        """Heads by how much they vary with the cue and not with the classes, most first."""
        u, v = self.directions
        examples = self.study.images.example[self.calibration]
        shares = self.study.along(np.concatenate([u, v]), examples)
        heads = self.study.shares.numbers("head")
        scores = spurious_scores(shares, shares.numbers("head"), len(u))
        return heads[np.argsort(-scores, kind="stable")]

    def _way(self, how: str, components: Numbers) -> Way:
        total = self.study.shares.total[self.judged]
        left = total - self.lost[:, components].sum(axis=1)
        rows = self.study.shares.components.take(components).to_pylist()
        heads = tuple((row["layer"], row["head"]) for row in rows if row["kind"] == "head")
        others = tuple(row["component"] for row in rows if row["kind"] != "head")
        return Way(how, heads, others, left)

    def _projected(self) -> Way:
        """The cue's directions taken out of the whole vector."""
        u, _ = self.directions
        examples = self.study.images.example[self.judged]
        along = self.study.along(u, examples).total
        logits = self.study.shares.total[self.judged] - along @ (u @ self.study.classes.vectors.T)
        return Way("projection", (), ("cue direction",), logits)

    def groups(self) -> Iterator[dict[str, Any]]:
        """Rows of the table `groups`."""
        groups = self.study.groups.taken(self.judged)
        for way in self.ways:
            accuracy = groups.accuracy(way.logits)
            for (label, cue), share, n in zip(
                groups.names, accuracy.tolist(), groups.sizes.tolist(), strict=True
            ):
                lo, hi = wilson(share, n)
                yield {
                    "model": self.study.model,
                    "how": way.how,
                    "removed": way.removed,
                    "group_y": self.study.classes.text[label],
                    "group_b": cue,
                    "accuracy": share,
                    "lo": lo,
                    "hi": hi,
                    "n": n,
                }

    def summary(self) -> Iterator[dict[str, Any]]:
        """Rows of the table `repair`."""
        groups = self.study.groups.taken(self.judged)
        for way in self.ways:
            accuracy = groups.accuracy(way.logits)
            worst = int(accuracy.argmin())
            lo, hi = wilson(float(accuracy[worst]), int(groups.sizes[worst]))
            right = float((np.argmax(way.logits, axis=1) == groups.label).mean())
            yield self._row(way, [accuracy[worst], lo, hi, accuracy.mean(), right])
        yield from self._random()

    def _row(self, way: Way, numbers: list[float]) -> dict[str, Any]:
        names = ("worst_group", "worst_lo", "worst_hi", "balanced", "accuracy")
        return {
            "model": self.study.model,
            "how": way.how,
            "n_head": len(way.heads),
            "removed": way.removed,
            **dict(zip(names, map(float, numbers), strict=True)),
            "n": len(self.judged),
        }

    def _random(self) -> Iterator[dict[str, Any]]:
        """Draws of as many heads as the ranking ablates, the control."""
        of, groups = self.study.params, self.study.groups.taken(self.judged)
        heads = self.study.shares.numbers("head")
        n = min(of.n_remove, len(heads))
        random = np.random.default_rng([of.seed, 3])
        draws = []
        for _ in range(of.random_draws):
            way = self._way("random", random.choice(heads, n, replace=False))
            accuracy = groups.accuracy(way.logits)
            right = (np.argmax(way.logits, axis=1) == groups.label).mean()
            draws.append((accuracy.min(), accuracy.mean(), right))
        if draws:
            worst, balanced, right = np.array(draws).T
            lo, hi = np.quantile(worst, [0.05, 0.95])
            numbers = [worst.mean(), lo, hi, balanced.mean(), right.mean()]
            row = self._row(Way("random", (), (), worst), numbers)
            yield row | {"n_head": n, "removed": json.dumps({"draws": of.random_draws})}
