"""What the kernels take: arrays checked and made contiguous, and rows of a site in blocks."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from residuum.errors import ArgumentError
from residuum.store import SiteArray
from residuum.store.batches import blocks

Floats = NDArray[np.float32]

MEMORY = 512 << 20
"""Bytes that the kernels over a site use at most, unless told otherwise."""


def floats(name: str, values: ArrayLike, n_axis: int) -> Floats:
    """Values as C-contiguous float32 of `n_axis` axes, copied only where they are not.

    Raises:
        ArgumentError: another number of axes; `name` is what the message calls them.
    """
    array: NDArray[Any] = np.ascontiguousarray(values, dtype=np.float32)
    if array.ndim != n_axis:
        message = f"`{name}` has {array.ndim} axes, {list(array.shape)}, but needs {n_axis}"
        raise ArgumentError(message)
    return array


def optional(name: str, values: ArrayLike | None, n_axis: int) -> Floats | None:
    """`floats` of what need not be given."""
    return None if values is None else floats(name, values, n_axis)


def integers(name: str, values: ArrayLike) -> NDArray[np.int32]:
    """Token ids `[row]` as int32; all negative ones are -1.

    Raises:
        ArgumentError: they are not integers, not `[row]`, or too large for any vocabulary.
    """
    array: NDArray[Any] = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        message = f"`{name}` is {array.dtype} {list(array.shape)}, but must be integers [row]"
        raise ArgumentError(message)
    if array.size and array.max() > np.iinfo(np.int32).max:
        message = f"`{name}` has {array.max()}, which is beyond every vocabulary"
        raise ArgumentError(message)
    return np.ascontiguousarray(np.maximum(array, -1), dtype=np.int32)


def matrix(name: str, values: ArrayLike) -> tuple[Floats, bool]:
    """A matrix as C-contiguous float32, and whether that is its transpose.

    Raises:
        ArgumentError: it has not two axes.
    """
    array: NDArray[Any] = np.asarray(values)
    if array.ndim == 2 and array.T.flags.c_contiguous and not array.flags.c_contiguous:
        return floats(name, array.T, 2), True
    return floats(name, array, 2), False


def unembedding(w_u: ArrayLike, x: Floats, reference: Floats | None = None) -> tuple[Floats, bool]:
    """The unembedding as a matrix, and whether it lies transposed.

    Raises:
        ArgumentError: its `d_model` is not that of `x` and `reference`, `[..., d_model]`.
    """
    weight, transposed = matrix("w_u", w_u)
    d_model = ("w_u", weight.shape[1] if transposed else weight.shape[0])
    for name, rows in (("x", x), ("reference", reference)):
        if rows is not None:
            same_axis("d_model", (name, rows.shape[-1]), d_model)
    return weight, transposed


def same_axis(axis: str, left: tuple[str, int], right: tuple[str, int]) -> None:
    """Check that two arrays, each as (name, length of the axis), agree.

    Raises:
        ArgumentError: they do not.
    """
    if left[1] != right[1]:
        message = f"axis `{axis}` is {left[1]} in {left[0]} but {right[1]} in {right[0]}"
        raise ArgumentError(message)


def site_blocks(site: SiteArray, row_bytes: int, budget: int) -> list[slice]:
    """Rows of a site in blocks within a budget; one of no rows where there are none.

    Raises:
        ArgumentError: a budget below one row.
    """
    if budget < row_bytes:
        message = f"memory_bytes is {budget}, but one row of `{site.name}` takes {row_bytes}"
        raise ArgumentError(message)
    return list(blocks(site.n_row, row_bytes, budget)) or [slice(0, 0)]
