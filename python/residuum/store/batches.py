"""One epoch over the rows of an array: the order of rows, and windows cut into batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

WINDOW_BYTES = 64 << 20


@dataclass(frozen=True)
class Order:
    """In which order rows are read: whole chunks, a window of them at a time.

    Attributes:
        n_row: rows of the array.
        chunk_rows: rows per chunk.
        window_chunks: chunks that are in memory together.
        shuffle: whether chunks, and rows inside a window, come in random order.
        seed: seed of that order.
    """

    n_row: int
    chunk_rows: int
    window_chunks: int
    shuffle: bool
    seed: int

    @classmethod
    def of(
        cls,
        n_row: int,
        chunk_rows: int,
        row_bytes: int,
        batch_rows: int,
        *,
        shuffle: bool,
        seed: int,
    ) -> Self:
        """Choose a window of `WINDOW_BYTES`, but not below one batch with one chunk."""
        rows = max(batch_rows + chunk_rows, WINDOW_BYTES // max(1, row_bytes))
        return cls(n_row, chunk_rows, max(1, rows // chunk_rows), shuffle, seed)

    def windows(self) -> Iterator[NDArray[np.int64]]:
        """Yield the row numbers of each window, int64 `[row]`."""
        n_chunk = -(-self.n_row // self.chunk_rows)
        random = np.random.default_rng(self.seed)
        chunks = random.permutation(n_chunk) if self.shuffle else np.arange(n_chunk)
        for start in range(0, n_chunk, self.window_chunks):
            window = chunks[start : start + self.window_chunks]
            rows = (window[:, None] * self.chunk_rows + np.arange(self.chunk_rows)).ravel()
            rows = rows[rows < self.n_row]
            yield random.permutation(rows) if self.shuffle else rows


def cut(
    windows: Iterator[tuple[NDArray[np.int64], NDArray[Any]]], batch_rows: int, *, with_rows: bool
) -> Iterator[Any]:
    """Cut (row numbers, rows) windows into batches that do not end at windows."""
    rest: tuple[NDArray[np.int64], NDArray[Any]] | None = None
    for window in windows:
        rows, values = window if rest is None else _join(rest, window)
        full = len(rows) - len(rows) % batch_rows
        for start in range(0, full, batch_rows):
            batch = slice(start, start + batch_rows)
            yield (values[batch], rows[batch]) if with_rows else values[batch]
        # A copy, so that what is left does not keep the whole window in memory.
        rest = (rows[full:].copy(), values[full:].copy())
    if rest is not None and len(rest[0]):
        yield (rest[1], rest[0]) if with_rows else rest[1]


def _join(
    left: tuple[NDArray[np.int64], NDArray[Any]], right: tuple[NDArray[np.int64], NDArray[Any]]
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    return np.concatenate([left[0], right[0]]), np.concatenate([left[1], right[1]])
