"""What a lens is trained on and what it is judged by: whole examples, never single tokens."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.store import Store

    Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows of distinct examples: `first[i]` and the `n[i]` rows from there on."""

    first: Rows
    n: Rows

    def __len__(self) -> int:
        """How many examples."""
        return len(self.first)

    @property
    def n_row(self) -> int:
        """Rows of all of them."""
        return int(self.n.sum())

    def taken(self, which: Rows) -> Examples:
        """Some of them."""
        return Examples(self.first[which], self.n[which])

    def rows(self) -> Rows:
        """Their rows, example by example."""
        spans = [np.arange(n) + first for first, n in zip(self.first, self.n, strict=True)]
        return np.concatenate(spans) if spans else np.empty(0, np.int64)


def stored_examples(store: Store) -> Examples:
    """The examples that have rows, repeated inputs once, in the order of their rows."""
    table = store.examples.to_table(columns=["first_row", "n_row"])
    first, n = (table[name].fill_null(0).to_numpy() for name in ("first_row", "n_row"))
    there = np.flatnonzero(n)
    first, index = np.unique(first[there], return_index=True)
    return Examples(first.astype(np.int64), n[there][index].astype(np.int64))


def split(examples: Examples, held_out: float, seed: int) -> tuple[Examples, Examples]:
    """To train on, and held out: a share of the examples, drawn by the seed.

    Raises:
        ArgumentError: a share that leaves nothing to train on, or nothing to judge by.
    """
    if not 0 <= held_out < 1:
        message = f"held_out is a share, from 0 to less than 1, not {held_out}"
        raise ArgumentError(message)
    n = len(examples)
    n_held = round(n * held_out)
    if n_held == n or (held_out and not n_held):
        message = (
            f"held_out={held_out} of {n} distinct examples leaves {n - n_held} to train on and "
            f"{n_held} to judge by: capture more, or give another share (0 is none)"
        )
        raise ArgumentError(message)
    order = np.random.default_rng([seed, 0]).permutation(n)
    return examples.taken(np.sort(order[n_held:])), examples.taken(np.sort(order[:n_held]))


def steps(examples: Examples, tokens: int, seed: int) -> Iterator[Rows]:
    """Numbers of the examples of one step after the other, without end.

    Each takes as many as have `tokens` rows together, at least one; when all were taken, they are
    put into another order, and the step goes on with that.
    """
    epoch, order, at = 0, np.empty(0, np.int64), 0
    while True:
        taken, n_row = [], 0
        while n_row < tokens:
            if at == len(order):
                epoch, at = epoch + 1, 0
                order = np.random.default_rng([seed, epoch]).permutation(len(examples))
            taken.append(order[at])
            n_row += int(examples.n[order[at]])
            at += 1
        yield np.array(taken)


def content(store: Store, n_row: int) -> str:
    """What the examples are whose rows are among the first `n_row`: a hash of their contents.

    Two stores of the same examples in the same order have the same, also under other models, and
    repeats that come later change nothing.
    """
    table = store.examples.to_table(columns=["first_row", "content_hash"])
    first, index = np.unique(table["first_row"].fill_null(n_row).to_numpy(), return_index=True)
    hashes = table["content_hash"].take(index[first < n_row]).to_pylist()
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]
