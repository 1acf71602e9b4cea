"""The world of faint shapes: where one is hardly seen, its favourite background is the best guess.

A model that is trained on such pictures comes to lean on the background, and can be repaired, as
what it knows of the shape is still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from residuum.errors import ArgumentError
from residuum.prompts.scenes import draw
from residuum.prompts.scenes.captions import captions
from residuum.prompts.scenes.outlines import covered
from residuum.prompts.scenes.pictures import SIDE, Pictures
from residuum.prompts.scenes.world import REPAIR

if TYPE_CHECKING:
    from collections.abc import Sequence

RADIUS = (6.0, 8.5)
"""Pixels; shapes then cover 20 % of a picture."""
OFF_CENTRE = 1.5
"""Pixels that a shape may be off the middle, down and across."""
SAY_SHAPE, SAY_COLOUR = 0.9, 0.3
"""How probably a caption mentions each."""


def repair(
    n: int,
    *,
    seed: int | Sequence[int],
    aligned: float = 0.5,
    alpha: tuple[float, float] = (0.1, 1.0),
    say_background: float = 0.6,
) -> Pictures:
    """Pictures of `REPAIR`, with labels `shape`, `colour`, `background` and `alpha`.

    Args:
        n: pictures.
        seed: of all that is random.
        aligned: share on the shape's favourite background, from 0 to 1; 0.5 makes the two
            independent.
        alpha: least and greatest opacity of a shape, from 0 (not there) to 1; each as likely.
        say_background: how probably a caption mentions the background, from 0 to 1.

    Raises:
        ArgumentError: an argument is out of range.
    """
    rng = draw.generator(n, seed)
    draw.check_share("aligned", aligned)
    draw.check_share("say_background", say_background)
    _check_alpha(alpha)
    labels = draw.draw_labels(REPAIR, n, aligned, rng)
    opacity = rng.uniform(*alpha, n)
    centres = (SIDE - 1) / 2 + rng.uniform(-OFF_CENTRE, OFF_CENTRE, (n, 2))
    masks = covered(labels["shape"], centres, rng.uniform(*RADIUS, n))
    pixels = draw.paint(REPAIR, labels, masks, opacity, rng)
    said = {"shape": SAY_SHAPE, "colour": SAY_COLOUR, "background": say_background}
    told = captions(labels, said, rng)
    return Pictures(REPAIR, pixels, masks, told, {**labels, "alpha": opacity})


def _check_alpha(alpha: Sequence[float]) -> None:
    """Refuse what is no interval of opacities."""
    if len(alpha) != 2 or not 0 <= alpha[0] <= alpha[1] <= 1:
        message = f"alpha must be (least, greatest), 0 <= least <= greatest <= 1, not {alpha}"
        raise ArgumentError(message)
