"""Patches: what a user says should be different in a pass.

    Patch("z", rows=[40, 41], layers=9, heads=[6], value=Donor([7, 8]))

A patch names rows of the store, all of one example, and what is put in their place there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from residuum.store import Store


@dataclass(frozen=True, eq=False)
class Set:
    """Put numbers in their place: what `store[site].read(rows, layers, heads)` is shaped like."""

    values: ArrayLike


@dataclass(frozen=True, eq=False)
class Donor:
    """Put what other rows did in their place.

    Attributes:
        rows: of the donor, one for each row of the patch, or one for all.
        store: the donor's; by default the one that is replayed.
    """

    rows: ArrayLike
    store: Store | None = None


@dataclass(frozen=True, eq=False)
class Add:
    """Add numbers, shaped as for `Set` or broadcast to that, such as one direction."""

    values: ArrayLike


@dataclass(frozen=True)
class Scale:
    """Multiply by a factor."""

    factor: float


@dataclass(frozen=True)
class Zero:
    """Put zeros in their place (zero ablation)."""


@dataclass(frozen=True, eq=False)
class Mean:
    """Put the mean over rows in their place (mean ablation); by default over all of the store."""

    rows: ArrayLike | None = None


@dataclass(frozen=True, eq=False)
class Resample:
    """Put what another row did in their place, drawn for each row and never the row itself.

    Attributes:
        rows: to draw from; all of the store by default.
        seed: of the draw, which depends on it and on the row alone.
    """

    rows: ArrayLike | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class ProjectOut:
    """Take out what lies along directions, `[d]` or `[direction, d]`, of any length and angle."""

    directions: ArrayLike


@dataclass(frozen=True, eq=False)
class Mix:
    """Put `(1 - weight) * own + weight * donor` in their place."""

    donor: Donor | Set | Mean | Resample | ArrayLike
    weight: float


@dataclass(frozen=True)
class RotateKeys:
    """Rotate keys by so many positions further, as if their tokens stood there (site `k`).

    Rotary models only; one number, or one for each row, for all heads. Values and the stream are
    untouched. Keys are turned after all that is put at k, in whatever order patches are given, but
    for a `Freeze`, which keeps them as they were.
    """

    offset: int | ArrayLike


@dataclass(frozen=True)
class Freeze:
    """Keep what the store holds, whatever comes before."""


Value: TypeAlias = (
    Set | Donor | Add | Scale | Zero | Mean | Resample | ProjectOut | Mix | RotateKeys | Freeze
)


@dataclass(frozen=True, eq=False)
class Patch:
    """One difference in a pass.

    Attributes:
        site: where: resid_pre, resid_mid, resid_post, attn_out, mlp_out, q, k, v, z or pattern.
        rows: token rows of the store, all of one example; for `pattern` those of the queries.
        layers: one or several; all by default.
        heads: one or several, of sites with heads; all by default.
        value: what is put there; an array is `Set`.
    """

    site: str
    rows: ArrayLike
    layers: int | ArrayLike | None = None
    heads: int | ArrayLike | None = None
    value: Value | ArrayLike = field(default_factory=Zero)
