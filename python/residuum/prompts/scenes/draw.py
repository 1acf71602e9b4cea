"""What both worlds draw alike: labels of which two go together, and pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import ArgumentError
from residuum.prompts.scenes.textures import textured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from residuum.prompts.scenes.world import World

NOISE = 0.06
"""Standard deviation of each pixel's own noise, of a range of 1."""


def generator(n: int, seed: int | Sequence[int]) -> np.random.Generator:
    """The generator of a set.

    Raises:
        ArgumentError: no pictures are asked for, or the seed is none.
    """
    if n < 1:
        message = f"n must be at least 1 picture, not {n}"
        raise ArgumentError(message)
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        message = f"a seed is a whole number from 0, or several of them, not {seed!r}"
        raise ArgumentError(message) from error


def check_share(name: str, value: float) -> None:
    """Refuse what is no share.

    Raises:
        ArgumentError: it is not between 0 and 1.
    """
    if not 0 <= value <= 1:
        message = f"{name} must be between 0 and 1, not {value}"
        raise ArgumentError(message)


def draw_labels(
    world: World, n: int, aligned: float, rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Words of n pictures, by name. [example] each.

    Args:
        world: where they come from.
        n: how many.
        aligned: share of pictures on the shape's favourite background; the others are spread
            evenly. One over the number of backgrounds makes the two independent.
        rng: what decides.
    """
    kinds = len(world.shapes)
    shape = rng.integers(kinds, size=n)
    other = (shape + rng.integers(1, kinds, size=n)) % kinds
    background = np.where(rng.random(n) < aligned, shape, other)
    labels = {
        "shape": np.array(world.shapes)[shape],
        "colour": np.array(tuple(world.colours))[rng.integers(len(world.colours), size=n)],
        "background": np.array(world.backgrounds)[background],
    }
    if world.positions:
        labels["position"] = np.array(world.positions)[rng.integers(len(world.positions), size=n)]
    return labels


def paint(
    world: World,
    labels: Mapping[str, NDArray[Any]],
    masks: NDArray[np.bool_],
    alpha: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.uint8]:
    """Shapes before their backgrounds. uint8 [example, SIDE, SIDE, 3].

    Args:
        world: what colours are.
        labels: words by name. [example] each.
        masks: pixels of the shapes. [example, SIDE, SIDE].
        alpha: opacity of the shapes. [example].
        rng: of the textures and the noise.
    """
    behind = textured(labels["background"], rng)
    colour = np.array([world.colours[name] for name in labels["colour"].tolist()])
    opacity = (alpha[:, None, None] * masks)[..., None]
    seen = behind + opacity * (colour[:, None, None] - behind)
    seen += rng.normal(scale=NOISE, size=seen.shape)
    pixels: NDArray[np.uint8] = np.rint(255 * seen.clip(0, 1)).astype(np.uint8)
    return pixels
