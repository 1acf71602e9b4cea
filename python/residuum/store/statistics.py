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
        n_row: rows of the layer.
        min: least value of each feature, float32, `[d_model]`, `[head, d_head]` or as the site is;
            NaN where there is none. Likewise all others.
        max: greatest value.
        mean: mean, float64.
        std: standard deviation, float64, by the number of rows. Both are exact where all values
            are finite; else a chunk counts with all of its rows.
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
        return cls(
            n_row=kept["n_row"],
            min=kept["min"].reshape(inner),
            max=kept["max"].reshape(inner),
            mean=kept["mean"].reshape(inner),
            std=kept["std"].reshape(inner),
        )
