"""The images of a store: where the class token of each has its row, and its patches theirs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.dataset as ds

from residuum.errors import ArgumentError, SelectionError, SiteError, StoreError
from residuum.replay.numbers import whole
from residuum.store import Store

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from residuum.store import SiteArray

    Numbers = NDArray[np.int64]

VISION = "clip_vision"
"""The family of models that this package knows."""


@dataclass(frozen=True, eq=False)
class Images:
    """Some examples of a store, in the order asked for; repeated images have the same rows.

    Attributes:
        store: the store.
        example: int64 `[image]`, their numbers.
        row: int64 `[image]`, the row of each class token.
        example_row: int64 `[image]`, the row in sites that have one for each image.
        n_token: tokens of an image, the class token among them.
    """

    store: Store
    example: Numbers
    row: Numbers
    example_row: Numbers
    n_token: int

    def __len__(self) -> int:
        """How many."""
        return len(self.example)

    @classmethod
    def of(cls, store: Store | str | Path, examples: ArrayLike | None = None) -> Images:
        """All images, or the examples with these numbers, or those that a mask of all selects.

        Raises:
            StoreError: the store is not of a CLIP vision tower, or lacks class tokens.
            ArgumentError: examples that are neither whole numbers nor a mask of all.
            SelectionError: an example that is not there.
        """
        store = opened(store)
        check_vision(store)
        names = ["example", "first_row", "example_row", "n_token"]
        table = store.examples.to_table(columns=names).sort_by("example")
        example = table["example"].to_numpy()
        example_row = table["example_row"].fill_null(-1).to_numpy()
        row = _class_rows(store, table["first_row"].fill_null(-1).to_numpy())
        n_token = int(table["n_token"][0].as_py()) if len(table) else 0
        every = cls(store, example, row, example_row, n_token)
        return every if examples is None else every.named(examples)

    def named(self, examples: ArrayLike) -> Images:
        """Those with these numbers, in this order; or those that a mask of these images selects.

        Raises:
            ArgumentError: neither whole numbers nor a mask of as many as there are images.
            SelectionError: one that is not there.
        """
        given = numbers_or_mask("examples", examples, len(self))
        if given.dtype == bool:
            return self.taken(np.flatnonzero(given))
        place = {number: at for at, number in enumerate(self.example.tolist())}
        missing = [number for number in given.tolist() if number not in place]
        if missing:
            message = (
                f"example {missing[0]} is not among those of {self.store.path} that are searched, "
                f"which are {len(self)}"
            )
            raise SelectionError(message)
        return self.taken(np.array([place[number] for number in given.tolist()], np.int64))

    def taken(self, places: slice | Numbers) -> Images:
        """Those at some places."""
        return Images(
            self.store,
            self.example[places],
            self.row[places],
            self.example_row[places],
            self.n_token,
        )

    def blocks(self, bytes_each: int, budget: int) -> list[slice]:
        """Places cut so that images of so many bytes fit a budget, one at least."""
        step = max(1, budget // max(1, bytes_each))
        return [slice(at, min(at + step, len(self))) for at in range(0, len(self), step)]

    def pattern(self, layer: int) -> NDArray[np.float32]:
        """What each class token looks at, `[image, head, token]`.

        Raises:
            SiteError: it was not captured, or only for tokens that were stored.
        """
        if self.store.capture.get("keys") == "stored":
            message = (
                f"`pattern` in {self.store.path} has stored tokens for keys alone, so that it does "
                "not say which patches a class token looks at: capture with keys='all'."
            )
            raise SiteError(message)
        site = _wanted(self.store, "pattern")
        values = site.read(rows=self.row, layers=layer, dtype=np.float32)
        return np.asarray(values.reshape(len(self), -1, site.shape[-1])[:, :, : self.n_token])

    def class_values(self, layer: int) -> NDArray[np.float32]:
        """The values of class tokens, `[image, head, d_head]`.

        Raises:
            SiteError: neither `v` nor `image_v` was captured at that layer.
        """
        if "v" in self.store.sites:
            site = self.store["v"]
            values = site.read(rows=self.row, layers=layer, dtype=np.float32)
            return np.asarray(values.reshape(len(self), *site.shape[2:]))
        return np.ascontiguousarray(self.values(layer)[:, 0])

    def values(self, layer: int) -> NDArray[np.float32]:
        """The values of all tokens, `[image, token, head, d_head]`, of `image_v` or of `v`.

        Raises:
            SiteError: neither was captured, or `v` not of all tokens.
        """
        if "image_v" in self.store.sites:
            site = self.store["image_v"]
            values = site.read(rows=self.example_row, layers=layer, dtype=np.float32)
            return np.asarray(values.reshape(len(self), *site.shape[2:]))
        site = _wanted(self.store, "v", instead="image_v")
        if self.store.capture.get("positions") != "all":
            message = (
                f"`v` in {self.store.path} is not of all tokens (positions="
                f"{self.store.capture.get('positions')}): capture image_v, which is."
            )
            raise SiteError(message)
        rows = (self.row[:, None] + np.arange(self.n_token)).ravel()
        values = site.read(rows=rows, layers=layer, dtype=np.float32)
        return np.asarray(values.reshape(len(self), self.n_token, *site.shape[2:]))


def opened(store: object) -> Store:
    """A store, or the one at a path.

    Raises:
        ArgumentError: neither.
        StoreError: there is none.
    """
    if isinstance(store, Store):
        return store
    if isinstance(store, str | Path):
        return Store(store)
    message = f"a store is what residuum.open returns, or a path, not {store!r}"
    raise ArgumentError(message)


def numbers_or_mask(what: str, given: ArrayLike, n: int) -> Numbers | NDArray[np.bool_]:
    """Whole numbers, none or one alone among them, or a mask of `n`, which stays one.

    Raises:
        ArgumentError: neither.
    """
    try:
        array = np.asarray(given)
    except ValueError:  # of lists of different lengths, which `whole` refuses
        return whole(what, given)
    if array.ndim != 1 or (len(array) and array.dtype != bool):
        return whole(what, given)
    if not len(array):
        return np.zeros(0, np.int64)
    if len(array) != n:
        message = f"a mask of {what} is as long as there are {what}, {n}, not {len(array)}"
        raise ArgumentError(message)
    return np.asarray(array, bool)


def places(what: str, given: ArrayLike, n: int) -> Numbers:
    """Places below `n`, or those that a mask of `n` selects; none at all is allowed.

    Raises:
        ArgumentError: neither whole numbers nor a mask of as many.
        SelectionError: a place that is not there.
    """
    found = numbers_or_mask(f"{what}s", given, n)
    if found.dtype == bool:
        return np.flatnonzero(found)
    outside = found[(found < 0) | (found >= n)]
    if len(outside):
        message = f"{what} {outside[0]} is not there: there are {n}, numbered from 0"
        raise SelectionError(message)
    return np.asarray(found, np.int64)


def check_vision(store: Store) -> None:
    """Refuse a store of another kind of model.

    Raises:
        StoreError: says what it is, and what is needed.
    """
    family = store.model.get("family")
    if family != VISION:
        message = (
            f"{store.path} holds {family or 'activations without a known model'}, but this asks "
            "the vision tower of a CLIP model (CLIPModel, or CLIPVisionModelWithProjection)."
        )
        raise StoreError(message)


def _class_rows(store: Store, first_row: Numbers) -> Numbers:
    """The row of token 0 of each example.

    Raises:
        StoreError: an example whose class token was not stored.
    """
    if store.capture.get("positions") in ("all", "first"):
        return first_row
    found = store.tokens.to_table(columns=["example", "row"], filter=ds.field("token") == 0)
    row = np.full(len(first_row), -1)
    row[found["example"].to_numpy()] = found["row"].fill_null(-1).to_numpy()
    if np.any(row < 0):
        message = (
            f"example {int(np.flatnonzero(row < 0)[0])} of {store.path} has no row of its class "
            "token: capture with positions='first', or 'all'."
        )
        raise StoreError(message)
    return row


def _wanted(store: Store, name: str, instead: str | None = None) -> SiteArray:
    if name not in store.sites:
        held = ", ".join(store.sites) or "none"
        message = (
            f"this needs the site {instead or name}, which {store.path} does not hold; it holds "
            f"{held}. Capture it with --site {instead or name}; with --append for the images that "
            "are there (image_v: if the store has pooled)."
        )
        raise SiteError(message)
    return store[name]
