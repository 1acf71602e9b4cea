"""Which components to ablate: by what texts say of heads, greedily, or by trying every set.

Worst-group accuracy is what a repair is judged by: the accuracy of the group of images (a class on
a background, say) that is told worst. Choose on some images and judge on others.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from residuum import kernels
from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from residuum.clip.effects import Effects

    Numbers = NDArray[np.int64]
    Wide = NDArray[np.float64]

MOST_SETS = 5_000_000
AT_ONCE = 1 << 16
"""Sets whose counts are made at once."""


@dataclass(frozen=True, eq=False)
class Groups:
    """What images are, for a zero-shot classifier whose classes are the directions of `Effects`.

    Attributes:
        label: int64 `[image]`, the class of each.
        group: int64 `[image]`, the group of each, from 0 without gaps.
        names: label and cue of each group; the cue is None where there is none.
    """

    label: Numbers
    group: Numbers
    names: tuple[tuple[int, str | None], ...] = ()

    @classmethod
    def of(cls, label: ArrayLike, cue: ArrayLike | None = None) -> Groups:
        """Groups of equal label and, where given, equal cue, in the order of both.

        Args:
            label: whole numbers `[image]`.
            cue: `[image]`, what should not matter, such as names of backgrounds.
        """
        labels = np.asarray(label, np.int64)
        cues = np.full(len(labels), "") if cue is None else np.asarray(cue).astype(str)
        pairs = list(zip(labels.tolist(), cues.tolist(), strict=True))
        order = sorted(set(pairs))
        place = {pair: number for number, pair in enumerate(order)}
        group = np.array([place[pair] for pair in pairs], np.int64)
        names = tuple((one, None if cue is None else other) for one, other in order)
        return cls(labels, group, names)

    @property
    def sizes(self) -> Numbers:
        """Images of each group."""
        return np.bincount(self.group, minlength=len(self.names))

    def accuracy(self, logits: ArrayLike) -> Wide:
        """Of each group, `[group]`, for logits `[image, class]`."""
        right = np.argmax(np.asarray(logits), axis=1) == self.label
        return np.bincount(self.group, right, len(self.sizes)) / self.sizes

    def taken(self, places: Numbers) -> Groups:
        """Those of some images; all groups must be among them."""
        return Groups(self.label[places], self.group[places], self.names)


@dataclass(frozen=True)
class Found:
    """A set of components and the accuracies without it.

    Attributes:
        components: their numbers, in the order in which they were found.
        worst: accuracy of the worst group.
        mean: mean of the groups' accuracies.
    """

    components: tuple[int, ...]
    worst: float
    mean: float


def greedy(
    effects: Effects,
    groups: Groups,
    among: Iterable[int],
    n: int,
    *,
    reference: ArrayLike | None = None,
) -> list[Found]:
    """Ablate one component after the other, each time the one that leaves the worst group best.

    Ties go to the better mean over groups, then to the first. Returns the set after every step.

    Raises:
        ArgumentError: fewer components than steps.
    """
    judge = _Judge(effects, groups, list(among), reference)
    if not 1 <= n <= len(judge.among):
        message = f"{n} steps among {len(judge.among)} components: give 1 to as many as there are"
        raise ArgumentError(message)
    chosen: list[int] = []
    steps = []
    for _ in range(n):
        left = [at for at in range(len(judge.among)) if at not in chosen]
        steps.append(judge.best(np.array([[*chosen, at] for at in left])))
        chosen.append(judge.among.index(steps[-1].components[-1]))
    return steps


def exhaustive(
    effects: Effects,
    groups: Groups,
    among: Iterable[int],
    n: int,
    *,
    reference: ArrayLike | None = None,
) -> Found:
    """Try every set of `n` of some components.

    Raises:
        ArgumentError: more sets than can be tried in reasonable time.
    """
    judge = _Judge(effects, groups, list(among), reference)
    count = math.comb(len(judge.among), n) if n > 0 else 0
    if not 1 <= count <= MOST_SETS:
        message = (
            f"{count} sets of {n} among {len(judge.among)} components; give fewer components, or "
            f"search greedily (at most {MOST_SETS} sets are tried)"
        )
        raise ArgumentError(message)
    every = itertools.combinations(range(len(judge.among)), n)
    some = iter(lambda: list(itertools.islice(every, AT_ONCE)), [])
    return max(
        (judge.best(np.array(sets)) for sets in some), key=lambda found: (found.worst, found.mean)
    )


class _Judge:
    """Accuracies of groups without sets of components."""

    def __init__(
        self, effects: Effects, groups: Groups, among: list[int], reference: ArrayLike | None
    ) -> None:
        self.among, self.groups = list(dict.fromkeys(among)), groups
        self.total = effects.total
        lost = effects.lost(reference)[:, self.among]
        self.lost = np.ascontiguousarray(lost.transpose(1, 0, 2))

    def best(self, sets: Numbers) -> Found:
        """The best of sets of places among the components."""
        counts = kernels.subset_scores(
            self.total, self.lost, self.groups.label, self.groups.group, sets
        )
        accuracy = counts / self.groups.sizes
        worst, mean = accuracy.min(axis=1), accuracy.mean(axis=1)
        at = int(np.lexsort((np.arange(len(sets)), -mean, -worst))[0])
        chosen = tuple(self.among[place] for place in sets[at].tolist())
        return Found(chosen, float(worst[at]), float(mean[at]))


def spurious_scores(effects: Effects, heads: Numbers, n_cue: int) -> Wide:
    """How much each head varies along what should not matter, and not along what should, `[head]`.

    Variance along the first `n_cue` of the effects' directions less that along the others, which
    are those of `cue_directions`. No label of an image is used.
    """
    variance = effects.shares[:, heads].astype(np.float64).var(axis=0)
    return np.asarray(variance[:, :n_cue].sum(axis=1) - variance[:, n_cue:].sum(axis=1))


def cue_directions(classes: ArrayLike, cues: ArrayLike) -> tuple[Wide, Wide]:
    """What texts of a cue differ in, and what classes differ in beside it.

    Args:
        classes: `[class, d_embed]`, two texts at least.
        cues: `[cue, d_embed]`, texts of the values of the cue, two at least.

    Returns:
        Unit vectors at right angles: those that span the differences of the cues, and those that
        span the differences of the classes less their part along the former; for two texts of each
        one vector each.

    Raises:
        ArgumentError: one text alone, which differs from nothing.
    """
    u = _differences("cues", cues)
    given = np.asarray(classes, np.float64)
    v = _differences("classes", given - given @ u.T @ u)
    return u, v


def _differences(what: str, texts: ArrayLike) -> Wide:
    given = np.asarray(texts, np.float64)
    if given.ndim != 2 or len(given) < 2:
        message = f"{what} are two texts at least, [text, d_embed], not {list(given.shape)}"
        raise ArgumentError(message)
    _, lengths, vectors = np.linalg.svd(given[1:] - given[0], full_matrices=False)
    return np.asarray(vectors[lengths > 1e-6 * max(lengths.max(initial=0.0), 1e-30)])
