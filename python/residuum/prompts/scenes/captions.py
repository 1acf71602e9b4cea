"""Sentences of the worlds: `a [colour] {shape | thing} [on background] [at the position]`."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from residuum.prompts.scenes.world import World

THING = "thing"
"""What a shape is called that is not named."""


def sentence(shape: str = "", colour: str = "", background: str = "", position: str = "") -> str:
    """What is said of a picture; what is empty is not said."""
    said = ["a", colour, shape or THING]
    said += [f"on {background}" if background else "", f"at the {position}" if position else ""]
    return " ".join(part for part in said if part)


def texts(world: World) -> list[str]:
    """Every sentence that says something: all but "a thing". 874 in `SHAPES`, 35 in `REPAIR`."""
    parts = (world.shapes, tuple(world.colours), world.backgrounds, world.positions)
    said = [sentence(*choice) for choice in product(*(("", *part) for part in parts))]
    return said[1:]


def words(world: World) -> list[str]:
    """The words of all sentences, each once."""
    return list(dict.fromkeys(word for text in ("a thing", *texts(world)) for word in text.split()))


def captions(
    labels: Mapping[str, NDArray[Any]], said: Mapping[str, float], rng: np.random.Generator
) -> tuple[str, ...]:
    """A caption for each picture.

    Args:
        labels: words by name. [example] each.
        said: how probably each of them is mentioned, from 0 to 1.
        rng: what decides.
    """
    names = list(said)
    heard = rng.random((len(labels["shape"]), len(names))) < np.array(list(said.values()))
    spoken = [np.where(heard[:, i], labels[name], "") for i, name in enumerate(names)]
    rows = zip(*(column.tolist() for column in spoken), strict=True)
    return tuple(sentence(**dict(zip(names, row, strict=True))) for row in rows)
