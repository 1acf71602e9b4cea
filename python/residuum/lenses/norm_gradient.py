"""Back through a model's final norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.kernels import Norm

    Floats = NDArray[np.float32]


def norm_gradient(norm: Norm, x: Floats, gradient: Floats) -> Floats:
    """From the gradient by normed rows to that by the rows `[row, d_model]`, in its place.

    With u the row over its divisor, and centred where the norm centres:
    dx = (g - u mean(g u) - mean(g)) / divisor, the last mean only where it centres.
    """
    if norm.kind == "none":
        return gradient
    divisor = norm.scale(x)[:, None]
    u = x - x.mean(1, keepdims=True) if norm.kind == "layer_norm" else x.copy()
    u /= divisor
    if norm.weight is not None:
        gradient *= np.asarray(norm.weight, np.float32) + np.float32(norm.offset)
    if norm.kind == "layer_norm":
        gradient -= gradient.mean(1, keepdims=True)
    along = np.einsum("ri,ri->r", gradient, u)[:, None] / np.float32(x.shape[1])
    gradient -= u * along
    gradient /= divisor
    return gradient
