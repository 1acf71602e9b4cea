"""From patches to edits: rows to tokens of an example, donors and means to numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import ArgumentError, SelectionError, SiteError
from residuum.replay.edit import ORDER, Edit
from residuum.replay.numbers import (
    LARGEST,
    factor,
    orthonormal,
    real,
    rows_below,
    single,
    whole,
)
from residuum.replay.patch import (
    Add,
    Donor,
    Freeze,
    Mean,
    Mix,
    Patch,
    ProjectOut,
    Resample,
    RotateKeys,
    Scale,
    Set,
    Zero,
)
from residuum.replay.source import Source, a_store
from residuum.sites import Site

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from residuum.replay.architecture import Architecture
    from residuum.replay.patch import Value

    Floats = NDArray[Any]


@dataclass(frozen=True)
class Example:
    """Where an example's rows are: the first, and how many."""

    first_row: int
    n_token: int


def positions(tokens: ArrayLike | None, n_token: int) -> NDArray[np.int64]:
    """Positions in an example, ascending, each once; negative ones count from its end.

    Raises:
        SelectionError: one that the example does not have.
    """
    if tokens is None:
        return np.arange(n_token)
    asked = whole("tokens", tokens)
    outside = asked[(asked < -n_token) | (asked >= n_token)]
    if len(outside):
        message = f"token {outside[0]} is not in the example, which has {n_token}"
        raise SelectionError(message)
    return np.unique(asked % n_token)


class Resolver:
    """Looks up what the patches of one store mean."""

    def __init__(self, source: Source) -> None:
        """Read where the examples are."""
        self.source = source
        self.of: Architecture = source.of
        table = source.store.examples.to_table(columns=["first_row", "n_token", "n_row"])
        # Where nothing of an example is stored it has no first row; row 0 stands for it.
        firsts, self._n_token, self._n_row = (
            table[name].fill_null(0).to_numpy() for name in ("first_row", "n_token", "n_row")
        )
        stored = np.flatnonzero(self._n_row)
        # Repeated inputs have the same rows.
        self._first, index = np.unique(firsts[stored], return_index=True)
        self._number = stored[index]
        self._firsts = firsts
        self.means: dict[tuple[object, ...], Floats] = {}

    def example(self, rows: NDArray[np.int64]) -> Example:
        """The example that holds all of these rows.

        Raises:
            SelectionError: there is none, or they are of several.
        """
        if not len(self._first):
            message = (
                f"{self.source.store.path} holds no token rows, which a replay needs: capture "
                "resid_pre and resid_final with positions='all'"
            )
            raise SiteError(message)
        rows = rows_below(rows, self.source.store.rows["token"], self.source.store.path)
        number = np.searchsorted(self._first, rows, side="right") - 1
        if (number != number[0]).any():
            message = (
                f"the rows {rows.min()} to {rows.max()} of one patch are of several examples of "
                f"{self.source.store.path}: give each example a patch of its own"
            )
            raise SelectionError(message)
        return self.example_of(int(self._number[number[0]]))

    def example_of(self, number: int) -> Example:
        """Where the rows of an example of the store are.

        Raises:
            SelectionError: there is none of that number, or not all of its tokens are stored.
        """
        if not 0 <= number < len(self._firsts):
            message = (
                f"example {number} is not in {self.source.store.path}: it has {len(self._firsts)}, "
                "from 0"
            )
            raise SelectionError(message)
        n_token, n_row = int(self._n_token[number]), int(self._n_row[number])
        if n_row != n_token:
            message = (
                f"{self.source.store.path} holds {n_row} of the {n_token} tokens of example "
                f"{number}, and a replay needs what entered the blocks at all of them: capture "
                "with positions='all'"
            )
            raise SelectionError(message)
        return Example(int(self._firsts[number]), n_token)

    def edits(self, patch: Patch) -> tuple[Example, list[Edit]]:
        """The edits of a patch, one for each layer.

        Raises:
            SiteError: a site that cannot be patched, or a layer or head that is not there.
            SelectionError: rows that are not of one example, or repeat.
            ArgumentError: numbers of another shape.
        """
        site = self._site_of(patch)
        rows = whole("rows", patch.rows)
        order = np.argsort(rows, kind="stable")
        if len(np.unique(rows)) != len(rows):
            message = f"a patch names row {rows[order][1:][np.diff(rows[order]) == 0][0]} twice"
            raise SelectionError(message)
        example = self.example(rows)
        layers = self.layers(patch.layers)
        one_layer = patch.layers is not None and np.ndim(patch.layers) == 0
        heads = self.heads(site, patch.heads)
        value = patch.value if isinstance(patch.value, _KINDS) else Set(patch.value)
        n_layer = None if one_layer else len(layers)
        made = _Made(self, site, rows, order, heads, n_layer=n_layer)
        tokens = rows[order] - example.first_row
        return example, [
            Edit(site, int(layer), tokens, heads, **made.of(value, int(layer), place))
            for place, layer in enumerate(layers)
        ]

    def site(self, name: str) -> Site:
        """The site of that name, which can be patched.

        Raises:
            SiteError: it cannot, or this model does not have it.
        """
        site = Site.parse(name)
        if site not in ORDER:
            message = f"{site} cannot be patched; {', '.join(ORDER)} can"
            raise SiteError(message)
        if site is Site.RESID_MID and self.of.parallel:
            message = (
                "the blocks of this model run attention and MLP in parallel, so that there is no "
                "resid_mid: patch attn_out, mlp_out or resid_post"
            )
            raise SiteError(message)
        return site

    def _site_of(self, patch: Patch) -> Site:
        site = self.site(patch.site)
        if isinstance(patch.value, RotateKeys):
            if self.of.rotary is None:
                message = (
                    "keys cannot be rotated: this model does not rotate queries and keys by their "
                    "position"
                )
                raise SiteError(message)
            if site is not Site.K or patch.heads is not None:
                what = site if site is not Site.K else "single heads"
                message = f"RotateKeys is for all heads of the site k, not for {what}"
                raise SiteError(message)
        if isinstance(patch.value, ProjectOut) and site is Site.PATTERN:
            message = "directions are taken out of the stream, q, k, v or z, not of the pattern"
            raise SiteError(message)
        return site

    def layers(self, wanted: int | ArrayLike | None) -> NDArray[np.int64]:
        """Layers as numbers; all of them where none is named.

        Raises:
            SiteError: one that the model does not have.
            SelectionError: one that is named twice.
        """
        layers = np.arange(self.of.n_layer) if wanted is None else whole("layers", wanted)
        wrong = layers[(layers < 0) | (layers >= self.of.n_layer)]
        if len(wrong):
            message = f"layer {wrong[0]} is not in the model: it has {self.of.n_layer}, from 0"
            raise SiteError(message)
        if len(set(layers.tolist())) < len(layers):
            message = f"a layer is named twice among {layers.tolist()}"
            raise SelectionError(message)
        return layers

    def heads(self, site: Site, wanted: int | ArrayLike | None) -> NDArray[np.int64] | None:
        """Heads of a site as numbers; None is all of them.

        Raises:
            SiteError: one that the site does not have.
            SelectionError: one that is named twice.
        """
        if wanted is None:
            return None
        n_head = self.n_head(site)
        if n_head is None:
            message = f"{site} has no heads, but the patch names {wanted}"
            raise SiteError(message)
        heads = whole("heads", wanted)
        if len(np.unique(heads)) != len(heads):
            message = f"a patch names one of the heads {heads.tolist()} twice"
            raise SelectionError(message)
        wrong = heads[(heads < 0) | (heads >= n_head)]
        if len(wrong):
            message = f"head {wrong[0]} is not at {site}: it has {n_head}, from 0"
            raise SiteError(message)
        return heads

    def width(self, site: Site, n_token: int) -> int:
        """Numbers that a site has at a token of an example so long."""
        n_head = self.n_head(site)
        if n_head is None:
            return self.of.d_model
        return n_head * (n_token if site is Site.PATTERN else self.of.d_head)

    def n_head(self, site: Site) -> int | None:
        """Heads of a site, None where it has no such axis."""
        if "head" in site.axes:
            return self.of.n_head
        return self.of.n_kv_head if "kv_head" in site.axes else None


_KINDS = (Set, Donor, Add, Scale, Zero, Mean, Resample, ProjectOut, Mix, RotateKeys, Freeze)


class _Made:
    """Numbers for the edits of one patch; rows in the order of tokens."""

    def __init__(
        self,
        resolver: Resolver,
        site: Site,
        rows: NDArray[np.int64],
        order: NDArray[np.int64],
        heads: NDArray[np.int64] | None,
        *,
        n_layer: int | None,
    ) -> None:
        self.resolver, self.site, self.rows, self.order = resolver, site, rows, order
        self.heads = heads
        # None where a patch names one layer by its number: its values then have no axis for it.
        self.n_layer = n_layer

    def of(self, value: Value, layer: int, place: int) -> dict[str, Any]:
        """The fields of an `Edit` at a layer, the patch's `place`-th."""
        if isinstance(value, Zero):
            return {}
        if isinstance(value, Scale):
            return {"scale": factor("a scale", value.factor)}
        if isinstance(value, Freeze):
            self.resolver.source.require(self.site, layer)
            return {"cached": True}
        if isinstance(value, ProjectOut):
            return {"scale": 1.0, "off": self.basis(value.directions)}
        if isinstance(value, RotateKeys):
            return {"scale": 1.0, "turn": self.turn(value)[self.order]}
        if isinstance(value, Add):
            return {"scale": 1.0, "shift": self.given(value.values, place)}
        if isinstance(value, Mix):
            weight = factor("the weight of a mix", value.weight)
            return {"scale": 1.0 - weight, "shift": weight * self.mixed(value, layer, place)}
        return {"shift": self.put(value, layer, place)}

    def mixed(self, value: Mix, layer: int, place: int) -> Floats:
        """What a mix takes its share of."""
        donor = value.donor
        if isinstance(donor, Set | Donor | Mean | Resample):
            return self.put(donor, layer, place)
        if isinstance(donor, _KINDS):
            message = (
                f"{donor!r} cannot be mixed in: give a Donor, Mean or Resample, or numbers; a mix "
                "with zeros is Scale"
            )
            raise ArgumentError(message)
        return self.given(donor, place)

    def turn(self, value: RotateKeys) -> NDArray[np.int64]:
        """Steps for each row."""
        steps = whole("offsets", value.offset)
        if len(steps) not in (1, len(self.rows)):
            message = (
                f"{len(steps)} offsets for a patch of {len(self.rows)} rows: give one for each, or "
                "one for all"
            )
            raise ArgumentError(message)
        return np.broadcast_to(steps, self.rows.shape)

    def put(self, value: Value, layer: int, place: int) -> Floats:
        """What is put in place: `[row, ...]` in the order of tokens."""
        if isinstance(value, Set):
            return self.given(value.values, place)
        if isinstance(value, Donor):
            return self.fitted(self.donated(value, layer))
        if isinstance(value, Mean):
            return self.fitted(self.mean(value, layer))
        assert isinstance(value, Resample)
        return self.fitted(self.stored(layer, self.drawn(value)))

    def stored(self, layer: int, rows: NDArray[np.int64]) -> Floats:
        """What the store holds for rows, given in the patch's order."""
        return self.resolver.source.read(self.site, layer, rows[self.order], self.heads)

    def given(self, values: ArrayLike, place: int) -> Floats:
        """A user's numbers for one layer."""
        array = real(f"the numbers for {self.site}", values)
        if not (np.abs(array) <= LARGEST).all():
            message = f"the numbers for {self.site} are finite in float32: one is NaN or too large"
            raise ArgumentError(message)
        shape = self.shape()
        try:
            # With several layers their axis follows the rows', as in what `read` gives.
            if self.n_layer is not None and array.ndim > len(shape):
                array = self.at_layer(array, place)
            numbers = np.broadcast_to(array, shape)
        except ValueError as error:
            layers = [] if self.n_layer is None else [self.n_layer]
            message = (
                f"the numbers for {self.site} are {list(np.shape(values))}, but the patch's are "
                f"{[shape[0], *layers, *shape[1:]]}"
            )
            raise ArgumentError(message) from error
        return self.fitted(numbers[self.order])

    def at_layer(self, array: Floats, place: int) -> Floats:
        """One layer's of `[row, layer, ...]`."""
        if array.shape[1] != self.n_layer:
            message = "another number of layers"
            raise ValueError(message)
        return np.asarray(array[:, place])

    def fitted(self, values: Floats) -> Floats:
        """A pattern's keys as long as the example, `[row, head, key]`; other sites as they are.

        Raises:
            ArgumentError: it looks at keys that the query does not see.
        """
        if self.site is not Site.PATTERN:
            return values
        example = self.resolver.example(self.rows)
        last = self.rows[self.order] - example.first_row
        if not self.resolver.of.causal:
            last = np.full_like(last, example.n_token - 1)
        unseen = np.arange(values.shape[-1]) > last[:, None, None]
        if (np.where(unseen, values, 0) != 0).any():
            message = (
                "the pattern looks at keys behind its query, or behind the example's end: take it "
                "from rows at the same place of an example"
            )
            raise ArgumentError(message)
        missing = max(0, example.n_token - values.shape[-1])
        padded = np.pad(values, ((0, 0), (0, 0), (0, missing)))
        return np.asarray(padded[..., : example.n_token])

    def shape(self) -> tuple[int, ...]:
        """Of the rows at one layer."""
        of = self.resolver.of
        if self.site is Site.PATTERN:
            n_token = self.resolver.example(self.rows).n_token
            heads = of.n_head if self.heads is None else len(self.heads)
            return (len(self.rows), heads, n_token)
        n_head = self.resolver.n_head(self.site)
        if n_head is None:
            return (len(self.rows), of.d_model)
        return (len(self.rows), n_head if self.heads is None else len(self.heads), of.d_head)

    def donated(self, donor: Donor, layer: int) -> Floats:
        """What a donor's rows did."""
        source = self.resolver.source
        if donor.store is not None and donor.store is not source.store:
            source = Source(a_store(donor.store), self.resolver.of)
        rows = rows_below(donor.rows, source.store.rows["token"], source.store.path)
        if len(rows) not in (1, len(self.rows)):
            message = (
                f"a donor of {len(rows)} rows for a patch of {len(self.rows)}: give one row for "
                "each, or one for all"
            )
            raise ArgumentError(message)
        rows = np.broadcast_to(rows, self.rows.shape)[self.order]
        values = source.read(self.site, layer, rows, self.heads)
        same = 2 if self.site is Site.PATTERN else values.ndim
        if values.shape[1:same] != self.shape()[1:same]:
            message = (
                f"{source.store.path} holds {self.site} of {list(values.shape[1:])}, but the "
                f"replayed model's is {list(self.shape()[1:])}"
            )
            raise ArgumentError(message)
        return values

    def mean(self, value: Mean, layer: int) -> Floats:
        """The mean over rows, the same for each; read once for all patches that want it."""
        store = self.resolver.source.store
        n_row = store.rows["token"]
        rows = np.arange(n_row) if value.rows is None else rows_below(value.rows, n_row, store.path)
        heads = None if self.heads is None else self.heads.tobytes()
        key, means = (self.site, layer, heads, rows.tobytes()), self.resolver.means
        if key not in means:
            means[key] = self.mean_of(rows, layer)
        return np.broadcast_to(means[key], (len(self.rows), *means[key].shape))

    def mean_of(self, rows: NDArray[np.int64], layer: int) -> Floats:
        """The mean over rows of the store, which are read in blocks."""
        total: Floats | None = None
        for start in range(0, len(rows), _BLOCK):
            part = self.resolver.source.read(
                self.site, layer, rows[start : start + _BLOCK], self.heads
            ).sum(0, dtype=np.float64)
            total = part if total is None else total + part
        assert total is not None
        return total / len(rows)

    def drawn(self, value: Resample) -> NDArray[np.int64]:
        """A row for each of the patch's, never itself."""
        store = self.resolver.source.store
        n_row = store.rows["token"]
        pool = np.arange(n_row)
        if value.rows is not None:
            pool = np.unique(rows_below(value.rows, n_row, store.path))
        seed = single("a seed", value.seed)
        if seed < 0:
            message = f"a seed is a whole number from 0, not {seed}"
            raise ArgumentError(message)
        others = len(pool) - np.isin(self.rows, pool)
        if (others < 1).any():
            message = "there is no other row to draw from"
            raise ArgumentError(message)
        # A row's donor depends on the row and the seed alone, not on what else a patch names.
        draws = [np.random.default_rng([seed, row]).random() for row in self.rows.tolist()]
        number = (np.array(draws) * others).astype(np.int64)
        # Skip the row's own place in the pool.
        own = np.searchsorted(pool, self.rows)
        number += np.isin(self.rows, pool) & (number >= own)
        return np.asarray(pool[number])

    def basis(self, directions: ArrayLike) -> Floats:
        """Orthonormal rows that span the directions."""
        array = np.atleast_2d(real("directions", directions).astype(np.float64))
        width = self.shape()[-1]
        if array.shape[-1] != width or array.ndim != 2:
            message = (
                f"the directions are {list(np.shape(directions))}, but {self.site} is {width} wide"
            )
            raise ArgumentError(message)
        return orthonormal(array)


_BLOCK = 4096
