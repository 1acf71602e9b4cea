"""The captured components of the residual stream: embedding, heads, attention biases, MLPs.

Heads are read from `z`; `head_out` is never made, because a direction can go through W_O first.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from residuum.errors import StoreError

if TYPE_CHECKING:
    from residuum.store import Store

Floats = NDArray[np.float32]
Rows = slice | NDArray[np.int64]

SITE_OF = {"embedding": "embed", "MLP": "mlp_out"}  # kind of component -> site it is read from


def row_products(rows: Floats, directions: Floats) -> NDArray[np.float64]:
    """Each row times its direction: [row, d] and [row or 1, d] -> [row], summed in float64."""
    wide = np.broadcast_to(directions, rows.shape)
    return np.asarray(np.einsum("rd,rd->r", rows, wide, dtype=np.float64))


@dataclass(frozen=True)
class Component:
    """One additive term of the stream: what it is called, its kind, its layer."""

    name: str
    kind: str
    layer: int | None = None


@dataclass(frozen=True)
class Components:
    """The captured parts of a store's residual stream, and the weights that project heads to it.

    `w_o`: [layer, head, d_head, d_model]; `b_o`: [layer, d_model] or None.
    """

    store: "Store"
    layers: list[int]
    parts: list[Component]
    complete: bool
    w_o: Floats
    b_o: Floats | None

    def contributions(
        self, rows: Rows, directions: Floats
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Products of every head and term with each row's direction.

        Args:
            rows: A block of rows, or their numbers.
            directions: [row, d_model], or [1, d_model] for the same direction in every row.

        Returns:
            Of heads [row, layer, head], and of the parts but the last, [row, part].

        """
        n_row = _count(rows)
        heads = np.stack([self._heads(rows, layer, directions) for layer in self.layers], axis=1)
        parts = np.zeros((n_row, len(self.parts)))
        for at, part in enumerate(self.parts):
            if part.kind == "heads" and part.layer is not None:
                parts[:, at] = heads[:, self.layers.index(part.layer)].sum(axis=1)
            elif part.kind == "attention bias" and self.b_o is not None:
                parts[:, at] = directions @ self.b_o[part.layer]
            elif part.kind in SITE_OF:
                parts[:, at] = self._product(rows, SITE_OF[part.kind], part.layer, directions)
        return heads, parts

    def _heads(self, rows: Rows, layer: int, directions: Floats) -> NDArray[np.float64]:
        """[row, head]: z @ W_O[head] @ direction, without head_out."""
        n_head, d_head, d_model = self.w_o.shape[1:]
        read = directions @ self.w_o[layer].reshape(-1, d_model).T
        z = self.store["z"].read(rows=rows, layers=[layer]).astype(np.float32, copy=False)
        products = z.reshape(-1, n_head, d_head) * read.reshape(-1, n_head, d_head)
        return np.asarray(products.sum(axis=-1, dtype=np.float64))

    def _product(
        self, rows: Rows, site: str, layer: int | None, directions: Floats
    ) -> NDArray[np.float64]:
        layers = None if layer is None else [layer]
        values = self.store[site].read(rows=rows, layers=layers).astype(np.float32, copy=False)
        values = values.reshape(_count(rows), -1)
        return row_products(values, directions)


def _count(rows: Rows) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def components(store: "Store", *, analysis: str) -> Components:
    """What of the residual stream the store holds.

    Raises:
        StoreError: The model's blocks norm the sum, so that heads do not add up to the stream.

    """
    settings = store.model["readout"]
    if settings.get("post_norm") or settings.get("branch_norm"):
        what = "the sum (post-norm)" if settings.get("post_norm") else "what their heads give"
        message = (
            f"{analysis} needs heads that add to the residual stream, but the blocks of the model "
            f"in {store.path} normalise {what}."
        )
        raise StoreError(message)
    sites, layers = set(map(str, store.sites)), list(store["z"].layers)
    mlp = list(store["mlp_out"].layers) if "mlp_out" in sites else []
    w_o = store.weights["W_O"]
    b_o = store.weights.get("b_O")
    parts = [Component("embedding", "embedding")] if "embed" in sites else []
    for layer in range(len(w_o)):
        if layer in layers:
            parts.append(Component(f"L{layer} heads", "heads", layer))
        if b_o is not None:
            parts.append(Component(f"L{layer} attention bias", "attention bias", layer))
        if layer in mlp:
            parts.append(Component(f"L{layer} MLP", "MLP", layer))
    every = list(range(len(w_o)))
    complete = "embed" in sites and sorted(layers) == every and sorted(mlp) == every
    parts.append(Component("output bias", "output bias"))
    return Components(store, layers, parts, complete, w_o, b_o)
