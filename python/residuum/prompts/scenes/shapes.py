"""The world of small shapes: four of them, in a quarter of the picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from residuum.prompts.scenes import draw
from residuum.prompts.scenes.captions import captions
from residuum.prompts.scenes.outlines import covered
from residuum.prompts.scenes.pictures import SIDE, Pictures
from residuum.prompts.scenes.world import SHAPES

if TYPE_CHECKING:
    from collections.abc import Sequence

RADIUS = (4.0, 5.0)
"""Pixels; shapes then cover 7.7 % of a picture."""
OFF_CENTRE = 0.5
"""Pixels that a shape may be off the middle of its quarter, down and across."""
SAID = {"shape": 0.5, "colour": 0.5, "background": 0.5, "position": 0.5}
"""How probably a caption mentions each."""


def shapes(n: int, *, seed: int | Sequence[int], aligned: float = 0.925) -> Pictures:
    """Pictures of `SHAPES`, with labels `shape`, `colour`, `background` and `position`.

    Args:
        n: pictures.
        seed: of all that is random.
        aligned: share on the shape's favourite background, from 0 to 1; the others are spread over
            the other three. 0.25 makes the two independent; 0.925 is a background that is the
            favourite in 9 of 10 pictures, and in the tenth any of the four.

    Raises:
        ArgumentError: an argument is out of range.
    """
    rng = draw.generator(n, seed)
    draw.check_share("aligned", aligned)
    labels = draw.draw_labels(SHAPES, n, aligned, rng)
    low, high = (SIDE / 2 - 1) / 2, (3 * SIDE / 2 - 1) / 2  # the middles of the quarters
    down = np.char.startswith(labels["position"], "bottom")
    across = np.char.endswith(labels["position"], "right")
    centres = np.where(np.stack([down, across], 1), high, low)
    centres += rng.uniform(-OFF_CENTRE, OFF_CENTRE, (n, 2))
    masks = covered(labels["shape"], centres, rng.uniform(*RADIUS, n))
    pixels = draw.paint(SHAPES, labels, masks, np.ones(n), rng)
    return Pictures(SHAPES, pixels, masks, captions(labels, SAID, rng), labels)
