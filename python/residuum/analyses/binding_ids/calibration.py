"""Accuracies over candidates, plain and calibrated by medians.

Calibration takes from each candidate's log-prob its median over some rows, so that a candidate that
is liked in any case does not win for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]


def medians(logprob: Floats) -> NDArray[np.float64]:
    """Median of each candidate over rows, `[row, candidate]` -> `[candidate]`."""
    return np.asarray(np.median(logprob, axis=0))


def chosen(logprob: Floats, shift: Floats | None = None) -> NDArray[np.int64]:
    """The likeliest candidate of each row, `[..., candidate]` -> `[...]`, less a shift of each."""
    return np.asarray((logprob if shift is None else logprob - shift).argmax(-1))


def share(right: NDArray[np.bool_]) -> float:
    """How many are true; NaN of none."""
    return float(right.mean()) if right.size else float("nan")
