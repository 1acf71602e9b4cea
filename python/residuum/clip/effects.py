"""What every component of a vision tower adds to an image's vector along directions, and ablations.

    shares = effects(store, directions)      one product a component, read block by block
    shares.ablated(shares.heads([(10, 3), (11, 6)]))      logits without them, milliseconds

Shares of all components and the constant sum to the image's own product with each direction, so
that the mean ablation of any set of components is a sum over their shares: no block is computed,
and later layers still see what was ablated (direct effects; Gandelsman et al. 2024, sections 3 and
4.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa

from residuum import kernels
from residuum.clip.images import Images
from residuum.clip.stored import Stored
from residuum.errors import ArgumentError, SelectionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from residuum.clip.tower import Tower
    from residuum.store import Store

    Array = NDArray[Any]
    Floats = NDArray[np.float32]
    Numbers = NDArray[np.int64]
    Part = tuple[str, str, int | None, int | None]

Convention = Literal["folded", "even_split"]

COMPONENTS = pa.schema(
    [
        ("component", pa.string()),
        ("kind", pa.string()),
        ("layer", pa.int32()),
        ("head", pa.int32()),
    ]
)
BLOCK = 128 << 20
"""Bytes of images that are read at once."""


@dataclass(frozen=True, eq=False)
class Effects:
    """Shares of every component along every direction.

    Attributes:
        images: the images.
        components: a row for each: component (its name), kind (embedding, head, attention bias,
            MLP, or rest: what was not captured by itself), layer, head.
        shares: float32 `[image, component, direction]`.
        constant: float64 `[image, direction]`, what no component carries.
        total: float32 `[image, direction]`, the image's own product with each direction.
    """

    images: Images
    components: pa.Table
    shares: Floats
    constant: NDArray[np.float64]
    total: Floats

    def numbers(self, kind: str, *, layers: Iterable[int] | None = None) -> Numbers:
        """The components of a kind, all or those of some layers."""
        wanted = None if layers is None else set(layers)
        rows = self.components.to_pylist()
        found = [
            number
            for number, row in enumerate(rows)
            if row["kind"] == kind and (wanted is None or row["layer"] in wanted)
        ]
        return np.array(found, np.int64)

    def heads(self, pairs: Iterable[Sequence[int]]) -> Numbers:
        """The components of heads, each a pair of layer and head.

        Raises:
            SelectionError: a head that is not there.
        """
        place = {
            (row["layer"], row["head"]): number
            for number, row in enumerate(self.components.to_pylist())
            if row["kind"] == "head"
        }
        wanted = [(int(layer), int(head)) for layer, head in pairs]
        missing = [pair for pair in wanted if pair not in place]
        if missing:
            message = f"head L{missing[0][0]}H{missing[0][1]} is not among those that were captured"
            raise SelectionError(message)
        return np.array([place[pair] for pair in wanted], np.int64)

    def taken(self, places: Numbers) -> Effects:
        """Those of some images."""
        return Effects(
            self.images.taken(places),
            self.components,
            self.shares[places],
            self.constant[places],
            self.total[places],
        )

    def ablated(
        self, components: ArrayLike, *, reference: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Products with the directions where components are replaced by their means.

        Args:
            components: numbers of components; none leaves all as they were.
            reference: places of the images over which means are taken; all by default.

        Returns:
            float64 `[image, direction]`.
        """
        chosen = np.unique(np.asarray(components, np.int64))
        lost = self.lost(reference)[:, chosen].sum(axis=1, dtype=np.float64)
        return np.asarray(self.total - lost)

    def lost(self, reference: ArrayLike | None = None) -> Floats:
        """What each component's ablation takes away, `[image, component, direction]`."""
        some = self.shares if reference is None else self.shares[np.asarray(reference)]
        return np.asarray(self.shares - some.mean(axis=0, dtype=np.float64).astype(np.float32))


def effects(
    store: Store,
    directions: ArrayLike,
    *,
    examples: ArrayLike | None = None,
    convention: Convention = "folded",
    unit: bool = False,
) -> Effects:
    """Read what every captured component adds along directions.

    Args:
        store: a CLIP vision tower's, with `z` and `resid_final` of class tokens; with `mlp_out` and
            `embed` of all layers their shares are told apart, without them they are one `rest`.
        directions: `[direction, d_embed]`, such as unit vectors of texts.
        examples: numbers of the examples; all by default.
        convention: `folded` centres every component and keeps biases apart; `even_split` divides
            biases and the mean evenly among heads and MLPs, as the paper's code does.
        unit: divide by the length of each image's vector, as the paper's code does.

    Raises:
        StoreError: no CLIP vision tower, or its class tokens were not stored.
        SiteError: a site that is needed was not captured.
        ArgumentError: directions of another width, or another convention.
    """
    given = np.asarray(directions, np.float32)
    if convention not in get_args(Convention):
        message = f"convention is folded or even_split, not {convention!r}"
        raise ArgumentError(message)
    stored = Stored(store)
    terms = _Terms(stored, given, even=convention == "even_split")
    images = Images.of(store, examples)
    n_direction = len(given)
    shares = np.empty((len(images), len(terms.parts), n_direction), np.float32)
    constant = np.empty((len(images), n_direction))
    total = np.empty((len(images), n_direction), np.float32)
    each = 4 * (3 * stored.tower.w_o.shape[-1] + len(terms.parts) * n_direction)
    for place in images.blocks(each, BLOCK):
        final = stored.final(images.taken(place))
        terms.write(images.taken(place), final, shares[place], constant[place], total[place])
        if unit:
            length = np.linalg.norm(stored.tower.embedding(final), axis=-1)
            shares[place] /= length[:, None, None]
            constant[place] /= length[:, None]
            total[place] /= length[:, None]
    return Effects(images, terms.table(), shares, constant, total)


class _Terms:
    """The components that a store holds, and what each is multiplied by."""

    def __init__(self, stored: Stored, directions: Floats, *, even: bool) -> None:
        self.stored, self.even = stored, even
        tower = self.tower = stored.tower
        self.along = tower.unfolded(directions) if even else tower.along(directions)
        self.whole = tower.along(directions)
        self.constant = tower.constant(directions)
        self.parts = list(_parts(stored, even=even))

    def table(self) -> pa.Table:
        """The components, in the order of the shares."""
        rows = [dict(zip(COMPONENTS.names, part, strict=True)) for part in self.parts]
        return pa.Table.from_pylist(rows, COMPONENTS)

    def write(
        self, images: Images, final: Floats, shares: Floats, constant: Array, total: Floats
    ) -> None:
        """Fill in one block of images."""
        divisor = self.tower.divisor(final)
        total[:] = (final @ self.whole) / divisor[:, None] + self.constant
        constant[:] = 0 if self.even else self.constant
        even = self._even(final, divisor) if self.even else None
        at = 0
        for kind, layer in _steps(self.parts):
            width = self.tower.n_head if kind == "head" else 1
            out = shares[:, at : at + width]
            out[:] = self._share(kind, layer, images, divisor)
            if even is not None and kind != "rest":
                out += even[:, None] / width
            if kind == "rest":
                out[:, 0] = total - shares[:, :at].sum(axis=1) - constant
            at += width

    def _share(self, kind: str, layer: int | None, images: Images, divisor: Floats) -> Array:
        """`[image, head or 1, direction]`."""
        stored, tower = self.stored, self.tower
        if kind == "head" and layer is not None:
            found = heads(tower, stored.z(images, layer), layer, self.along, divisor)
            if self.even:
                bias = tower.b_o[layer] @ self.along / tower.n_head
                found = found + bias / divisor[:, None, None]
            return found
        if kind == "attention bias" and layer is not None:
            return np.asarray(tower.b_o[layer] @ self.along / divisor[:, None])[:, None]
        if kind == "MLP" and layer is not None:
            return (stored.mlp(images, layer) @ self.along / divisor[:, None])[:, None]
        if kind == "embedding":
            return (stored.embedding(images) @ self.along / divisor[:, None])[:, None]
        return np.zeros((len(images), 1, self.along.shape[1]), np.float32)

    def _even(self, final: Floats, divisor: Floats) -> Array:
        """What each layer's attention, each MLP and the embedding get of mean and shift."""
        n = 2 * self.tower.n_layer + 1
        mean = (final.mean(-1) / divisor)[:, None]
        return np.asarray((self.constant - mean * self.along.sum(axis=0)) / n)


def heads(tower: Tower, z: Array, layer: int, along: Array, divisor: Array) -> Array:
    """What heads add, `[image, head, direction]`, in the dtype of `z` `[image, head, d_head]`."""
    if z.dtype == np.float32:
        return kernels.attribution(z, tower.w_o[layer], along, scale=divisor)
    through = np.einsum("ihd,hde->ihe", z, tower.readout(layer, along))
    return np.asarray(through / divisor[:, None, None])


def _parts(stored: Stored, *, even: bool) -> Iterable[Part]:
    """Name, kind, layer and head of each component."""
    if stored.has_embedding:
        yield "embedding", "embedding", None, None
    for layer in range(stored.tower.n_layer):
        if layer in stored.layers:
            for head in range(stored.tower.n_head):
                yield f"L{layer}H{head}", "head", layer, head
            if not even:
                yield f"L{layer} attention bias", "attention bias", layer, None
        if layer in stored.mlps:
            yield f"L{layer} MLP", "MLP", layer, None
    if not stored.complete:
        yield "rest", "rest", None, None


def _steps(parts: Iterable[Part]) -> list[tuple[str, int | None]]:
    """Kind and layer of each component in turn, the heads of a layer as one."""
    return list(dict.fromkeys((kind, layer) for _, kind, layer, _ in parts))
