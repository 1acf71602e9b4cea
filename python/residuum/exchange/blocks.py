"""Rows in blocks that fit a budget, and numbers in another dtype without silent loss."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from residuum.exchange.rows import Rows
    from residuum.store import SiteArray

MOST_BYTES = 64 << 20  # larger blocks read no faster
_MOST = float(np.finfo(np.float32).max)


def cut(n_row: int, row_bytes: int, budget: int, chunk_rows: int = 1) -> Iterator[tuple[int, int]]:
    """(start, stop) of blocks within `budget` bytes, of whole chunks where one fits."""
    size = max(1, min(budget, MOST_BYTES) // max(1, row_bytes))
    size -= size % chunk_rows if size >= chunk_rows else 0
    for start in range(0, n_row, size):
        yield start, min(start + size, n_row)


def held_bytes(site: SiteArray, n_layer: int, dtype: np.dtype[Any]) -> int:
    """Bytes in memory for one row while it is read: as it comes, as it is written, and checks."""
    return n_layer * site.row_len * (4 + dtype.itemsize + 2)


def read(
    site: SiteArray,
    rows: Rows,
    span: tuple[int, int],
    layers: Sequence[int] | int | None,
    dtype: np.dtype[Any],
) -> NDArray[Any]:
    """Read the rows of a block, `[row, layer, ...]` or without `layer` for a single one.

    Raises:
        ArgumentError: a number that the dtype cannot hold.
    """
    source = rows.source(*span)
    if dtype == site.dtype:
        return site.read(source, layers, dtype=dtype)
    return narrowed(site.read(source, layers, dtype=np.float32), dtype, site.name)


def narrowed(values: NDArray[Any], dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    """The same numbers in another dtype, rounded.

    Raises:
        ArgumentError: a finite number that becomes infinite.
    """
    if values.dtype == dtype:
        return values
    with np.errstate(over="ignore", invalid="ignore"):
        out = values.astype(dtype)
    infinite = np.isinf(out)
    if infinite.any() and not np.isinf(values[infinite]).all():
        largest = np.abs(values[infinite & np.isfinite(values)]).max()
        message = (
            f"{what} has numbers as large as {float(largest):.4g}, which {dtype.name} cannot hold: "
            f"choose {'--dtype bfloat16 or float32' if largest <= _MOST else 'smaller numbers'}."
        )
        raise ArgumentError(message)
    return out


def let_go(array: NDArray[Any]) -> None:
    """Take the pages of a file that was mapped to be read out of this process' memory.

    They would only leave when memory is short, and count as the process' own until then.
    """
    base: Any = array
    while base is not None and not isinstance(base, mmap.mmap):
        base = getattr(base, "base", None)
    if base is not None and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
