"""What a capture noted of each feature, so that no activation need be read for it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from residuum.store.site_array import SiteArray


@dataclass(frozen=True)
class SiteStatistics:
    """Statistics of one layer of a site, over its finite values.

    Attributes:
        n_row: rows they are over.
        min: least value of each feature, float32, `[d_model]`, `[head, d_head]` or as the site is;
            NaN where there is none. Likewise all others.
        max: greatest value.
        mean: mean, float64.
        std: standard deviation, float64, by `n_row`.
    """

    n_row: int
    min: NDArray[np.float32]
    max: NDArray[np.float32]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def of(cls, kept: dict[str, Any], site: "SiteArray") -> "SiteStatistics":
        """What the core read, in the site's own axes."""
        inner = site.row_shape
        n_row: int = kept["n_row"]
        std = np.sqrt(kept["m2"] / n_row) if n_row else np.full_like(kept["m2"], np.nan)
        return cls(
            n_row=n_row,
            min=kept["min"].reshape(inner),
            max=kept["max"].reshape(inner),
            mean=kept["mean"].reshape(inner),
            std=std.reshape(inner),
        )
