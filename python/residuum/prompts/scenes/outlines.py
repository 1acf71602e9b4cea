"""Which pixels a shape covers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from residuum.prompts.scenes.pictures import SIDE

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from numpy.typing import NDArray

# With these all shapes of one radius cover about as much, 2.15 radius^2: size tells nothing.
_DISC, _SQUARE, _TRIANGLE, _ARM = 0.83, 0.735, 1.04, 0.32

_REACHES: dict[str, Callable[[Any, Any], Any]] = {
    "circle": lambda x, y: np.hypot(x, y) / _DISC,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) / _SQUARE,
    "triangle": lambda x, y: np.maximum(abs(y), 2 * abs(x) - y) / _TRIANGLE,
    "cross": lambda x, y: np.maximum(np.maximum(abs(x), abs(y)), np.minimum(abs(x), abs(y)) / _ARM),
}
"""The radius from which on a shape covers the point x to the right and y below its centre."""


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
        masks[of] = _REACHES[name](x[of], y[of]) <= radii[of, None, None]
    return masks
