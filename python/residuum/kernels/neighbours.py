"""The rows nearest to queries, exactly: of arrays, and of a site."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from residuum import _residuum
from residuum.kernels.arrays import MEMORY, Floats, floats, same_axis
from residuum.store import SiteArray


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest rows of each query, best first.

    Attributes:
        rows: int64 `[query, k]`, with k no more than there are rows; -1 where NaN or infinity left
            fewer to compare.
        scores: float32 `[query, k]`: cosine, inner product or distance; NaN where there is no row.
    """

    rows: NDArray[np.int64]
    scores: Floats


def knn(x: ArrayLike, queries: ArrayLike, k: int, *, metric: str = "cosine") -> Neighbours:
    """Find the rows of `x [row, d]` nearest to each of `queries [query, d]`, exactly.

    Args:
        x: `[row, d]`.
        queries: `[query, d]`.
        k: length of each list; the number of rows if that is less.
        metric: "cosine" or "dot" (larger is nearer), or "l2" (smaller is nearer).

    Raises:
        ArgumentError: axes that do not fit, or an unknown metric.
    """
    rows, asked = floats("x", x, 2), floats("queries", queries, 2)
    same_axis("d", ("x", rows.shape[1]), ("queries", asked.shape[1]))
    return _neighbours(*_residuum.knn(rows, asked, k, metric))


def site_knn(
    site: SiteArray,
    layer: int | None,
    queries: ArrayLike,
    k: int,
    *,
    metric: str = "cosine",
    memory_bytes: int = MEMORY,
) -> Neighbours:
    """Find the rows of one layer nearest to `queries [query, d]`; heads are part of the row.

    Raises:
        SiteError: the layer was not captured.
        ArgumentError: axes that do not fit, an unknown metric, or a budget below one row.
    """
    asked = floats("queries", queries, 2)
    same_axis("d", (site.name, site.row_len), ("queries", asked.shape[1]))
    found = _residuum.site_knn(
        site.core, site.one_layer(layer), asked, k, metric, memory_bytes=memory_bytes
    )
    return _neighbours(*found)


def _neighbours(rows: NDArray[np.uint64], scores: Floats) -> Neighbours:
    # The core's "no row" is the largest uint64, which is -1 in the same bits.
    return Neighbours(rows.view(np.int64), scores)
