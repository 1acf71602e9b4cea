"""States of the stream, read from a store: 0 is the embedding, s what enters block s, then the end.

A state is found under any of its names: `resid_pre` of a layer is `resid_post` of the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from residuum.errors import SiteError, StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.store import Store

    Floats = NDArray[np.float32]
    Rows = slice | NDArray[np.int64]


class States:
    """The states of a store's model."""

    def __init__(self, store: Store, *, analysis: str) -> None:
        """Look at what the store holds; nothing is read. `analysis` is who asks, for errors."""
        self.store = store
        self.analysis = analysis
        self.n_state = int(store.model["n_layer"]) + 1

    def ways(self, state: int) -> list[tuple[str, int | None]]:
        """Sites and layers that hold a state."""
        ways: list[tuple[str, int | None]] = [("resid_pre", state), ("resid_post", state - 1)]
        if state == 0:
            ways[1] = ("embed", None)
        if state == self.n_state - 1:
            ways[0] = ("resid_final", None)
        return ways

    def way(self, state: int) -> tuple[str, int | None] | None:
        """Where the store holds a state; None if it does not."""
        for site, layer in self.ways(state):
            if site in self.store.sites and (layer is None or layer in self.store[site].layers):
                return site, layer
        return None

    @property
    def held(self) -> list[int]:
        """The states that the store holds."""
        return [state for state in range(self.n_state) if self.way(state) is not None]

    def require(self, state: int) -> tuple[str, int | None]:
        """Where a state is.

        Raises:
            SiteError: it was not captured.
        """
        way = self.way(state)
        if way is None:
            ways = self.ways(state)
            named = " or ".join(
                site if layer is None else f"{site} of layer {layer}" for site, layer in ways
            )
            message = (
                f"{self.analysis} reads state {state}, for which {self.store.path} would need "
                f"{named}: add it with `residuum capture … --append --site embed --site resid_post`"
            )
            raise SiteError(message)
        return way

    def read(self, state: int, rows: Rows) -> Floats:
        """Rows of a state, float32 `[row, d_model]`.

        Raises:
            SiteError: it was not captured.
        """
        site, layer = self.require(state)
        return np.asarray(self.store[site].read(rows=rows, layers=layer), np.float32)

    def finite(self, state: int, rows: Rows) -> Floats:
        """The same, refused where a number is none.

        Raises:
            SiteError: it was not captured.
            StoreError: NaN or infinity.
        """
        values = self.read(state, rows)
        bad = ~np.isfinite(values).all(1)
        if bad.any():
            at = np.arange(self.store.rows["token"])[rows][bad][0]
            message = (
                f"row {at} of state {state} in {self.store.path} is not finite: capture it anew "
                "(bfloat16 reaches further than float16)"
            )
            raise StoreError(message)
        return values
