"""Drawn pictures, with all that is known of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from residuum.prompts.scenes.world import World

SIDE = 24
"""Pixels of a picture's side."""


@dataclass(frozen=True)
class Pictures:
    """A drawn set, in one order.

    Attributes:
        world: what they are made of.
        pixels: red, green, blue from 0 to 255, uint8 [example, SIDE, SIDE, 3].
        masks: the pixels of the shape, bool [example, SIDE, SIDE]; also of one that is transparent.
        captions: one for each picture; it names a random part of what there is.
        labels: what there is, by name: words, or the opacity `alpha` from 0 to 1. [example] each.
    """

    world: World
    pixels: NDArray[np.uint8]
    masks: NDArray[np.bool_]
    captions: tuple[str, ...]
    labels: Mapping[str, NDArray[Any]]

    def __post_init__(self) -> None:
        """Refuse parts that are not of one set.

        Raises:
            ArgumentError: a part has another length or shape.
        """
        n = len(self.captions)
        wanted = {"pixels": (n, SIDE, SIDE, 3), "masks": (n, SIDE, SIDE)}
        found = {"pixels": self.pixels.shape, "masks": self.masks.shape}
        wanted |= dict.fromkeys(self.labels, (n,))
        found |= {name: column.shape for name, column in self.labels.items()}
        for name, shape in wanted.items():
            if found[name] != shape:
                message = f"`{name}` is {list(found[name])}, but {n} captions ask for {list(shape)}"
                raise ArgumentError(message)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.captions)

    @property
    def aligned(self) -> NDArray[np.bool_]:
        """Whether the background is the shape's favourite. [example]."""
        favourite = self.world.favourite
        wanted = [favourite[shape] for shape in self.labels["shape"].tolist()]
        aligned: NDArray[np.bool_] = np.asarray(wanted, dtype=str) == self.labels["background"]
        return aligned

    def take(self, examples: NDArray[Any]) -> Pictures:
        """Some of them, in a new order.

        Args:
            examples: numbers, or a bool for each picture. [example].
        """
        chosen = np.arange(len(self))[examples]
        return Pictures(
            self.world,
            self.pixels[chosen],
            self.masks[chosen],
            tuple(self.captions[i] for i in chosen.tolist()),
            {name: column[chosen] for name, column in self.labels.items()},
        )
