"""Heat maps of image patches as transparent tints, to lie upon the picture.

An image patch is one pixel of the tint, which the page enlarges without blur: the borders are
those that the model sees. Blue is below 0, orange above, and 0 is not tinted at all.
"""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING

import numpy as np

from residuum.report.png import address, png

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.report.thumbnails import Thumbnails

    Floats = NDArray[np.float64]

BELOW, ABOVE = (26, 92, 214), (243, 112, 16)  # told apart with any kind of colour vision
OPAQUE = 0.85  # at the ends of the scale
STEPS = 65  # of the scale that is shown; odd, so that 0 is one of them


def tint(values: Floats, limit: float) -> NDArray[np.uint8]:
    """Colours `[row, column, 4]` of values `[row, column]`; the scale ends at `±limit`.

    Opacity grows with the root of a value, so that small ones are seen. What is no number is not
    tinted.
    """
    along = np.nan_to_num(np.clip(values / limit, -1, 1), nan=0.0)
    out = np.empty((*values.shape, 4), np.uint8)
    out[..., :3] = np.where((along < 0)[..., None], BELOW, ABOVE)
    out[..., 3] = np.rint(255 * OPAQUE * np.sqrt(np.abs(along)))
    return out


def square(values: Floats) -> Floats | None:
    """Values of image patches, row by row, as `[row, column]`; None where they are no square."""
    side = math.isqrt(len(values))
    return values.reshape(side, side) if side * side == len(values) else None


def overlay(pictures: Thumbnails, example: int, values: Floats, limit: float, says: str) -> str:
    """The picture of an example in grey under the map; the pointer lifts the map off."""
    words = html.escape(f"{says}: {described(values)}")
    source = address(png(tint(values, limit)))
    under = pictures.image(example, "") if example in pictures else ""
    return (
        f'<div class="overlay">{under}'
        f'<img class="picture coarse" loading="lazy" alt="{words}" title="{words}" src="{source}">'
        "</div>"
    )


def described(values: Floats) -> str:
    """A map in words: its ends, and where most is."""
    row, column = np.unravel_index(int(np.nanargmax(np.abs(values))), values.shape)
    return f"{values.min():.2g} to {values.max():.2g}, strongest in row {row}, column {column}"


def scale() -> str:
    """The colours of a map from one end to the other, and what they stand for."""
    source = address(png(tint(np.linspace(-1, 1, STEPS)[None], 1)))
    words = "colours of maps: blue below 0, none at 0, orange above"
    return f'<span class="scale">away<img alt="{words}" src="{source}">towards</span>'
