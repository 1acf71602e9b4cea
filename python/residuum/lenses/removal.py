"""States with directions taken out of them.

What a state has along the directions is replaced by what `instead` has along them: the mean of the
states, nothing, or another row's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import ArgumentError
from residuum.replay.numbers import orthonormal

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[Any]

REMOVALS = ("mean", "zero", "resample")


def instead(states: Floats, removal: str, seed: int = 0) -> Floats:
    """What takes the place of states `[row, d_model]`: `[1, d_model]`, or of each row its own.

    Raises:
        ArgumentError: a removal that there is not, no states, or a single one, of which there is
            no other and whose mean is itself.
    """
    if removal in REMOVALS and len(states) < (1 if removal == "zero" else 2):
        message = f"removal={removal!r} of {len(states)} rows changes nothing: give two at least"
        raise ArgumentError(message)
    if removal == "mean":
        return np.asarray(states.mean(0, keepdims=True, dtype=np.float64).astype(states.dtype))
    if removal == "zero":
        return np.zeros_like(states[:1])
    if removal == "resample":
        return np.asarray(states[others(len(states), seed)])
    message = f"a removal is {', '.join(REMOVALS)}, not {removal!r}"
    raise ArgumentError(message)


def others(n: int, seed: int) -> NDArray[np.int64]:
    """For each of n rows another one, each taken once: one random cycle through all.

    Raises:
        ArgumentError: fewer than two rows.
    """
    if n < 2:
        message = f"another row is drawn for each, and there is {n}"
        raise ArgumentError(message)
    cycle = np.random.default_rng(seed).permutation(n)
    out = np.empty(n, np.int64)
    out[cycle] = np.roll(cycle, 1)
    return out


def removed(states: Floats, directions: ArrayLike, put: Floats) -> Floats:
    """States `[row, d_model]` that have along the directions what `put` has; see `instead`."""
    basis = orthonormal(directions).astype(states.dtype)
    return np.asarray(states + (put - states) @ basis.T @ basis)
