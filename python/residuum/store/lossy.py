"""How far the numbers of an int8 site are from those that it was made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

INT8: Literal["int8"] = "int8"


@dataclass(frozen=True)
class StoredError:
    """What was lost when a site was stored as int8, measured then over all finite values.

    Attributes:
        layers: the layers that the numbers are of, in their order; empty for a site without layers,
            which has one number of each.
        relative_rms: root mean square of the error over that of the values, float64 `[layer]`; NaN
            where the store does not say.
        max_abs: largest error, float64 `[layer]`.
    """

    layers: tuple[int, ...]
    relative_rms: NDArray[np.float64]
    max_abs: NDArray[np.float64]

    @classmethod
    def of(
        cls, layers: tuple[int, ...], stated: Sequence[tuple[float, float, float]]
    ) -> "StoredError":
        """What the core read, (relative RMS, RMS, largest) of each layer."""
        numbers = np.array(stated or [(np.nan,) * 3] * max(1, len(layers)), np.float64)
        return cls(layers, numbers[:, 0].copy(), numbers[:, 2].copy())

    @property
    def worst(self) -> float:
        """The largest relative RMS error of a layer."""
        return float(self.relative_rms.max())

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "layers": list(self.layers) or None,
            "relative_rms": self.relative_rms.tolist(),
            "max_abs": self.max_abs.tolist(),
        }

    def __str__(self) -> str:
        """`lossy, RMS error 0.61 %`; of the worst layer."""
        return f"lossy, RMS error {100 * self.worst:.2g} %"
