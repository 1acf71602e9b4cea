"""Backgrounds: a pattern in two tones, moved and tinted anew for each picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from residuum.prompts.scenes.pictures import SIDE

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from residuum.prompts.scenes.world import Rgb

TINT = 0.1
"""A picture's background is brighter or darker by up to this share, in each colour."""

_Y, _X = np.mgrid[:SIDE, :SIDE].astype(np.float64)


def _wave(turns: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 0 to 1 and back in a turn."""
    up: NDArray[np.float64] = np.sin(2 * np.pi * turns) / 2 + 0.5
    return up


def _stripes(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return _wave(_X / 4 + rng.random((n, 1, 1)))


def _ripples(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    bent = _Y + 3 * _wave(_X / 12 + rng.random((n, 1, 1)))
    return _wave(bent / 6 + rng.random((n, 1, 1)))


def _grains(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.random((n, SIDE, SIDE))


def _stars(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return (rng.random((n, SIDE, SIDE)) < 0.04).astype(np.float64)  # one pixel in 25


_KINDS: dict[str, tuple[Callable[[int, np.random.Generator], NDArray[np.float64]], Rgb, Rgb]] = {
    "grass": (_stripes, (0.15, 0.4, 0.1), (0.3, 0.65, 0.25)),
    "water": (_ripples, (0.1, 0.25, 0.6), (0.25, 0.45, 0.8)),
    "sand": (_grains, (0.65, 0.55, 0.35), (0.85, 0.75, 0.55)),
    "night": (_stars, (0.05, 0.05, 0.12), (0.85, 0.85, 0.8)),
}
"""By background: pattern from 0 to 1, and the colours of 0 and 1."""


def textured(backgrounds: NDArray[np.str_], rng: np.random.Generator) -> NDArray[np.float64]:
    """Pictures of backgrounds alone, from 0 to 1 or a little more. [example, SIDE, SIDE, 3].

    Args:
        backgrounds: words. [example].
        rng: what moves and tints them.
    """
    out = np.empty((len(backgrounds), SIDE, SIDE, 3))
    for name, (pattern, dark, light) in _KINDS.items():
        of = np.flatnonzero(backgrounds == name)
        share = pattern(len(of), rng)[..., None]
        out[of] = np.asarray(dark) * (1 - share) + np.asarray(light) * share
    tint: NDArray[np.float64] = rng.uniform(1 - TINT, 1 + TINT, (len(out), 1, 1, 3))
    return out * tint
