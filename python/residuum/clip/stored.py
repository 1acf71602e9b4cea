"""What a store has of a vision tower's components at the class token, block by block."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.clip.images import Images, opened
from residuum.clip.tower import Tower
from residuum.errors import ArgumentError, SelectionError, SiteError
from residuum.replay.numbers import single
from residuum.replay.readout import read_final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from residuum.store import Store

    Array = NDArray[Any]


class Stored:
    """The captured terms of the final stream, `r = e + sum of heads, biases and MLPs`.

    What takes a store in this package takes one of these too: weights and the table of examples are
    then read once for many questions.
    """

    def __init__(self, store: Store | str | Path) -> None:
        """Look at what is there.

        Raises:
            StoreError: no CLIP vision tower.
            SiteError: no `z`, or no final stream.
        """
        store = self.store = opened(store)
        self.tower = Tower.of(store)
        if "z" not in store.sites:
            message = (
                f"the shares of heads need the site z, which {store.path} does not hold: capture "
                "with --site z --site resid_final --positions first."
            )
            raise SiteError(message)
        if not {"resid_final", "resid_post"} & set(store.sites):
            message = (
                f"shares need the stream at the end, which {store.path} does not hold: capture "
                "with --site resid_final."
            )
            raise SiteError(message)

    @classmethod
    def of(cls, store: Store | Stored | str | Path) -> Stored:
        """That of a store, of the store at a path, or what is one already."""
        return store if isinstance(store, Stored) else cls(store)

    @cached_property
    def every(self) -> Images:
        """All images."""
        return Images.of(self.store)

    def images(self, examples: ArrayLike | None = None) -> Images:
        """All images, or those that are named; see `Images.named`."""
        return self.every if examples is None else self.every.named(examples)

    def pairs(self, heads: Iterable[Sequence[int]]) -> list[tuple[int, int]]:
        """Pairs of layer and head in order, each once.

        Raises:
            ArgumentError: something else than pairs of whole numbers.
            SelectionError: a head that no layer has.
        """
        pairs = sorted(set(head_pairs(heads)))
        for layer, head in pairs:
            if not 0 <= head < self.tower.n_head:
                message = f"head L{layer}H{head} does not exist: layers have {self.tower.n_head}"
                raise SelectionError(message)
        return pairs

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose heads were captured."""
        return self.store["z"].layers

    @property
    def mlps(self) -> tuple[int, ...]:
        """The layers whose MLPs were captured."""
        return self.store["mlp_out"].layers if "mlp_out" in self.store.sites else ()

    @property
    def has_embedding(self) -> bool:
        """Whether what enters block 0 was captured."""
        return "embed" in self.store.sites

    @cached_property
    def complete(self) -> bool:
        """Whether every term of the stream is there by itself."""
        every = tuple(range(self.tower.n_layer))
        return self.layers == every and self.mlps == every and self.has_embedding

    def z(self, images: Images, layer: int, heads: list[int] | None = None) -> NDArray[np.float32]:
        """What a layer's heads, or some, read at the class token, `[image, head, d_head]`."""
        return self.store["z"].read(images.row, layer, heads, dtype=np.float32)

    def mlp(self, images: Images, layer: int) -> NDArray[np.float32]:
        """What a layer's MLP adds, `[image, d_model]`."""
        found = self.store["mlp_out"].read(images.row, layer, dtype=np.float32)
        return found.reshape(len(images), -1)

    def embedding(self, images: Images) -> NDArray[np.float32]:
        """What enters block 0, `[image, d_model]`."""
        return self.store["embed"].read(images.row, dtype=np.float32).reshape(len(images), -1)

    def final(self, images: Images) -> NDArray[np.float32]:
        """What leaves the last block, `[image, d_model]`."""
        return read_final(self.store, images.row)


def head_pairs(heads: Any) -> list[tuple[int, int]]:  # noqa: ANN401 - what a user hands over
    """Pairs of layer and head as they are given, as whole numbers.

    Raises:
        ArgumentError: something else.
    """
    pairs = []
    for number, pair in enumerate(heads if np.iterable(heads) else [heads]):
        of = tuple(pair) if np.iterable(pair) else (pair,)
        if len(of) != 2 or isinstance(pair, str):
            message = f"heads are pairs of layer and head, such as [(10, 3)], not {pair!r}"
            raise ArgumentError(message)
        layer, head = (single(f"each number of pair {number} of heads", one) for one in of)
        pairs.append((layer, head))
    return pairs
