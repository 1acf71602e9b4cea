"""Mean and covariance of features, and the principal components of the latter."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from residuum import _residuum
from residuum.errors import ArgumentError
from residuum.kernels.arrays import MEMORY, floats
from residuum.store import SiteArray


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of every feature.

    Attributes:
        count: rows taken in.
        skipped: rows left out because of NaN or infinity.
        mean: float64 `[d]`.
        variance: float64 `[d]`.
        covariance: float64 `[d, d]`, where asked for.
    """

    count: int
    skipped: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    covariance: NDArray[np.float64] | None


def moments(x: ArrayLike, *, covariance: bool = False, ddof: int = 0) -> Moments:
    """Mean, variance and covariance of rows `[row, d]`, shifted, in float64.

    Args:
        x: `[row, d]`.
        covariance: whether to keep it, `d * d` numbers.
        ddof: what is subtracted from the count in the divisor.
    """
    return Moments(**_residuum.moments(floats("x", x, 2), covariance, ddof))


def site_moments(
    site: SiteArray,
    layer: int | None,
    *,
    covariance: bool = False,
    ddof: int = 0,
    memory_bytes: int = MEMORY,
) -> Moments:
    """Moments of all rows of one layer of a site; heads are part of the row.

    Raises:
        SiteError: the layer was not captured.
        ArgumentError: a budget below one row.
    """
    found = _residuum.site_moments(
        site.core, site.one_layer(layer), covariance, ddof, memory_bytes=memory_bytes
    )
    return Moments(**found)


@dataclass(frozen=True, eq=False)
class Pca:
    """Principal components.

    Attributes:
        variances: float64 `[component]`, largest first.
        components: float64 `[component, d]`, unit vectors, the largest entry of each positive.
        total: sum of all variances.
    """

    variances: NDArray[np.float64]
    components: NDArray[np.float64]
    total: float


def pca(covariance: ArrayLike, n_component: int) -> Pca:
    """Principal components of a covariance `[d, d]`, as `moments` gives it.

    Raises:
        ArgumentError: it is not square or not finite, or has fewer features than components.
    """
    array: NDArray[np.float64] = np.ascontiguousarray(covariance, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        message = f"`covariance` is {list(array.shape)}, but must be [d, d]"
        raise ArgumentError(message)
    if n_component > array.shape[0]:
        message = f"{n_component} components were asked of {array.shape[0]} features"
        raise ArgumentError(message)
    return Pca(*_residuum.pca(array, n_component))
