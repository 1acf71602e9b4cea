"""Texts as directions: the stored vectors of a text tower, and classes made of several prompts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from residuum.clip.images import opened
from residuum.errors import ArgumentError, InputError, StoreError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from residuum.store import Store

    Floats = NDArray[np.float32]

TEXT_COLUMNS = ("text", "caption", "prompt")
DEFAULT_CLASS = "class"


@dataclass(frozen=True, eq=False)
class Texts:
    """Unit vectors of texts.

    Attributes:
        text: what each says.
        vectors: float32 `[text, d_embed]`, of length 1.
    """

    text: list[str]
    vectors: Floats

    def __len__(self) -> int:
        """How many."""
        return len(self.text)

    def of(self, *wanted: str) -> Floats:
        """The vectors of texts by what they say, `[text, d_embed]`.

        Raises:
            ArgumentError: a text that is not there.
        """
        place = {text: number for number, text in enumerate(self.text)}
        given: tuple[object, ...] = wanted  # a list in place of texts is no text either
        missing = [text for text in given if not isinstance(text, str) or text not in place]
        if missing:
            message = f"there is no text {missing[0]!r} among the {len(self)}"
            raise ArgumentError(message)
        return self.vectors[[place[text] for text in wanted]]


def texts(store: Store | str | Path) -> Texts:
    """The texts of a store that a CLIP text tower was captured into, with the site `pooled`.

    Raises:
        StoreError: it holds no vectors of texts, or one without a direction.
    """
    held, column = _held(store)
    table = held.examples.to_table(columns=["example_row", column])
    vectors = held["pooled"].read(table["example_row"].to_numpy(), dtype=np.float32)
    said = table[column].cast("string").to_pylist()
    return Texts(said, _unit(vectors, said, held))


def classes(store: Store | str | Path, column: str = DEFAULT_CLASS) -> Texts:
    """One direction for each value of a column: the mean of its prompts' unit vectors, unit again.

    The zero-shot classifier of CLIP (Radford et al. 2021, section 3.1.4). Without the column each
    text is a class of its own. Classes come in the order of their first prompt.

    Raises:
        StoreError: it holds no vectors of texts, or one without a direction.
        InputError: a prompt without a class, or no such column where another than the default was
            asked for.
    """
    held, _ = _held(store)
    every = texts(held)
    columns = held.examples.schema.names
    if column not in columns:
        if column == DEFAULT_CLASS:
            return every
        message = (
            f"the texts of {held.path} have no column {column!r}; they have {', '.join(columns)}"
        )
        raise InputError(message)
    table = held.examples.to_table(columns=["example", column])
    names = table[column].cast("string").to_pylist()
    if None in names:
        example = table["example"][names.index(None)].as_py()
        message = f"column {column!r} of {held.path} is empty at example {example}"
        raise InputError(message)
    order = list(dict.fromkeys(names))
    of = np.array([order.index(name) for name in names])
    means = np.stack([every.vectors[of == number].mean(axis=0) for number in range(len(order))])
    return Texts(order, _unit(means, order, held))


@cache
def general_descriptions() -> tuple[str, ...]:
    """Our pool of general descriptions of images: colours, places, counts, lights and so on.

    Written for residuum (Apache-2.0). To name heads by it, capture it with the model's text tower:
    `residuum.capture(model, list(residuum.clip.general_descriptions()), "texts.residuum",
    sites=["pooled"])`.
    """
    text = (files("residuum.clip") / "general_descriptions.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def _held(store: Store | str | Path) -> tuple[Store, str]:
    held = opened(store)
    names = held.examples.schema.names
    column = next((name for name in TEXT_COLUMNS if name in names), None)
    if "pooled" not in held.sites or held.model.get("family") != "clip_text" or column is None:
        message = (
            f"{held.path} holds no vectors of texts: capture texts with the same CLIP model, "
            "--site pooled."
        )
        raise StoreError(message)
    return held, column


def _unit(vectors: Floats, said: Sequence[str], store: Store) -> Floats:
    """Of length 1, float32.

    Raises:
        StoreError: a vector that is zero or not finite, named by what it says.
    """
    length = np.linalg.norm(vectors, axis=-1)
    bad = np.flatnonzero(~np.isfinite(length) | (length == 0))
    if len(bad):
        message = (
            f"the vector of {said[bad[0]]!r} in {store.path} is zero or not finite, so that it has "
            "no direction: leave the text out, or capture it anew"
        )
        raise StoreError(message)
    return np.asarray(vectors / length[:, None], np.float32)
