"""Clusters of rows by k-means: of arrays, and of a site."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from residuum import _residuum
from residuum.kernels.arrays import MEMORY, Floats, floats, same_axis
from residuum.store import SiteArray


@dataclass(frozen=True, eq=False)
class Kmeans:
    """Clusters of rows.

    Attributes:
        centres: float32 `[cluster, d]`.
        labels: int32 `[row]`, the nearest centre; -1 for rows with NaN or infinity.
        distances: float32 `[row]`, to that centre; NaN where there is none.
        inertia: sum of squared distances.
        n_iteration: moves of the centres in the run that was kept.
        n_sample: rows behind the centres.
    """

    centres: Floats
    labels: NDArray[np.int32]
    distances: Floats
    inertia: float
    n_iteration: int
    n_sample: int


def kmeans(
    x: ArrayLike,
    k: int,
    *,
    start: ArrayLike | None = None,
    seed: int = 0,
    restarts: int = 4,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
) -> Kmeans:
    """Cluster rows `[row, d]` by Lloyd's algorithm from k-means++ starts, or from given centres.

    Args:
        x: `[row, d]`.
        k: number of clusters.
        start: `[k, d]`, the centres to start from; there is one run then, and `seed` and `restarts`
            say nothing.
        seed: the same seed gives the same clusters.
        restarts: runs from different starts, of which the one with the least inertia is kept.
        max_iterations: moves of the centres in one run, at most.
        tolerance: a run ends when the squared move of the centres is below this share of the mean
            variance of the features.

    Raises:
        ArgumentError: fewer finite rows than clusters, or a `start` that is not `[k, d]`.
    """
    rows = floats("x", x, 2)
    centres = None if start is None else floats("start", start, 2)
    if centres is not None:
        same_axis("d", ("x", rows.shape[1]), ("start", centres.shape[1]))
    found = _residuum.kmeans(
        rows,
        k,
        centres,
        seed=seed,
        n_init=restarts,
        max_iter=max_iterations,
        tol=tolerance,
    )
    return _kmeans(found)


def site_kmeans(
    site: SiteArray,
    layer: int | None,
    k: int,
    *,
    seed: int = 0,
    restarts: int = 4,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
    memory_bytes: int = MEMORY,
) -> Kmeans:
    """Cluster all rows of one layer of a site; heads are part of the row.

    Where the rows exceed the budget, the centres come from evenly spaced rows that fit
    (`n_sample`); labels and distances are always those of all rows.

    Raises:
        SiteError: the layer was not captured.
        ArgumentError: fewer finite rows than clusters, or a budget below one row.
    """
    found = _residuum.site_kmeans(
        site.core,
        site.one_layer(layer),
        k,
        seed=seed,
        n_init=restarts,
        max_iter=max_iterations,
        tol=tolerance,
        memory_bytes=memory_bytes,
    )
    return _kmeans(found)


def _kmeans(found: dict[str, Any]) -> Kmeans:
    # The core's "no cluster" is the largest uint32, which is -1 in the same bits.
    return Kmeans(**{**found, "labels": found["labels"].view(np.int32)})
