"""How the axes of imported arrays are read, and whether they fit one another.

A site has axes of its own behind the layer, such as `head, d_head`. What stands before them is a
layer axis, if the layer is not known from elsewhere, and before that `row` or `example, token`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from residuum.errors import InputError
from residuum.exchange.parts import FLOATS
from residuum.sites import RowSpace, Site
from residuum.store.dtypes import numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from residuum.exchange.parts import Part


@dataclass(frozen=True)
class Laid:
    """A part whose axes are known.

    Attributes:
        lead: `(row,)` or `(example, token)` lengths.
        layers: of the array; empty for a site without them.
        axis: whether the array has an axis of layers behind the lead.
        inner: lengths of the site's own axes.
    """

    part: Part
    lead: tuple[int, ...]
    layers: tuple[int, ...]
    axis: bool
    inner: tuple[int, ...]

    @property
    def site(self) -> Site:
        """The site."""
        return self.part.site

    @property
    def held_bytes(self) -> int:
        """Bytes in memory for a row while it is read: all of it mapped, and a layer twice."""
        mapped = math.prod(self.part.array.shape[len(self.lead) :]) * self.part.array.itemsize
        return mapped + math.prod(self.inner) * (self.part.array.itemsize + 10)

    def read(self, place: tuple[Any, ...], layer: int | None) -> NDArray[Any]:
        """Rows of a layer, `[row, ...]`; `place` is a key for the axes of the lead."""
        key = (*place, self.layers.index(layer)) if self.axis and layer is not None else place
        rows: NDArray[Any] = self.part.array[key]
        return rows


def lay_out(part: Part, layers: tuple[int, ...] | None, n_layer: int | None) -> Laid:
    """Say what the axes of a part are.

    Raises:
        InputError: an array that cannot be of the site, with what it could be.
    """
    site, shape = part.site, part.array.shape
    if part.array.dtype.name not in FLOATS:
        message = f"{part.what} holds {part.array.dtype}; activations are {', '.join(FLOATS)}."
        raise InputError(message)
    if part.layer is not None and not site.has_layers:
        message = f"{part.what}: {site.value} exists once, not in every layer; leave out the layer."
        raise InputError(message)
    axis = site.has_layers and part.layer is None
    own = len([name for name in site.axes if name != "layer"])
    n_lead = len(shape) - own - int(axis)
    most = 1 if site.row_space is RowSpace.EXAMPLE else 2
    if not 1 <= n_lead <= most:
        _refuse_shape(part, axis=axis)
    known = part.layers or layers
    if axis and known is None and n_layer is None:
        message = (
            f"{part.what} has the shape {list(shape)}, of which it is not known whether one axis "
            "is layers: say its layer with --layer, or how many there are with --n-layer."
        )
        raise InputError(message)
    if 0 in shape:
        message = f"{part.what} has the shape {list(shape)}: there is nothing in it."
        raise InputError(message)
    numbers = _layers(part, shape[n_lead], known, n_layer) if axis else ()
    taken = numbers if axis else () if part.layer is None else (part.layer,)
    return Laid(part, shape[:n_lead], taken, axis, shape[n_lead + int(axis) :])


def _layers(
    part: Part, length: int, known: tuple[int, ...] | None, n_layer: int | None
) -> tuple[int, ...]:
    """The layers along the axis."""
    expected = len(known) if known is not None else n_layer
    if length != expected:
        message = (
            f"{part.what} has {length} layers, but {expected} are said to be there: its shape is "
            f"{list(part.array.shape)}."
        )
        raise InputError(message)
    return tuple(range(length)) if known is None else known


def _refuse_shape(part: Part, *, axis: bool) -> None:
    names = [name for name in part.site.axes if name != "layer"]
    behind = ", ".join([*(["layer"] if axis else []), *names])
    lead = ["example"] if part.site.row_space is RowSpace.EXAMPLE else ["row", "example, token"]
    fits = " or ".join(f"[{first}, {behind}]" for first in lead)
    of = f"{part.site.value}{'' if part.layer is None else f' of layer {part.layer}'}"
    hint = "; with --layer it is of one layer" if axis else ""
    message = f"{part.what} has the shape {list(part.array.shape)}, but {of} is {fits}{hint}."
    raise InputError(message)


def check_together(laid: Sequence[Laid]) -> None:
    """Check that parts fit one another.

    Raises:
        InputError: a layer twice, or lengths that differ, with both.
    """
    seen: dict[tuple[Site, int | None], Laid] = {}
    first: dict[Site, Laid] = {}
    lead: dict[RowSpace, Laid] = {}
    for one in laid:
        for layer in one.layers or (None,):
            before = seen.setdefault((one.site, layer), one)
            if before is not one:
                of = one.site.value + ("" if layer is None else f" layer {layer}")
                message = f"{of} comes twice: from {before.part.what} and from {one.part.what}."
                raise InputError(message)
        _check_same(first.setdefault(one.site, one), one, "inner", "each row of a site")
        _check_same(lead.setdefault(one.site.row_space, one), one, "lead", "the rows of all arrays")


def _check_same(before: Laid, one: Laid, name: str, what: str) -> None:
    there, here = getattr(before, name), getattr(one, name)
    if there != here:
        message = (
            f"{one.part.what} has {list(here)}, but {before.part.what} has {list(there)}: {what} "
            "must be of one shape."
        )
        raise InputError(message)


def dtype_of(site: Site, laid: Sequence[Laid], asked: str | None) -> np.dtype[Any]:
    """What a site is stored as: what was asked for, or what its arrays are.

    Raises:
        InputError: arrays of several types, or float64, which a store does not hold.
    """
    if asked is not None and site is not Site.NORM_SCALE:
        return numpy_dtype(asked)
    kinds = sorted({one.part.array.dtype.name for one in laid})
    if len(kinds) > 1 or kinds == ["float64"]:
        what = laid[0].part.what if len(kinds) == 1 else f"the arrays of {site.value}"
        why = "which a store does not hold" if len(kinds) == 1 else "and a site has one type"
        message = f"{what}: {' and '.join(kinds)}, {why}: say what to store with --dtype float32."
        raise InputError(message)
    return numpy_dtype(kinds[0])
