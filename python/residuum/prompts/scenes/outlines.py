"""Which pixels a shape covers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from residuum.prompts.scenes.pictures import SIDE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Floats = "NDArray[np.float64]"

# With these all shapes of one radius cover about as much, 2.15 radius^2: size tells nothing.
_DISC, _SQUARE, _TRIANGLE, _ARM = 0.83, 0.735, 1.04, 0.32


def _circle(x: NDArray[np.float64], y: NDArray[np.float64], r: NDArray[np.float64]) -> object:
    return x**2 + y**2 <= (_DISC * r) ** 2


def _square(x: NDArray[np.float64], y: NDArray[np.float64], r: NDArray[np.float64]) -> object:
    return np.maximum(abs(x), abs(y)) <= _SQUARE * r


def _triangle(x: NDArray[np.float64], y: NDArray[np.float64], r: NDArray[np.float64]) -> object:
    half = _TRIANGLE * r
    return (abs(y) <= half) & (abs(x) <= (y + half) / 2)


def _cross(x: NDArray[np.float64], y: NDArray[np.float64], r: NDArray[np.float64]) -> object:
    long, short = np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y))
    return (long <= r) & (short <= _ARM * r)


_OUTLINES: dict[str, Callable[..., NDArray[np.bool_]]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "cross": _cross,
}


def covered(
    shapes: NDArray[np.str_], centres: NDArray[np.float64], radii: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """The pixels whose middle lies within a shape. bool [example, SIDE, SIDE].

    Args:
        shapes: words. [example].
        centres: pixels from the middle of the first pixel, down and to the right. [example, 2].
        radii: pixels. [example].
    """
    along = np.arange(SIDE)
    y = along[:, None] - centres[:, 0, None, None]  # [example, SIDE, 1]
    x = along - centres[:, 1, None, None]  # [example, 1, SIDE]
    masks = np.zeros((len(shapes), SIDE, SIDE), dtype=bool)
    for name in np.unique(shapes).tolist():
        of = shapes == name
        masks[of] = _OUTLINES[name](x[of], y[of], radii[of, None, None])
    return masks
