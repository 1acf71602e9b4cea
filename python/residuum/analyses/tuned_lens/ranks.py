"""Statistics of ranks: correlation, and how well scores tell two kinds apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray


def spearman(x: NDArray[Any], y: NDArray[Any]) -> float | None:
    """Correlation of ranks, equal values sharing theirs; None where one does not vary."""
    if not len(x):
        return None
    x, y = (ranks(values) for values in (x, y))
    x, y = x - x.mean(), y - y.mean()
    size = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / size if size else None


def auroc(low: NDArray[Any], high: NDArray[Any]) -> float:
    """The chance that one of `high` is above one of `low`; equal ones count half."""
    together = ranks(np.concatenate([low, high]))
    above = together[len(low) :].sum() - len(high) * (len(high) + 1) / 2
    return float(above / (len(low) * len(high)))


def ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    """From 1; equal values share the mean of theirs."""
    _, place, n = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(n)
    return np.asarray((ends - (n - 1) / 2)[place])
