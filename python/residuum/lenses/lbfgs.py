"""L-BFGS: the least value of a smooth function of some hundred to some thousand numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]
    Of = Callable[[Doubles], tuple[float, Doubles]]

HISTORY = 10
FIRST = 0.3
"""Length of the first step."""
FALL = 1e-4
"""Share of what the slope promises that a step has to bring (Armijo)."""


def minimise(of: Of, x: Doubles, *, evaluations: int, tolerance: float) -> tuple[Doubles, float]:
    """From `x` downhill until a step brings less than `tolerance`, relative to the value.

    Args:
        of: the value and its gradient.
        x: where to begin.
        evaluations: of the function, at most.
        tolerance: where to stop.

    Returns:
        the place, and its value.
    """
    value, gradient = of(x)
    pairs: list[tuple[Doubles, Doubles]] = []
    left = evaluations - 1
    while left > 0 and gradient.any():
        step = -_scaled(gradient, pairs)
        if gradient @ step >= 0:
            pairs.clear()
            step = -_scaled(gradient, pairs)
        found, used = _line(of, x, value, float(gradient @ step), step, left)
        left -= used
        if found is None:
            break
        moved, lower, turned = found
        fell = value - lower
        if (moved - x) @ (turned - gradient) > 0:
            pairs = [*pairs[1 - HISTORY :], (moved - x, turned - gradient)]
        x, value, gradient = moved, lower, turned
        if fell <= tolerance * abs(value):
            break
    return x, value


def _line(
    of: Of, x: Doubles, value: float, slope: float, step: Doubles, left: int
) -> tuple[tuple[Doubles, float, Doubles] | None, int]:
    """The first of ever smaller steps that goes down enough, if any; how many were looked at."""
    length = 1.0
    for used in range(1, left + 1):
        moved = x + length * step
        lower, gradient = of(moved)
        if lower <= value + FALL * length * slope:
            return (moved, lower, gradient), used
        # The lowest place of the parabola through both values with the slope, within reason.
        bend = lower - value - length * slope
        length *= float(np.clip(-0.5 * length * slope / bend, 0.1, 0.5))
    return None, left


def _scaled(gradient: Doubles, pairs: Sequence[tuple[Doubles, Doubles]]) -> Doubles:
    """The gradient times the inverse curvature that the last steps show (Nocedal 1980)."""
    if not pairs:
        return np.asarray(FIRST / np.linalg.norm(gradient) * gradient)
    q: Any = gradient.copy()
    shares = []
    for s, y in reversed(pairs):
        share = s @ q / (s @ y)
        shares.append(share)
        q -= share * y
    s, y = pairs[-1]
    q *= s @ y / (y @ y)
    for (s, y), share in zip(pairs, reversed(shares), strict=True):
        q += (share - y @ q / (s @ y)) * s
    return np.asarray(q)
