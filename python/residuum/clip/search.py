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
from residuum.clip.effects import finite
from residuum.clip.images import places
from residuum.errors import ArgumentError
from residuum.replay.numbers import real, single, whole

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

    from residuum.clip.effects import Effects

    Numbers = NDArray[np.int64]
    Wide = NDArray[np.float64]

MOST_SETS = 5_000_000
AT_ONCE = 1 << 16
"""Sets whose counts are made at once."""
ALIKE = 1e-6
"""Differences of texts that are shorter, beside the texts, are rounding."""
DIGITS = 12
"""Of accuracies that are compared: means of equal ones differ in the last bits by their order."""


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
            label: whole numbers from 0 `[image]`, or for two classes truth values.
            cue: `[image]`, what should not matter, such as names of backgrounds.

        Raises:
            ArgumentError: labels that are something else, none at all, or not as many as cues.
        """
        labels = _labels(label)
        cues = np.full(len(labels), "") if cue is None else np.asarray(cue).astype(str)
        if cues.shape != labels.shape:
            message = f"axis `image` is {len(labels)} in label but {list(cues.shape)} in cue"
            raise ArgumentError(message)
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
        """Of each group, `[group]`, for logits `[image, class]`.

        Raises:
            ArgumentError: logits of other images or of fewer classes, or a group without images.
        """
        given = real("logits", logits)
        if given.ndim != 2:
            message = f"logits are [image, class], not {list(given.shape)}"
            raise ArgumentError(message)
        self.check(*given.shape)
        right = np.argmax(given, axis=1) == self.label
        return np.bincount(self.group, right, len(self.sizes)) / self.sizes

    def check(self, n_image: int, n_class: int) -> None:
        """Refuse logits `[image, class]` of other lengths.

        Raises:
            ArgumentError: the lengths differ, a label is no class, or a group has no image.
        """
        message = None
        if n_image != len(self.label):
            message = f"axis `image` is {n_image} in logits but {len(self.label)} in groups"
        elif self.label.max(initial=-1) >= n_class:
            message = f"label {self.label.max()} is no class: logits have {n_class}, from 0"
        elif not self.sizes.all():
            empty = int(self.sizes.argmin())
            named = f" {self.names[empty]}" if self.names else ""
            message = f"group {empty}{named} has no image, so that it has no accuracy"
        if message is not None:
            raise ArgumentError(message)

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

    Args:
        effects: along the classes.
        groups: of the same images.
        among: numbers of the components that may be ablated.
        n: steps.
        reference: places, or a mask, of the images over which means are taken; all by default.

    Raises:
        ArgumentError: fewer components than steps, groups of other images, or what is no number.
        SelectionError: a component or an image that is not there.
    """
    judge = _Judge(effects, groups, list(among), reference)
    if not 1 <= single("n", n) <= len(judge.among):
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
    """Try every set of `n` of some components; arguments and ties are those of `greedy`.

    Raises:
        ArgumentError: more sets than can be tried in reasonable time, or as for `greedy`.
        SelectionError: a component or an image that is not there.
    """
    judge = _Judge(effects, groups, list(among), reference)
    count = math.comb(len(judge.among), n) if single("n", n) > 0 else 0
    if not 1 <= count <= MOST_SETS:
        message = (
            f"{count} sets of {n} among {len(judge.among)} components; give fewer components, or "
            f"search greedily (at most {MOST_SETS} sets are tried)"
        )
        raise ArgumentError(message)
    every = itertools.combinations(range(len(judge.among)), n)
    some = iter(lambda: list(itertools.islice(every, AT_ONCE)), [])
    return max(
        (judge.best(np.array(sets)) for sets in some),
        key=lambda found: (round(found.worst, DIGITS), round(found.mean, DIGITS)),
    )


def _labels(label: ArrayLike) -> Numbers:
    array = np.asarray(label)
    labels = whole("labels", array.astype(np.int64) if array.dtype == bool else label)
    if labels.min() < 0:
        message = f"labels are numbers of classes from 0, not {labels.min()}"
        raise ArgumentError(message)
    return labels


class _Judge:
    """Accuracies of groups without sets of components."""

    def __init__(
        self, effects: Effects, groups: Groups, among: list[int], reference: ArrayLike | None
    ) -> None:
        groups.check(*effects.total.shape)
        chosen = places("component", among, effects.shares.shape[1])
        self.among, self.groups = list(dict.fromkeys(chosen.tolist())), groups
        self.total = effects.total
        lost = effects.lost(reference, components=self.among)
        self.lost = np.ascontiguousarray(lost.transpose(1, 0, 2))

    def best(self, sets: Numbers) -> Found:
        """The best of sets of places among the components."""
        counts = kernels.subset_scores(
            self.total, self.lost, self.groups.label, self.groups.group, sets
        )
        accuracy = counts / self.groups.sizes
        worst, mean = accuracy.min(axis=1), accuracy.mean(axis=1)
        keys = (-mean.round(DIGITS), -worst.round(DIGITS))
        at = int(np.lexsort((np.arange(len(sets)), *keys))[0])
        chosen = tuple(self.among[place] for place in sets[at].tolist())
        return Found(chosen, float(worst[at]), float(mean[at]))


def spurious_scores(effects: Effects, heads: ArrayLike, n_cue: int) -> Wide:
    """How much each head varies along what should not matter, and not along what should, `[head]`.

    Variance along the first `n_cue` of the effects' directions less that along the others, which
    are those of `cue_directions`. No label of an image is used.

    Raises:
        ArgumentError: heads that are no whole numbers, or more directions of a cue than there are.
        SelectionError: a component that is not there.
    """
    chosen = places("component", heads, effects.shares.shape[1])
    n_direction = effects.shares.shape[2]
    if not 1 <= single("n_cue", n_cue) <= n_direction:
        message = f"n_cue is 1 to {n_direction}, the number of directions, not {n_cue}"
        raise ArgumentError(message)
    variance = effects.shares[:, chosen].astype(np.float64).var(axis=0)
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
        ArgumentError: one text alone, which differs from nothing; cues that are alike; classes that
            differ in nothing but the cue; vectors that are not finite or of different widths.
    """
    classes, cues = _texts("classes", classes), _texts("cues", cues)
    if classes.shape[1] != cues.shape[1]:
        message = f"axis `d_embed` is {classes.shape[1]} in classes but {cues.shape[1]} in cues"
        raise ArgumentError(message)
    u = _span(cues, _length(cues))
    if not len(u):
        message = "the cues do not differ: give texts that say different things"
        raise ArgumentError(message)
    v = _span(classes - classes @ u.T @ u, _length(classes))
    if not len(v):
        message = "the classes do not differ in anything but the cue"
        raise ArgumentError(message)
    return u, v


def _texts(what: str, given: ArrayLike) -> Wide:
    """Two texts at least, `[text, d_embed]`."""
    texts = real(f"vectors of {what}", given).astype(np.float64)
    finite(f"vectors of {what}", texts)
    n_text = len(texts) if texts.ndim > 1 else texts.ndim
    if n_text < 2:
        message = f"{what} are two texts at least, not {n_text}: one alone differs from nothing"
        raise ArgumentError(message)
    if texts.ndim != 2:
        message = f"vectors of {what} are [text, d_embed], not {list(texts.shape)}"
        raise ArgumentError(message)
    return texts


def _length(texts: Wide) -> float:
    return float(np.linalg.norm(texts, axis=1).max())


def _span(texts: Wide, scale: float) -> Wide:
    """Unit vectors that span differences of texts, those that are no rounding of their length."""
    _, lengths, vectors = np.linalg.svd(texts[1:] - texts[0], full_matrices=False)
    return np.asarray(vectors[lengths > ALIKE * max(scale, lengths.max(initial=0.0))])
