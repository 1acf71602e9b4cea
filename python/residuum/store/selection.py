"""What `rows=`, `layers=` and `heads=` may be, and what they mean: numpy's rules.

An integer drops its axis; a slice, list, array, boolean mask or Arrow column keeps it. Negative
numbers count from the end. Everything is checked here; the core gets plain numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, NoReturn, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from residuum.errors import SelectionError, SiteError
from residuum.store.show import count

HEAD_AXES: tuple[str, ...] = ("head", "kv_head")

Selector: TypeAlias = (
    int | slice | range | Sequence[int] | NDArray[Any] | pa.Array | pa.ChunkedArray | None
)
Key: TypeAlias = Selector | EllipsisType | tuple[Selector | EllipsisType, ...]


@dataclass(frozen=True)
class Axis:
    """The axis that a selector is about: its name, its length and the array it belongs to."""

    name: str
    length: int
    site: str

    def refuse(self, what: str) -> NoReturn:
        """Raise an error that names the axis and its length."""
        raise SelectionError(self._about(what))

    def lacks(self, number: int) -> NoReturn:
        """Raise the error of a number out of range; a layer or head is missing like a site."""
        error = SiteError if self.name in ("layer", *HEAD_AXES) else SelectionError
        raise error(self._about(f"{number} is out of range"))

    def _about(self, what: str) -> str:
        return f"{what} for axis `{self.name}` of {self.site}, whose length is {self.length}"


@dataclass(frozen=True)
class Picked:
    """A checked selection along one axis.

    Attributes:
        index: (start, stop) or uint64 `[n]`.
        n: number of picked places.
        drop: whether the axis goes away because it was asked for by a single number.
    """

    index: tuple[int, int] | NDArray[np.uint64]
    n: int
    drop: bool = False

    @property
    def key(self) -> int | slice | NDArray[np.uint64]:
        """The same selection as a key of a numpy array."""
        if isinstance(self.index, tuple):
            return slice(*self.index)
        return int(self.index[0]) if self.drop else self.index

    def is_whole(self, length: int) -> bool:
        """Whether this is all of an axis of that length, in order."""
        return isinstance(self.index, tuple) and self.index == (0, length) and not self.drop

    def tolist(self) -> list[int]:
        """The picked places as a list."""
        return list(range(*self.index)) if isinstance(self.index, tuple) else self.index.tolist()


def pick(selector: Selector, axis: Axis) -> Picked:
    """Check a selector against its axis.

    Raises:
        SiteError: a layer or head out of range.
        SelectionError: another number out of range, a mask of the wrong length, nulls in a column,
            or no selector.
    """
    if selector is None:
        return Picked((0, axis.length), axis.length)
    if isinstance(selector, slice):
        return _slice(selector, axis)
    array = _array(selector, axis)
    if array.ndim == 0 and array.dtype.kind in "iu":
        return Picked(_checked(array.reshape(1), axis), 1, drop=True)
    if array.ndim != 1:
        axis.refuse(f"a selector of {array.ndim} axes cannot be used")
    if array.dtype == bool:
        return _mask(array, axis)
    if not array.size:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        axis.refuse(f"numbers of type {array.dtype} cannot be used")
    return Picked(_checked(array, axis), array.size)


def spread(key: Key, axes: Sequence[Axis]) -> list[Selector]:
    """A selector for every axis from what stands in brackets; axes not named are taken whole.

    Raises:
        SelectionError: more selectors than axes, a second `...`, or a new axis.
    """
    keys = key if isinstance(key, tuple) else (key,)
    dots = [place for place, one in enumerate(keys) if one is Ellipsis]
    if len(dots) > 1:
        message = f"{len(dots)} `...` in one selection: only one can stand for the other axes"
        raise SelectionError(message)
    n_given = len(keys) - len(dots)
    n_whole = len(axes) - n_given
    if n_whole < 0:
        known = ", ".join(axis.name for axis in axes)
        message = f"{n_given} axes are selected on, but {axes[0].site} has {len(axes)}: {known}"
        raise SelectionError(message)
    at = dots[0] if dots else len(keys)
    selectors = [*keys[:at], *[slice(None)] * n_whole, *keys[at + 1 :]]
    for axis, selector in zip(axes, selectors, strict=True):
        if selector is None:
            axis.refuse("None, which would make a new axis, cannot be used")
    return selectors


def _slice(selector: slice, axis: Axis) -> Picked:
    start, stop, step = selector.indices(axis.length)
    if step == 1:
        return Picked((start, max(start, stop)), max(0, stop - start))
    index = np.arange(start, stop, step, dtype=np.int64).astype(np.uint64)
    return Picked(index, index.size)


def _mask(mask: NDArray[np.bool_], axis: Axis) -> Picked:
    if mask.size != axis.length:
        axis.refuse(f"a mask of length {mask.size} cannot be used")
    index = np.flatnonzero(mask).astype(np.uint64)
    return Picked(index, index.size)


def _array(selector: object, axis: Axis) -> NDArray[Any]:
    if isinstance(selector, pa.Array | pa.ChunkedArray):
        if selector.null_count:
            axis.refuse(
                f"a column with {count(selector.null_count, 'null')} cannot be used (leave them "
                "out, as in WHERE row IS NOT NULL)"
            )
        whole = selector.combine_chunks() if isinstance(selector, pa.ChunkedArray) else selector
        return np.asarray(whole.to_numpy(zero_copy_only=False))
    return np.asarray(selector)


def _checked(index: NDArray[Any], axis: Axis) -> NDArray[np.uint64]:
    """Non-negative places as contiguous uint64."""
    if not index.size:
        return np.zeros(0, np.uint64)
    low, high = int(index.min()), int(index.max())
    if low < -axis.length or high >= axis.length:
        axis.lacks(high if high >= axis.length else low)
    if low < 0:
        index = np.where(index < 0, index + axis.length, index)
    return np.ascontiguousarray(index, dtype=np.uint64)
