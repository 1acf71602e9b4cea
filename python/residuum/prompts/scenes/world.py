"""What a world is made of: the words, in the order that says which belong together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Rgb = tuple[float, float, float]
"""Red, green and blue, each from 0 to 1."""


@dataclass(frozen=True)
class World:
    """The words of a world.

    Attributes:
        name: what `Pictures.world` calls it.
        shapes: each one's favourite background stands at the same place of `backgrounds`.
        colours: of shapes, by name; they go with everything alike.
        backgrounds: textures; as many as there are shapes.
        positions: quarters of the picture; none where shapes stand in the middle.
    """

    name: str
    shapes: tuple[str, ...]
    colours: Mapping[str, Rgb]
    backgrounds: tuple[str, ...]
    positions: tuple[str, ...] = ()

    @property
    def favourite(self) -> dict[str, str]:
        """The background that each shape is seen on most."""
        return dict(zip(self.shapes, self.backgrounds, strict=True))


_BRIGHT: dict[str, Rgb] = {
    "red": (0.9, 0.15, 0.15),
    "yellow": (0.95, 0.9, 0.2),
    "white": (0.95, 0.95, 0.95),
}

SHAPES = World(
    "shapes",
    ("circle", "square", "triangle", "cross"),
    {**_BRIGHT, "purple": (0.6, 0.15, 0.75), "pink": (1.0, 0.5, 0.75), "cyan": (0.2, 0.9, 0.9)},
    ("grass", "water", "sand", "night"),
    ("top left", "top right", "bottom left", "bottom right"),
)
"""Small shapes in a quarter of the picture, on four backgrounds."""

REPAIR = World("repair", ("circle", "cross"), _BRIGHT, ("grass", "water"))
"""Large shapes in the middle, more or less transparent, on two backgrounds."""
