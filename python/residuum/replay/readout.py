"""From a residual row to logits, by the weights that a store keeps: as they are, and linearly.

With LayerNorm (weights w, b), logit[t] = scale * (norm(x) @ W_U + b_U)[t] and norm(x) divides by
one number per row. Holding that number at its captured value makes the logit a sum over the
components of x: each adds `component @ direction[t] / divisor`, and what is left is `constant[t]`.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from residuum import kernels
from residuum.errors import SiteError, StoreError
from residuum.kernels import Judged, LensStats, Norm

if TYPE_CHECKING:
    from residuum.store import Store

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Readout:
    """The final norm and the unembedding of a model.

    `w_u`: [d_model, d_vocab]; `b_u`: [d_vocab] or None.
    """

    norm: Norm
    w_u: Floats
    b_u: Floats | None
    logit_scale: float
    logit_softcap: float | None
    _columns: dict[tuple[int, ...], Floats] = field(default_factory=dict, repr=False, compare=False)

    @property
    def d_vocab(self) -> int:
        """How many tokens have a logit."""
        return int(self.w_u.shape[1])

    def logits(
        self, stream: NDArray[Any], columns: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """`[row, d_model]` before the final norm -> `[row, column]`, in the dtype of the stream."""
        return self.unembed(self._normed(stream), columns)

    def unembed(
        self, normed: NDArray[Any], columns: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """The same from normed rows; all of the vocabulary without `columns`."""
        b = self.b_u
        if columns is None:
            out = normed @ self.w_u.astype(normed.dtype, copy=False)
        else:
            key = tuple(map(int, columns))
            if key not in self._columns:
                self._columns[key] = np.ascontiguousarray(self.w_u[:, columns])
            out = normed @ self._columns[key].astype(normed.dtype, copy=False)
            b = None if b is None else b[columns]
        if b is not None:
            out += b
        out *= self.logit_scale
        cap = self.logit_softcap
        return np.asarray(out if cap is None else cap * np.tanh(out / cap))

    def _normed(self, x: NDArray[Any]) -> NDArray[Any]:
        """In the dtype of the rows, which `Norm.apply` narrows to float32."""
        norm = self.norm
        if norm.kind == "none":
            return x
        if norm.kind == "layer_norm":
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + x.dtype.type(norm.eps))
        if norm.weight is not None:
            x = x * (np.asarray(norm.weight) + norm.offset).astype(x.dtype)
        return x if norm.bias is None else x + np.asarray(norm.bias).astype(x.dtype, copy=False)

    def linear(self, tokens: NDArray[np.integer[Any]]) -> tuple[Floats, NDArray[np.float64]]:
        """What the logit of each token reads, the norm's divisor left out.

        Returns:
            Directions [token, d_model] for rows before the norm, and constants [token], the part of
            the logit that no component carries.

        """
        folded, constant = self.norm.fold(self.w_u[:, tokens])
        bias = 0.0 if self.b_u is None else self.b_u[tokens]
        directions = np.ascontiguousarray(folded.T * np.float32(self.logit_scale))
        return directions, (constant.astype(np.float64) + bias) * self.logit_scale

    def mean_linear(
        self, to: NDArray[np.integer[Any]], minus: NDArray[np.integer[Any]]
    ) -> tuple[Floats, NDArray[np.float64]]:
        """The same of the mean logit of `to` less that of `minus`, which may be empty.

        Returns:
            One direction [1, d_model] and its constant [1].

        """
        direction, constant = self._mean(to)
        if len(minus):
            less, of = self._mean(minus)
            direction, constant = direction - less, constant - of
        return direction, constant

    def _mean(self, tokens: NDArray[np.integer[Any]]) -> tuple[Floats, NDArray[np.float64]]:
        directions, constants = self.linear(tokens)
        return directions.mean(axis=0, keepdims=True), constants.mean(keepdims=True)

    def statistics(
        self, normed: Floats, reference: Floats, targets: NDArray[np.int32], k: int
    ) -> LensStats:
        """The unembedding of normed rows as statistics; see `kernels.lens`."""
        return kernels.lens(
            normed,
            self.w_u,
            bias=self.b_u,
            reference=reference,
            targets=targets,
            k=k,
            logit_scale=self.logit_scale,
            softcap=self.logit_softcap,
        )

    def judge(self, x: Floats, reference: Floats, targets: NDArray[np.int32]) -> Judged:
        """Normed rows of several lenses, `[lens, row, d_model]`; see `kernels.lens_judge`."""
        return kernels.lens_judge(
            x,
            self.w_u,
            reference,
            bias=self.b_u,
            targets=targets,
            logit_scale=self.logit_scale,
            softcap=self.logit_softcap,
        )


def readout(store: "Store", *, analysis: str) -> Readout:
    """The readout of the captured model.

    Raises:
        StoreError: The model has no unembedding, so that there are no logits to speak of.

    """
    weights, settings = store.weights, store.model.get("readout")
    if settings is None:
        message = (
            f"{analysis} needs the model's weights, but {store.path} was imported and holds "
            "activations alone: capture the model to ask this."
        )
        raise StoreError(message)
    if "W_U" not in weights:
        message = (
            f"{analysis} needs logits, but the model in {store.path} has no unembedding that reads "
            "the final norm: capture a model with a language-model head (AutoModelForCausalLM)."
        )
        raise StoreError(message)
    norm = Norm(
        settings["norm"],
        settings["eps"],
        settings["norm_offset"],
        weights.get("ln_final.w"),
        weights.get("ln_final.b"),
    )
    scale, softcap = settings["logit_scale"], settings["logit_softcap"]
    return Readout(norm, weights["W_U"], weights.get("b_U"), scale, softcap)


def read_final(store: "Store", rows: slice | NDArray[np.int64]) -> Floats:
    """The last residual rows before the final norm, [row, d_model], float32.

    From `resid_final`, or from the last layer of `resid_post`, which is the same.
    """
    if "resid_final" in store.sites:
        return np.asarray(store["resid_final"].read(rows=rows), np.float32)
    site = store["resid_post"]
    last = site.shape[1] - 1
    if last not in site.layers:
        message = (
            f"{store.path} holds resid_post without the last layer, {last}, and no resid_final: "
            "capture again with --site resid_final."
        )
        raise SiteError(message)
    final = site.read(rows=rows, layers=[last]).reshape(-1, site.shape[-1])
    return np.asarray(final, np.float32)
