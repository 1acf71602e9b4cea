"""Small languages of made-up words, which a model of some 100,000 weights learns in a minute.

A world has words, data sets of items with classes, and sequences to train on: a first word, then
demonstrations `item <sep> label`. Everything is one token a word, so that text and token ids are
the same thing and prompts of a world are built and captured like any other.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from residuum.prompts.demonstrations.dataset import Dataset, Item, Template

Ids: TypeAlias = NDArray[np.int64]
Phase: TypeAlias = Literal["true", "lying"]
"""A corpus in which all labels are true, or one in which some are not (`World.relabel`)."""

BOS, SEP, DOT = "<bos>", "<sep>", "."


@dataclass(frozen=True)
class World:
    """A language to learn.

    Attributes:
        name: of the world.
        words: by token id; the first one, `<bos>`, opens every sequence.
        labels: int64 `[dataset, class]`, token ids.
        items: int64 `[dataset, class, item, word]`, token ids.
        n_demo: demonstrations of a sequence.
        end: word that ends a demonstration, or None.
        repeats: whether a training sequence may have an item twice; prompts never do.
        relabel: labels shown in place of true ones, in a lying corpus: takes the generator and true
            classes int64 `[sequence, demo]`.
    """

    name: str
    words: tuple[str, ...]
    labels: Ids
    items: Ids
    n_demo: int
    end: str | None
    repeats: bool
    relabel: Callable[[Generator, Ids], Ids]

    @property
    def n_class(self) -> int:
        """Classes of each data set."""
        return int(self.labels.shape[1])

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """The data sets `set0`, `set1`, …, to build prompts of."""
        return tuple(self._dataset(number) for number in range(len(self.labels)))

    def _dataset(self, number: int) -> Dataset:
        end = "" if self.end is None else f" {self.end}"
        labels = tuple(self.words[token] for token in self.labels[number])
        template = Template("words", f"{{text}} {SEP} ", labels, end=end, separator=" ")
        items = tuple(
            Item({"text": " ".join(self.words[token] for token in item)}, label)
            for label, of_class in enumerate(self.items[number])
            for item in of_class
        )
        return Dataset(f"set{number}", items, (template,))

    def corpus(self, rng: Generator, n: int, phase: Phase) -> tuple[Ids, Ids]:
        """Sequences to train on, each of one data set.

        Returns:
            token ids int64 `[sequence, token]`, and the positions of the labels `[demo]`, the same
            in all sequences.
        """
        number = rng.integers(len(self.labels), size=n)
        true = rng.integers(self.n_class, size=(n, self.n_demo))
        n_item = self.items.shape[2]
        if self.repeats:
            which = rng.integers(n_item, size=true.shape)
        else:
            which = _without_repeats(rng, true, self.n_class, n_item)
        shown = true if phase == "true" else self.relabel(rng, true)
        # [sequence, demo, word]
        demos = [
            self.items[number[:, None], true, which],
            np.full((n, self.n_demo, 1), self.words.index(SEP)),
            self.labels[number[:, None], shown][:, :, None],
        ]
        if self.end is not None:
            demos.append(np.full((n, self.n_demo, 1), self.words.index(self.end)))
        whole = np.concatenate(demos, axis=2)
        length, place = whole.shape[2], self.items.shape[3] + 1
        ids = np.concatenate([np.zeros((n, 1), np.int64), whole.reshape(n, -1)], axis=1)
        return ids, 1 + place + length * np.arange(self.n_demo)


def curve_world() -> World:
    """One data set of 4 classes x 24 items, 8 demonstrations; one cyclic shift for a whole lie.

    Of the lying corpus 0.6 is true, each sequence as a whole.
    """

    def relabel(rng: Generator, true: Ids) -> Ids:
        shift = rng.integers(1, 4, size=(len(true), 1))
        lies = rng.random((len(true), 1)) >= 0.6
        return np.where(lies, (true + shift) % 4, true)

    words, labels, items = _vocabulary(1, 4, 24, (BOS, SEP, DOT))
    return World("curve", words, labels, items[..., None], 8, DOT, repeats=True, relabel=relabel)


def model_a_world() -> World:
    """3 data sets x 4 classes x 16 items of one word, 16 demonstrations.

    In the lying corpus each class by itself keeps its label with probability one half, else has any
    label for the sequence, so that only a demonstration of the same class tells its label.
    """
    words, labels, items = _vocabulary(3, 4, 16, (BOS, SEP))
    return World(
        "model_a",
        words,
        labels,
        items[..., None],
        16,
        None,
        repeats=False,
        relabel=_class_by_class,
    )


def model_a_shared_world() -> World:
    """As A, but its three data sets have the same four label words.

    A word then stands for one class whatever the items, and what copies it serves all data sets.
    """
    own = model_a_world()
    return replace(own, name="model_a_shared", labels=np.repeat(own.labels[:1], 3, axis=0))


def model_b_world() -> World:
    """As A, but items are of two words, each of one of 4 categories: their sum is the class.

    The words are those of A's items; every pair of a data set's words is an item.
    """
    words, labels, tokens = _vocabulary(3, 4, 16, (BOS, SEP))
    # All pairs of words whose categories sum to the class, [dataset, class, pair, 2].
    items = np.stack(
        [
            np.concatenate([_pairs(of[first], of[(label - first) % 4]) for first in range(4)])
            for of in tokens
            for label in range(4)
        ]
    ).reshape(3, 4, -1, 2)
    return World("model_b", words, labels, items, 16, None, repeats=True, relabel=_class_by_class)


def _without_repeats(rng: Generator, label: Ids, n_class: int, n_item: int) -> Ids:
    """An item for each demonstration, int64 `[sequence, demo]`: each of a class once, if it can."""
    order = rng.random((len(label), n_class, n_item)).argsort(axis=2)
    is_class = label[:, :, None] == np.arange(n_class)  # [sequence, demo, class]
    earlier = np.take_along_axis(is_class.cumsum(1) - 1, label[:, :, None], axis=2)[:, :, 0]
    return np.asarray(order[np.arange(len(label))[:, None], label, earlier % n_item])


def _pairs(first: Ids, second: Ids) -> Ids:
    grid = np.meshgrid(first, second, indexing="ij")
    return np.stack([axis.ravel() for axis in grid], axis=1)


def _class_by_class(rng: Generator, true: Ids) -> Ids:
    n, n_class = len(true), 4
    keeps = rng.random((n, n_class)) < 0.5
    other = rng.integers(n_class, size=(n, n_class))
    meaning = np.where(keeps, np.arange(n_class), other)  # [sequence, class]
    return np.asarray(np.take_along_axis(meaning, true, axis=1))


def _vocabulary(
    n_dataset: int, n_class: int, n_item: int, special: tuple[str, ...]
) -> tuple[tuple[str, ...], Ids, Ids]:
    """Words, labels `[dataset, class]`, and item words `[dataset, class, item]`."""
    sets = range(n_dataset)
    labels = [f"d{d}label{c}" for d in sets for c in range(n_class)]
    items = [f"d{d}c{c}i{i}" for d in sets for c in range(n_class) for i in range(n_item)]
    first = len(special)
    label_ids = first + np.arange(len(labels)).reshape(n_dataset, n_class)
    item_ids = first + len(labels) + np.arange(len(items)).reshape(n_dataset, n_class, n_item)
    return (*special, *labels, *items), label_ids, item_ids
