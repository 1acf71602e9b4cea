"""One epoch over the rows of an array: their order, cut into batches, read ahead of who asks.

Order ── row numbers of windows, of batches ──▶ ahead ── reads on a thread of its own ──▶ batches

`blocks` cuts rows in their order for those who read them within a budget.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

WINDOW_BYTES = 128 << 20
"""Bytes of a window, unless a batch is larger."""

AHEAD = 2
"""Batches that are read before they are asked for."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Order:
    """In which order rows come: whole chunks, a window of them at a time, mixed in the window.

    Attributes:
        n_row: rows of the array.
        chunk_rows: rows per chunk.
        window_chunks: chunks whose rows are mixed with one another.
        batch_rows: rows per batch.
        shuffle: whether chunks, and rows inside a window, come in random order.
        seed: seed of that order.
    """

    n_row: int
    chunk_rows: int
    window_chunks: int
    batch_rows: int
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
        window_rows: int | None,
        shuffle: bool,
        seed: int,
    ) -> Self:
        """Choose a window of `WINDOW_BYTES`, but not below one batch with one chunk."""
        if window_rows is None:
            window_rows = max(batch_rows + chunk_rows, WINDOW_BYTES // max(1, row_bytes))
        window_chunks = max(1, window_rows // chunk_rows)
        return cls(n_row, chunk_rows, window_chunks, batch_rows, shuffle, seed)

    @property
    def n_chunk(self) -> int:
        """Chunks of the array."""
        return -(-self.n_row // self.chunk_rows)

    def windows(self, first_row: int = 0) -> Iterator[tuple[Rows, Rows]]:
        """Yield the chunks of each window and its rows in order, int64.

        Of the first `first_row` rows of the epoch nothing is yielded.
        """
        chunks = np.arange(self.n_chunk)
        if self.shuffle:
            chunks = np.random.default_rng(self.seed).permutation(chunks)
        position = 0
        for number, start in enumerate(range(0, self.n_chunk, self.window_chunks)):
            window = chunks[start : start + self.window_chunks]
            rows = (window[:, None] * self.chunk_rows + np.arange(self.chunk_rows)).ravel()
            rows = rows[rows < self.n_row]
            skipped = max(0, first_row - position)
            position += len(rows)
            if skipped < len(rows):
                if self.shuffle:
                    # A generator for each window, so that an epoch can be taken up in the middle.
                    rows = np.random.default_rng([self.seed, number]).permutation(rows)
                yield window, rows[skipped:]

    def batches(self, first_row: int = 0) -> Iterator[tuple[Rows, Rows]]:
        """Yield the rows of each batch, and the chunks that it is the first to touch."""
        rest: Rows = np.zeros(0, np.int64)
        fresh: list[Rows] = []
        for chunks, window in self.windows(first_row):
            rows = np.concatenate([rest, window])
            fresh.append(chunks)
            full = len(rows) - len(rows) % self.batch_rows
            for start in range(0, full, self.batch_rows):
                yield rows[start : start + self.batch_rows], _joined(fresh)
                fresh = []
            rest = rows[full:]
        if len(rest):
            yield rest, _joined(fresh)


def _joined(chunks: list[Rows]) -> Rows:
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int64)


def cut(windows: Iterable[tuple[Rows, NDArray[Any]]], batch_rows: int) -> Iterator[Any]:
    """Cut (row numbers, rows) windows into batches that do not end at windows."""
    rest: tuple[Rows, NDArray[Any]] | None = None
    for window in windows:
        rows, values = window if rest is None else _join(rest, window)
        full = len(rows) - len(rows) % batch_rows
        for start in range(0, full, batch_rows):
            batch = slice(start, start + batch_rows)
            yield rows[batch], values[batch]
        # A copy, so that what is left does not keep the whole window in memory.
        rest = (rows[full:].copy(), values[full:].copy())
    if rest is not None and len(rest[0]):
        yield rest


def _join(
    left: tuple[Rows, NDArray[Any]], right: tuple[Rows, NDArray[Any]]
) -> tuple[Rows, NDArray[Any]]:
    return np.concatenate([left[0], right[0]]), np.concatenate([left[1], right[1]])


def ahead(
    parts: Iterable[tuple[Rows, Rows]], read: Callable[[Rows, Rows], NDArray[Any]], n: int
) -> Iterator[tuple[Rows, NDArray[Any]]]:
    """Yield (rows, what `read` gives for them) in order, with `n` reads begun ahead.

    `parts` are the two arguments of `read`, rows first. An error of a read is raised where its turn
    comes; who stops early waits for the read at hand and no other.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="residuum-stream")
    waiting: deque[tuple[Rows, Future[NDArray[Any]]]] = deque()
    try:
        for rows, chunks in parts:
            waiting.append((rows, pool.submit(read, rows, chunks)))
            if len(waiting) > n:
                yield _taken(waiting)
        while waiting:
            yield _taken(waiting)
    finally:
        pool.shutdown(cancel_futures=True)


def _taken(waiting: deque[tuple[Rows, Future[NDArray[Any]]]]) -> tuple[Rows, NDArray[Any]]:
    rows, values = waiting.popleft()
    return rows, values.result()


def blocks(n_row: int, row_bytes: int, budget: int) -> Iterator[slice]:
    """Cut rows so that one block of `row_bytes` per row fits the budget; at least one row each."""
    size = max(1, budget // max(1, row_bytes))
    for start in range(0, n_row, size):
        yield slice(start, min(start + size, n_row))
