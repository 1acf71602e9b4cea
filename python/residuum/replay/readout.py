"""From the stream that leaves the last block to logits, by the weights that a store keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import StoreError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.store import Store


class Readout:
    """The final norm and the unembedding of a store's model."""

    def __init__(self, store: Store) -> None:
        """Find the weights; W_U is read when logits are asked for.

        Raises:
            StoreError: the model has no unembedding.
        """
        if "W_U" not in store.weights:
            message = (
                f"the model in {store.path} has no unembedding, so that there are no logits: "
                "capture a model with a language-model head"
            )
            raise StoreError(message)
        # Looked up once: a look maps the file.
        self._weights = {
            name: store.weights[name]
            for name in ("W_U", "b_U", "ln_final.w", "ln_final.b")
            if name in store.weights
        }
        self._settings = store.model["readout"]
        self.d_vocab = self._weights["W_U"].shape[1]
        self._columns: dict[tuple[int, ...], NDArray[Any]] = {}

    def logits(
        self, stream: NDArray[Any], columns: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """`[row, d_model]` -> `[row, column]`; all of the vocabulary without `columns`."""
        normed = self._norm(stream)
        b = self._weights.get("b_U")
        if columns is None:
            out = normed @ self._weights["W_U"].astype(normed.dtype, copy=False)
        else:
            key = tuple(map(int, columns))
            if key not in self._columns:
                self._columns[key] = np.ascontiguousarray(self._weights["W_U"][:, columns])
            out = normed @ self._columns[key].astype(normed.dtype, copy=False)
            b = None if b is None else b[columns]
        if b is not None:
            out += b
        out *= self._settings["logit_scale"]
        cap = self._settings["logit_softcap"]
        return np.asarray(out if cap is None else cap * np.tanh(out / cap))

    def _norm(self, x: NDArray[Any]) -> NDArray[Any]:
        settings = self._settings
        if settings["norm"] == "none":
            return x
        if settings["norm"] == "layer_norm":
            x = x - x.mean(-1, keepdims=True)
        scale = np.sqrt(np.square(x).mean(-1, keepdims=True) + x.dtype.type(settings["eps"]))
        gain = (self._weights["ln_final.w"] + settings["norm_offset"]).astype(x.dtype)
        x = x / scale * gain
        if "ln_final.b" in self._weights:
            x = x + self._weights["ln_final.b"].astype(x.dtype, copy=False)
        return x
