"""Which components to ablate: by what texts say of heads, greedily, or by trying every set.

Worst-group accuracy is what a repair is judged by: the accuracy of the group of images (a class on a
background, say) that is told worst. Choose on some images and judge on others.
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
    """

    label: Numbers
    group: Numbers

    @property
    def sizes(self) -> Numbers:
        """Images of each group."""
        return np.bincount(self.group)

    def accuracy(self, logits: ArrayLike) -> Wide:
        """Of each group, `[group]`, for logits `[image, class]`."""
        right = np.argmax(np.asarray(logits), axis=1) == self.label
        return np.bincount(self.group, right) / self.sizes

    def taken(self, places: Numbers) -> Groups:
        """Those of some images; all groups must be among them."""
        return Groups(self.label[places], self.group[places])


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
    best: Found | None = None
    while some := list(itertools.islice(every, AT_ONCE)):
        found = judge.best(np.array(some))
        if best is None or (found.worst, found.mean) > (best.worst, best.mean):
            best = found
    assert best is not None
    return best


class _Judge:
    """Accuracies of groups without sets of components."""

    def __init__(
        self, effects: Effects, groups: Groups, among: list[int], reference: ArrayLike | None
    ) -> None:
        self.among, self.groups = among, groups
        self.total = effects.total
        lost = effects.lost(reference)[:, among]
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


def spurious_scores(effects: Effects, heads: Numbers) -> Wide:
    """How much each head varies along what should not matter, and not along what should, `[head]`.

    `var(head along u) - var(head along v)`, where the effects' two directions are `u` and `v` of
    `cue_directions`. No label of an image is used.
    """
    variance = effects.shares[:, heads].astype(np.float64).var(axis=0)
    return np.asarray(variance[:, 0] - variance[:, 1])


def cue_directions(classes: ArrayLike, cues: ArrayLike) -> Wide:
    """Unit vectors `u` and `v`, `[2, d_embed]`: the difference of two texts of a cue, and that of
    two classes less its part along `u`.

    Args:
        classes: `[2, d_embed]`, texts of the two classes.
        cues: `[2, d_embed]`, texts of the two values of the cue.
    """
    first, second = np.asarray(cues, np.float64)
    u = (first - second) / np.linalg.norm(first - second)
    one, other = np.asarray(classes, np.float64)
    v = one - other
    v = v - (v @ u) * u
    return np.stack([u, v / np.linalg.norm(v)])
