"""Texts as directions: the stored vectors of a text tower, and classes made of several prompts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import numpy as np

from residuum.errors import ArgumentError, StoreError
from residuum.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

TEXT_COLUMNS = ("text", "caption", "prompt")


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
        missing = [text for text in wanted if text not in place]
        if missing:
            message = f"there is no text {missing[0]!r} among the {len(self)}"
            raise ArgumentError(message)
        return self.vectors[[place[text] for text in wanted]]


def texts(store: Store | str | Path) -> Texts:
    """The texts of a store that a CLIP text tower was captured into, with the site `pooled`.

    Raises:
        StoreError: it holds no vectors of texts.
    """
    opened, column = _opened(store)
    table = opened.examples.to_table(columns=["example_row", column])
    vectors = opened["pooled"].read(table["example_row"].to_numpy(), dtype=np.float32)
    return Texts(table[column].cast("string").to_pylist(), _unit(vectors))


def classes(store: Store | str | Path, column: str = "class") -> Texts:
    """One direction for each value of a column: the mean of its prompts' unit vectors, unit again.

    The zero-shot classifier of CLIP (Radford et al. 2021, section 3.1.4). Without the column each
    text is a class of its own. Classes come in the order of their first prompt.
    """
    opened, _ = _opened(store)
    every = texts(opened)
    if column not in opened.examples.schema.names:
        return every
    names = opened.examples.to_table(columns=[column])[column].cast("string").to_pylist()
    order = list(dict.fromkeys(names))
    of = np.array([order.index(name) for name in names])
    means = np.stack([every.vectors[of == number].mean(axis=0) for number in range(len(order))])
    return Texts(order, _unit(means))


@cache
def general_descriptions() -> tuple[str, ...]:
    """Our pool of general descriptions of images: colours, places, counts, lights and so on.

    Written for residuum (Apache-2.0). To name heads by it, capture it with the model's text tower:
    `residuum.capture(model, list(residuum.clip.general_descriptions()), "texts.residuum",
    sites=["pooled"])`.
    """
    text = (files("residuum.clip") / "general_descriptions.txt").read_text(encoding="utf-8")
    return tuple(text.splitlines())


def _opened(store: Store | str | Path) -> tuple[Store, str]:
    opened = store if isinstance(store, Store) else Store(store)
    names = opened.examples.schema.names
    column = next((name for name in TEXT_COLUMNS if name in names), None)
    if "pooled" not in opened.sites or opened.model.get("family") != "clip_text" or column is None:
        message = (
            f"{opened.path} holds no vectors of texts: capture texts with the same CLIP model, "
            "--site pooled."
        )
        raise StoreError(message)
    return opened, column


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True), np.float32)
