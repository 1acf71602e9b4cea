"""A vision tower's readout, from the stream at the class token to the joint space, made linear.

The image's vector is `M = norm(r) @ W_proj` with `r` the class token's stream. With the final
norm's divisor sigma held at its captured value,

    M = sum over components c of r (c @ folded) / sigma + constant

exactly: `folded` is `diag(gain) @ W_proj` less the mean of each column, which takes the mean out of
any `c`; `constant` is `shift @ W_proj`. (Gandelsman et al. 2024, Interpreting CLIP's Image
Representation via Text-Based Decomposition, section 3; the fold in place of an even split is ours.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.clip.images import check_vision
from residuum.errors import ArgumentError, StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.store import Store

    Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Tower:
    """The weights behind the heads, in one dtype: float32, or float64 for proofs.

    Attributes:
        w_o: `[layer, head, d_head, d_model]`.
        b_o: `[layer, d_model]`, zeros where the model has none.
        gain, shift: `[d_model]`, of the final norm.
        eps: what the final norm adds to the variance.
        projection: `[d_model, d_embed]`, W_proj.
    """

    w_o: Array
    b_o: Array
    gain: Array
    shift: Array
    eps: float
    projection: Array

    @classmethod
    def of(cls, store: Store) -> Tower:
        """The tower that a store was captured from.

        Raises:
            StoreError: the store is not of a CLIP vision tower with a projection.
        """
        check_vision(store)
        weights = store.weights
        if "W_proj" not in weights:
            message = (
                f"the model in {store.path} has no projection to the joint space: capture "
                "CLIPModel or CLIPVisionModelWithProjection"
            )
            raise StoreError(message)
        w_o = np.asarray(weights["W_O"], np.float32)
        d_model = w_o.shape[-1]
        b_o = weights.get("b_O", np.zeros((len(w_o), d_model)))
        return cls(
            w_o,
            np.asarray(b_o, np.float32),
            np.asarray(weights["ln_final.w"], np.float32),
            np.asarray(weights.get("ln_final.b", np.zeros(d_model)), np.float32),
            float(store.model["readout"]["eps"]),
            np.asarray(weights["W_proj"], np.float32),
        )

    def astype(self, dtype: Any) -> Tower:  # noqa: ANN401 - what numpy takes for a dtype
        """The same weights in another dtype."""
        arrays = ("w_o", "b_o", "gain", "shift", "projection")
        return replace(self, **{name: getattr(self, name).astype(dtype) for name in arrays})

    @property
    def n_layer(self) -> int:
        """Blocks."""
        return len(self.w_o)

    @property
    def n_head(self) -> int:
        """Heads of a block."""
        return int(self.w_o.shape[1])

    @property
    def d_embed(self) -> int:
        """Width of the joint space."""
        return int(self.projection.shape[1])

    def along(self, directions: Array) -> Array:
        """What a component is multiplied by for its share along directions `[direction, d_embed]`.

        Returns:
            `folded @ directions.T`, `[d_model, direction]`; computed in float64.
        """
        wide = self.unfolded(directions).astype(np.float64)
        return np.asarray(wide - wide.mean(axis=0), self.projection.dtype)

    def unfolded(self, directions: Array) -> Array:
        """The same with each component's mean left in: `diag(gain) @ W_proj @ directions.T`."""
        given = np.asarray(directions, np.float64)
        if given.ndim != 2 or given.shape[1] != self.d_embed:
            message = f"directions are [direction, {self.d_embed}], not {list(given.shape)}"
            raise ArgumentError(message)
        through = self.projection.astype(np.float64) @ given.T
        return (self.gain.astype(np.float64)[:, None] * through).astype(self.projection.dtype)

    def constant(self, directions: Array) -> Array:
        """What no component carries along directions, `[direction]`: the final norm's shift."""
        through = self.projection.astype(np.float64) @ np.asarray(directions, np.float64).T
        return np.asarray(self.shift.astype(np.float64) @ through)

    def readout(self, layer: int, along: Array) -> Array:
        """A layer's heads seen along what `along` gives: `[head, d_head, direction]`."""
        return np.asarray(self.w_o[layer] @ along)

    def even_share(self, directions: Array, stream: Array) -> Array:
        """What the paper's code gives each attention, each MLP and the embedding of mean and shift.

        The mean of the final stream `[image, d_model]` and the shift of the norm, divided evenly
        among the 2 n_layer + 1 terms, `[image, direction]`.
        """
        mean = (stream.mean(-1) / self.divisor(stream))[:, None]
        taken = mean * self.unfolded(directions).sum(axis=0)
        return np.asarray((self.constant(directions) - taken) / (2 * self.n_layer + 1))

    def embedding(self, stream: Array) -> Array:
        """The image's vector `[image, d_embed]`, not of unit length, of the final stream."""
        centred = stream - stream.mean(-1, keepdims=True)
        normed = centred / self.divisor(stream)[:, None] * self.gain + self.shift
        return np.asarray(normed @ self.projection)

    def divisor(self, stream: Array) -> Array:
        """Sigma of each image, `[image]`, of the class token's final stream `[image, d_model]`."""
        return np.asarray(np.sqrt(stream.var(-1) + stream.dtype.type(self.eps)))
