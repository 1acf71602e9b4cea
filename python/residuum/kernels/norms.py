"""A model's norms: applied, their divisors, and directions seen through them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from residuum import _residuum
from residuum.kernels.arrays import Floats, floats, optional


@dataclass(frozen=True, eq=False)
class Norm:
    """A model's normalisation.

    Attributes:
        kind: "layer_norm", "rms_norm" or "none".
        eps: added to the variance or mean square.
        offset: added to the gain: 1 for models that store `gain - 1`.
        weight: gain `[d_model]`; None is 1, and then `offset` is not used.
        bias: shift `[d_model]`; None is 0.
    """

    kind: str
    eps: float = 0.0
    offset: float = 0.0
    weight: ArrayLike | None = None
    bias: ArrayLike | None = None

    def apply(self, x: ArrayLike) -> Floats:
        """Normalise rows: `[row, d_model]` to float32 of the same shape.

        Raises:
            ArgumentError: axes that do not fit.
        """
        rows = floats("x", x, 2)
        out = np.empty_like(rows)
        self._core().apply(rows, out)
        return out

    def scale(self, x: ArrayLike) -> Floats:
        """The divisor of every row: `[row, d_model]` to `[row]`; what `norm_scale` holds.

        Raises:
            ArgumentError: axes that do not fit.
        """
        return self._core().scale(floats("x", x, 2))

    def fold(self, directions: ArrayLike) -> tuple[Floats, Floats]:
        """Directions seen through the norm with each row's divisor frozen.

        `norm(x) @ directions == x @ folded / scale(x)[:, None] + constant`.

        Args:
            directions: `[d_model, direction]`.

        Returns:
            folded `[d_model, direction]` and constant `[direction]`.

        Raises:
            ArgumentError: axes that do not fit.
        """
        return self._core().fold(floats("directions", directions, 2))

    def _core(self) -> _residuum.Norm:
        return _residuum.Norm(
            self.kind,
            eps=self.eps,
            offset=self.offset,
            weight=optional("weight", self.weight, 1),
            bias=optional("bias", self.bias, 1),
        )


def layer_norm(
    x: ArrayLike, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *, eps: float
) -> Floats:
    """Layer norm of `x [row, d_model]`, gain and shift `[d_model]`."""
    return Norm("layer_norm", eps, 0.0, weight, bias).apply(x)


def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, *, eps: float, offset: float = 0.0
) -> Floats:
    """Root-mean-square norm of `x [row, d_model]`, gain `[d_model]` plus `offset`."""
    return Norm("rms_norm", eps, offset, weight).apply(x)
