"""Typed doors to the compiled kernels: arrays in, arrays out.

Inputs are anything numpy takes and are read as float32, without a copy where they are that already.
Long sums are float64; results do not depend on the number of threads. A NaN in a row makes that
row's results NaN, never another row's.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from residuum import _residuum
from residuum.errors import ArgumentError

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class LensStats:
    """What the logits of each row say, without the logits.

    Ranks count from 0; probabilities are natural logarithms, entropies and divergences in nats.
    Without a reference or targets the arrays about them are empty.

    Attributes:
        top_ids: uint32 `[row, k]`, the likeliest tokens, best first; equal logits by lower id.
        top_logits: float32 `[row, k]`.
        top_logprobs: float32 `[row, k]`.
        lse: float32 `[row]`, the log of the sum of exponentials of all logits.
        entropy: float32 `[row]`.
        kl_to_reference: float32 `[row]`, KL(reference || row).
        target_logit: float32 `[row]`, NaN without a target.
        target_logprob: float32 `[row]`, NaN without a target.
        target_rank: uint32 `[row]`, `NO_TOKEN` without a target.
    """

    top_ids: NDArray[np.uint32]
    top_logits: Floats
    top_logprobs: Floats
    lse: Floats
    entropy: Floats
    kl_to_reference: Floats
    target_logit: Floats
    target_logprob: Floats
    target_rank: NDArray[np.uint32]


NO_TOKEN = 0xFFFF_FFFF
"""In `top_ids` and `target_rank`: there is none."""


def lens(
    x: ArrayLike,
    w_u: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    reference: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    k: int = 5,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> LensStats:
    """Unembed rows that are normed already, and keep statistics instead of logits.

    Args:
        x: `[row, d_model]`.
        w_u: `[d_model, d_vocab]`; the transpose of a contiguous array is read in place.
        bias: `[d_vocab]`.
        reference: `[row, d_model]`, normed rows to compare with; `x` itself costs nothing more.
        targets: integers `[row]`, negative for none.
        k: length of the top lists, at most d_vocab.
        logit_scale: factor on the logits.
        softcap: `softcap * tanh(logit / softcap)` where given.

    Raises:
        ArgumentError: axes that do not fit, or a target beyond the vocabulary.
    """
    rows = _floats("x", x, 2)
    weight, transposed = _matrix("w_u", w_u)
    same = reference is x
    found = _residuum.lens(
        rows,
        weight,
        transposed=transposed,
        bias=_optional("bias", bias, 1),
        reference=rows if same else _optional("reference", reference, 2),
        targets=None if targets is None else _integers("targets", targets),
        k=k,
        logit_scale=logit_scale,
        softcap=softcap,
    )
    return LensStats(**found)


@dataclass(frozen=True, eq=False)
class Norm:
    """A model's normalisation.

    Attributes:
        kind: "layer_norm", "rms_norm" or "none".
        eps: added to the variance or mean square.
        offset: added to the gain: 1 for models that store `gain - 1`.
        weight: gain `[d_model]`; None is 1, and then `offset` is not used.
        bias: shift `[d_model]`; None is 0.
    """

    kind: str
    eps: float = 0.0
    offset: float = 0.0
    weight: ArrayLike | None = None
    bias: ArrayLike | None = None

    def apply(self, x: ArrayLike) -> Floats:
        """Normalise rows: `[row, d_model]` to float32 of the same shape.

        Raises:
            ArgumentError: axes that do not fit.
        """
        rows = _floats("x", x, 2)
        out = np.empty_like(rows)
        self._core().apply(rows, out)
        return out

    def scale(self, x: ArrayLike) -> Floats:
        """The divisor of every row: `[row, d_model]` to `[row]`; what `norm_scale` holds.

        Raises:
            ArgumentError: axes that do not fit.
        """
        return self._core().scale(_floats("x", x, 2))

    def fold(self, directions: ArrayLike) -> tuple[Floats, Floats]:
        """Directions seen through the norm with each row's divisor frozen.

        `norm(x) @ directions == x @ folded / scale(x)[:, None] + constant`.

        Args:
            directions: `[d_model, direction]`.

        Returns:
            folded `[d_model, direction]` and constant `[direction]`.

        Raises:
            ArgumentError: axes that do not fit.
        """
        return self._core().fold(_floats("directions", directions, 2))

    def _core(self) -> _residuum.Norm:
        return _residuum.Norm(
            self.kind,
            eps=self.eps,
            offset=self.offset,
            weight=_optional("weight", self.weight, 1),
            bias=_optional("bias", self.bias, 1),
        )


def layer_norm(
    x: ArrayLike, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *, eps: float
) -> Floats:
    """Layer norm of `x [row, d_model]`, gain and shift `[d_model]`."""
    return Norm("layer_norm", eps, 0.0, weight, bias).apply(x)


def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, *, eps: float, offset: float = 0.0
) -> Floats:
    """Root-mean-square norm of `x [row, d_model]`, gain `[d_model]` plus `offset`."""
    return Norm("rms_norm", eps, offset, weight).apply(x)


def attribution(
    z: ArrayLike, w_o: ArrayLike, directions: ArrayLike, *, scale: ArrayLike | None = None
) -> Floats:
    """What each head adds along directions, `z @ W_O[head] @ directions / scale`; no `head_out`.

    Args:
        z: `[row, head, d_head]`.
        w_o: `[head, d_head, d_model]`.
        directions: `[d_model, direction]`; see `Norm.fold` for directions behind a norm.
        scale: the frozen norm's divisor, `[row]`.

    Returns:
        `[row, head, direction]`.

    Raises:
        ArgumentError: axes that do not fit.
    """
    rows, weight = _floats("z", z, 3), _floats("w_o", w_o, 3)
    folded = _floats("directions", directions, 2)
    _same_axis("head", ("z", rows.shape[1]), ("w_o", weight.shape[0]))
    _same_axis("d_head", ("z", rows.shape[2]), ("w_o", weight.shape[1]))
    _same_axis("d_model", ("w_o", weight.shape[2]), ("directions", folded.shape[0]))
    out = np.empty((rows.shape[0], rows.shape[1], folded.shape[1]), np.float32)
    _residuum.attribution(rows, weight, folded, _optional("scale", scale, 1), out)
    return out


def matmul(a: ArrayLike, b: ArrayLike) -> Floats:
    """The product `[m, k] @ [k, n]`; transposes of contiguous arrays are read in place.

    Raises:
        ArgumentError: axes that do not fit.
    """
    (left, transposed_a), (right, transposed_b) = _matrix("a", a), _matrix("b", b)
    m = left.shape[1] if transposed_a else left.shape[0]
    n = right.shape[0] if transposed_b else right.shape[1]
    out = np.empty((m, n), np.float32)
    _residuum.matmul(left, right, out, transposed_a=transposed_a, transposed_b=transposed_b)
    return out


def _floats(name: str, values: ArrayLike, n_axis: int) -> Floats:
    array: NDArray[Any] = np.ascontiguousarray(values, dtype=np.float32)
    if array.ndim != n_axis:
        message = f"`{name}` has {array.ndim} axes, {list(array.shape)}, but needs {n_axis}"
        raise ArgumentError(message)
    return array


def _optional(name: str, values: ArrayLike | None, n_axis: int) -> Floats | None:
    return None if values is None else _floats(name, values, n_axis)


def _integers(name: str, values: ArrayLike) -> NDArray[np.int32]:
    array: NDArray[Any] = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        message = f"`{name}` is {array.dtype} {list(array.shape)}, but must be integers [row]"
        raise ArgumentError(message)
    return np.ascontiguousarray(array, dtype=np.int32)


def _matrix(name: str, values: ArrayLike) -> tuple[Floats, bool]:
    """A matrix as C-contiguous float32, and whether that is its transpose."""
    array: NDArray[Any] = np.asarray(values)
    if array.ndim == 2 and array.T.flags.c_contiguous and not array.flags.c_contiguous:
        return _floats(name, array.T, 2), True
    return _floats(name, array, 2), False


def _same_axis(axis: str, left: tuple[str, int], right: tuple[str, int]) -> None:
    if left[1] != right[1]:
        message = f"axis `{axis}` is {left[1]} in {left[0]} but {right[1]} in {right[0]}"
        raise ArgumentError(message)
