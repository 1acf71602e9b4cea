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
from residuum.clip.images import places
from residuum.clip.stored import Stored, head_pairs
from residuum.errors import ArgumentError, SelectionError
from residuum.quantities import parse_memory
from residuum.replay.numbers import real, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from residuum.clip.images import Images
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
KINDS = ("embedding", "head", "attention bias", "MLP", "rest")
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
        """The components of a kind, all or those of some layers; none where none were captured.

        Raises:
            ArgumentError: there is no such kind, or layers that are no whole numbers.
            SelectionError: a layer that the model does not have.
        """
        if kind not in KINDS:
            message = f"there is no kind {kind!r} of components; there are: {', '.join(KINDS)}"
            raise ArgumentError(message)
        wanted = None if layers is None else self._layers(layers)
        rows = self.components.to_pylist()
        found = [
            number
            for number, row in enumerate(rows)
            if row["kind"] == kind and (wanted is None or row["layer"] in wanted)
        ]
        return np.array(found, np.int64)

    def _layers(self, layers: Any) -> set[int]:  # noqa: ANN401 - what a user hands over
        wanted = whole("layers", list(layers) if np.iterable(layers) else layers)
        n_layer = int(self.images.store.model["n_layer"])
        outside = wanted[(wanted < 0) | (wanted >= n_layer)]
        if len(outside):
            message = f"there is no layer {outside[0]}: the model's are 0 to {n_layer - 1}"
            raise SelectionError(message)
        return set(wanted.tolist())

    def heads(self, pairs: Iterable[Sequence[int]]) -> Numbers:
        """The components of heads, each a pair of layer and head.

        Raises:
            ArgumentError: something else than pairs of whole numbers.
            SelectionError: a head that is not there.
        """
        place = {
            (row["layer"], row["head"]): number
            for number, row in enumerate(self.components.to_pylist())
            if row["kind"] == "head"
        }
        wanted = head_pairs(pairs)
        missing = [pair for pair in wanted if pair not in place]
        if missing:
            message = f"head L{missing[0][0]}H{missing[0][1]} is not among those that were captured"
            raise SelectionError(message)
        return np.array([place[pair] for pair in wanted], np.int64)

    def taken(self, images: ArrayLike) -> Effects:
        """Those of some images, by their places or a mask.

        Raises:
            ArgumentError: neither whole numbers nor a mask of all.
            SelectionError: an image that is not there.
        """
        at = places("image", images, len(self.shares))
        of = (self.shares[at], self.constant[at], self.total[at])
        return Effects(self.images.taken(at), self.components, *of)

    def ablated(
        self, components: ArrayLike, *, reference: ArrayLike | None = None
    ) -> NDArray[np.float64]:
        """Products with the directions where components are replaced by their means.

        Args:
            components: their numbers, such as `heads` gives, or a mask; none leaves all as it is.
            reference: places, or a mask, of the images over which means are taken; all by default.

        Returns:
            float64 `[image, direction]`.

        Raises:
            ArgumentError: components or a reference that are neither whole numbers nor a mask, or
                no image of reference.
            SelectionError: a component or an image that is not there.
        """
        chosen = np.unique(self._chosen(components))
        lost = self.lost(reference, components=chosen).sum(axis=1, dtype=np.float64)
        return np.asarray(self.total - lost)

    def lost(
        self, reference: ArrayLike | None = None, *, components: ArrayLike | None = None
    ) -> Floats:
        """What each component's ablation takes away, `[image, component, direction]`.

        Args:
            reference: as for `ablated`.
            components: numbers, or a mask, of those that are wanted; all by default.

        Raises:
            ArgumentError: as for `ablated`.
            SelectionError: a component or an image that is not there.
        """
        shares = self.shares
        if components is not None:
            shares = shares.take(self._chosen(components), axis=1)
        n = len(shares)
        at = np.arange(n) if reference is None else places("image", reference, n)
        if not len(at):
            message = "means are taken over one image at least: the reference is empty"
            raise ArgumentError(message)
        some = shares if reference is None else shares[at]
        return np.asarray(shares - some.mean(axis=0, dtype=np.float64).astype(np.float32))

    def _chosen(self, components: ArrayLike) -> Numbers:
        names = [one for one in np.ravel(np.asarray(components, object)) if isinstance(one, str)]
        if names:
            message = (
                f"components are numbers, not names such as {names[0]!r}: numbers() gives those "
                "of a kind, heads() those of heads"
            )
            raise ArgumentError(message)
        return places("component", components, self.shares.shape[1])


def effects(
    store: Store | Stored | str | Path,
    directions: ArrayLike,
    *,
    examples: ArrayLike | None = None,
    convention: Convention = "folded",
    unit: bool = False,
    memory: int | str = "4GB",
) -> Effects:
    """Read what every captured component adds along directions.

    Args:
        store: a CLIP vision tower's, or its path, with `z` and `resid_final` of class tokens; with
            `mlp_out` and `embed` of all layers their shares are told apart, without them they are
            one `rest`.
        directions: `[direction, d_embed]`, such as unit vectors of texts.
        examples: numbers of the examples, or a mask of all; all by default.
        convention: `folded` centres every component and keeps biases apart; `even_split` divides
            biases and the mean evenly among heads and MLPs, as the paper's code does.
        unit: divide by the length of each image's vector, as the paper's code does.
        memory: what shares may take; more are refused.

    Raises:
        StoreError: no CLIP vision tower, or its class tokens were not stored.
        SiteError: a site that is needed was not captured.
        ArgumentError: directions of another width or that are not finite, another convention,
            examples that are neither whole numbers nor a mask, or shares beyond `memory`.
        SelectionError: an example that is not there.
        InputError: memory that is no size.
    """
    given = finite("directions", directions)
    if convention not in get_args(Convention):
        message = f"convention is folded or even_split, not {convention!r}"
        raise ArgumentError(message)
    stored = Stored.of(store)
    terms = _Terms(stored, given, even=convention == "even_split")
    images = stored.images(examples)
    n_direction = len(given)
    _check_size(len(images), len(terms.parts), n_direction, memory)
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


def finite(what: str, values: ArrayLike) -> Floats:
    """Real numbers as float32.

    Raises:
        ArgumentError: something else, or numbers that are not finite in float32.
    """
    with np.errstate(over="ignore"):
        given = np.asarray(real(what, values), np.float32)
    if not np.isfinite(given).all():
        message = f"{what} are finite numbers of float32: there is a NaN or an infinity among them"
        raise ArgumentError(message)
    return given


def _check_size(n_image: int, n_component: int, n_direction: int, memory: int | str) -> None:
    """Refuse shares that do not fit.

    Raises:
        ArgumentError: says how much they take.
        InputError: memory that is no size.
    """
    needed = n_image * n_direction * (4 * n_component + 12)  # and a constant and a total
    if needed > parse_memory(memory, least=1):
        message = (
            f"shares of {n_image} images, {n_component} components and {n_direction} directions "
            f"take {needed / 1e9:.3g} GB, more than memory={memory!r}: ask for fewer examples= or "
            "directions, or give more memory="
        )
        raise ArgumentError(message)


class _Terms:
    """The components that a store holds, and what each is multiplied by."""

    def __init__(self, stored: Stored, directions: Floats, *, even: bool) -> None:
        self.stored, self.directions, self.even = stored, directions, even
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
        even = self.tower.even_share(self.directions, final) if self.even else None
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
