"""What a store holds of a stream, by site, layer and row, also where another site says the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import ArgumentError, SiteError
from residuum.sites import Site

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.replay.architecture import Architecture
    from residuum.store import Store

    Rows = NDArray[np.int64]

Way = list[tuple[int, Site, int | None]]
"""A sum of stored sites: (sign, site, layer)."""


def a_store(value: object) -> Store:
    """Refuse what is no store.

    Raises:
        ArgumentError: it is something else, such as a path.
    """
    from residuum.store import Store

    if not isinstance(value, Store):
        message = f"replay takes a store, not {value!r}: open it with residuum.open(path)"
        raise ArgumentError(message)
    return value


class Source:
    """Reads the cached activations that replay starts from and patches take values from."""

    def __init__(self, store: Store, of: Architecture) -> None:
        """Look at what the store holds; nothing is read."""
        self.store = store
        self.of = of
        self._there = {Site(name): set(store[name].layers) for name in store.sites}
        # A donor's model may have another depth.
        depths = [store[name].shape[1] for name in store.sites if store[name].has_layers]
        self._n_layer = depths[0] if depths else of.n_layer

    def read(
        self, site: Site, layer: int, rows: Rows, heads: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """Rows of a site at a layer, `[row, ...]`, at least in float32.

        Raises:
            SiteError: neither the site nor what could stand in for it was captured there.
        """
        way = self.way(site, layer)
        if way is None:
            raise self.missing(site, layer)
        if site is Site.PATTERN and self.store.capture.get("keys") == "stored":
            message = (
                f"the pattern in {self.store.path} has the keys of stored tokens alone, so that a "
                "replay cannot tell which they are: capture `pattern` with keys='all'"
            )
            raise SiteError(message)
        total: NDArray[Any] | None = None
        for sign, stored, at in way:
            part = self.store[stored.value].read(rows=rows, layers=at, heads=heads)
            part = part.astype(np.promote_types(part.dtype, np.float32), copy=False)
            total = part if total is None else total + sign * part
        assert total is not None
        return total

    def has(self, site: Site, layer: int) -> bool:
        """Whether `read` would find it."""
        return self.way(site, layer) is not None

    def require(self, site: Site, layer: int) -> None:
        """Refuse to go on without a site at a layer.

        Raises:
            SiteError: neither it nor what could stand in for it was captured there.
        """
        if not self.has(site, layer):
            raise self.missing(site, layer)

    def way(self, site: Site, layer: int) -> Way | None:
        """How a site at a layer is read: as itself, or as what is the same; None if it is not."""
        return next((way for way in self._ways(site, layer) if self._holds(way)), None)

    def _ways(self, site: Site, layer: int) -> list[Way]:
        before: Way = [(1, Site.RESID_POST, layer - 1)] if layer else [(1, Site.EMBED, None)]
        last = layer == self._n_layer - 1
        after: Way = [(1, Site.RESID_FINAL, None)] if last else [(1, Site.RESID_PRE, layer + 1)]
        ways: dict[Site, list[Way]] = {
            Site.RESID_PRE: [before],
            Site.RESID_POST: [after],
        }
        if not self.of.parallel:
            ways[Site.RESID_MID] = [
                [(1, Site.RESID_PRE, layer), (1, Site.ATTN_OUT, layer)],
                [*before, (1, Site.ATTN_OUT, layer)],
                [(1, Site.RESID_POST, layer), (-1, Site.MLP_OUT, layer)],
            ]
            ways[Site.ATTN_OUT] = [
                [(1, Site.RESID_MID, layer), (-1, Site.RESID_PRE, layer)],
                [(1, Site.RESID_MID, layer), *((-1, s, at) for _, s, at in before)],
            ]
            ways[Site.MLP_OUT] = [[(1, Site.RESID_POST, layer), (-1, Site.RESID_MID, layer)]]
        return [[(1, site, layer)], *ways.get(site, [])]

    def _holds(self, way: Way) -> bool:
        return all(
            site in self._there and (at is None or at in self._there[site]) for _, site, at in way
        )

    def missing(self, site: Site, layer: int) -> SiteError:
        """The error for what was not captured: what would do, and how to capture it."""
        _, *others = self._ways(site, layer)
        ways = [" with ".join(_named(s, at) for _, s, at in way) for way in others]
        instead = f" {' or '.join(ways)} would do as well." if ways else ""
        message = (
            f"{self.store.path} does not hold {_named(site, layer)}, which this replay reads."
            f"{instead} Add it with `residuum capture … --append --site {site}`"
        )
        return SiteError(message)


def _named(site: Site, layer: int | None) -> str:
    return site.value if layer is None else f"{site.value} of layer {layer}"
