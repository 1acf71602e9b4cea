"""Numbers that a user hands over: whole ones where whole ones are meant, and real ones elsewhere.

numpy would cut 1.5 to 1, read a mask as rows 0 and 1, and count negative rows from the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import ArgumentError, SelectionError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LARGEST = float(np.finfo(np.float32).max)
"""Beyond it numbers are infinite in float32, which blocks are computed in."""


def whole(what: str, values: ArrayLike) -> NDArray[np.int64]:
    """Whole numbers as int64 `[number]`; one alone is a list of it.

    Raises:
        ArgumentError: none at all, or something else: a mask, fractions, text.
    """
    try:
        array = np.atleast_1d(np.asarray(values))
    except (ValueError, TypeError) as error:
        message = f"{what} are whole numbers, not {values!r}"
        raise ArgumentError(message) from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        hint = ": for a mask give np.flatnonzero(mask)" if array.dtype.kind == "b" else ""
        message = f"{what} are a list of whole numbers, not {values!r}{hint}"
        raise ArgumentError(message)
    if not array.size:
        message = f"the list of {what} is empty: name one at least, or leave it out for all"
        raise ArgumentError(message)
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        message = f"{what} are numbers below 2^63, not {array.max()}"
        raise ArgumentError(message)
    return array.astype(np.int64)


def single(what: str, value: object) -> int:
    """A single whole number.

    Raises:
        ArgumentError: it is none.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        message = f"{what} is a whole number, not {value!r}"
        raise ArgumentError(message)
    return int(value)


def real(what: str, values: ArrayLike) -> NDArray[Any]:
    """Real numbers as they are.

    Raises:
        ArgumentError: something else: text, None, complex numbers, lists of different lengths.
    """
    widened: Any = values
    if str(getattr(values, "dtype", "")) == "torch.bfloat16":
        widened = widened.float()  # numpy has no such numbers
    try:
        array = np.asarray(widened)
    except (ValueError, TypeError) as error:
        message = f"{what} are real numbers, not {values!r}"
        raise ArgumentError(message) from error
    except RuntimeError as error:  # of a tensor that asks for a gradient, or is on a device
        message = f"{what} are no numbers that numpy can read: {error}"
        raise ArgumentError(message) from error
    if array.dtype.kind not in "fiu" and array.dtype.name != "bfloat16":
        message = f"{what} are real numbers, not {values!r}"
        raise ArgumentError(message)
    return array


def factor(what: str, value: object) -> float:
    """A single finite number.

    Raises:
        ArgumentError: it is none.
    """
    if not isinstance(value, bool) and isinstance(value, int | float | np.integer | np.floating):
        number = float(value)
        if abs(number) <= LARGEST:
            return number
    message = f"{what} is a finite number of float32, not {value!r}"
    raise ArgumentError(message)


def rows_below(values: ArrayLike, n_row: int, path: object) -> NDArray[np.int64]:
    """Token rows of a store.

    Raises:
        ArgumentError: no whole numbers.
        SelectionError: one that the store does not have.
    """
    rows = whole("rows", values)
    outside = rows[(rows < 0) | (rows >= n_row)]
    if len(outside):
        message = f"row {outside[0]} is not in {path}: its token rows are 0 to {n_row - 1}"
        raise SelectionError(message)
    return rows


def orthonormal(directions: ArrayLike) -> NDArray[np.float64]:
    """Rows that span what directions `[d]` or `[direction, d]` span, at right angles, of length 1.

    Raises:
        ArgumentError: they are all zero, or not finite.
    """
    array = np.atleast_2d(np.asarray(directions, np.float64))
    if not np.isfinite(array).all() or not array.any():
        message = "directions are finite, and one of them at least is not zero"
        raise ArgumentError(message)
    _, s, vt = np.linalg.svd(array, full_matrices=False)
    return np.asarray(vt[s > s.max(initial=0.0) * 1e-12])
