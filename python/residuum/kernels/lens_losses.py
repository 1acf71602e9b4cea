"""How far several lenses are from the model or the next token, and which way is better."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from residuum import _residuum
from residuum.errors import ArgumentError
from residuum.kernels.arrays import Floats, floats, integers, optional, unembedding
from residuum.kernels.lens_statistics import NO_TOKEN


def lens_gradients(
    x: ArrayLike,
    w_u: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    reference: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[Floats, Floats]:
    """How far several lenses of the same rows are off, and which way is better.

    The loss of a row is `KL(reference || row)` or, with targets, cross-entropy; in nats. The
    logits of 128 rows a thread are in memory, and the reference's of some hundred.

    Args:
        x: `[layer, row, d_model]`, normed.
        w_u: `[d_model, d_vocab]`; the transpose of a contiguous array is read in place.
        bias: `[d_vocab]`.
        reference: `[row, d_model]`, normed; the model's own last rows.
        targets: in its place, integers `[row]`, negative for none: no loss and no gradient.
        logit_scale: factor on the logits.
        softcap: `softcap * tanh(logit / softcap)` where given.

    Returns:
        float32 `[layer, row]` and, by the entries of `x`, `[layer, row, d_model]`.

    Raises:
        ArgumentError: axes that do not fit, a target beyond the vocabulary, or not just one of
            reference and targets.
    """
    rows = floats("x", x, 3)
    compared = optional("reference", reference, 2)
    weight, transposed = unembedding(w_u, rows, compared)
    loss, gradient = np.zeros(rows.shape[:2], np.float32), np.zeros(rows.shape, np.float32)
    if (reference is None) == (targets is None):
        message = "a lens learns from a reference or from targets: give one of them"
        raise ArgumentError(message)
    if rows.size:
        _residuum.lens_gradients(
            rows,
            weight,
            loss,
            gradient,
            transposed=transposed,
            bias=optional("bias", bias, 1),
            reference=compared,
            targets=None if targets is None else integers("targets", targets),
            logit_scale=logit_scale,
            softcap=softcap,
        )
    return loss, gradient


@dataclass(frozen=True, eq=False)
class Judged:
    """How far lenses are from the model's own predictions; by layer and row unless said.

    Attributes:
        kl: `KL(reference || row)`, nats. float32.
        entropy: of the softmax, nats. float32.
        top_id: uint32, the token with the largest logit; `NO_TOKEN` if one is NaN.
        target_logprob: nats; NaN without a target. float32.
        marginal: float64 `[layer, d_vocab]`, the sum over rows of their probabilities.
    """

    kl: Floats
    entropy: Floats
    top_id: NDArray[np.uint32]
    target_logprob: Floats
    marginal: NDArray[np.float64]

    def at(self, layer: int) -> "Judged":
        """Of one layer, without that axis."""
        each = (self.kl, self.entropy, self.top_id, self.target_logprob, self.marginal)
        return Judged(*(values[layer] for values in each))


def lens_judge(
    x: ArrayLike,
    w_u: ArrayLike,
    reference: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Judged:
    """How far several lenses of the same rows are from a reference, in one product each.

    The reference's distributions of 128 rows are in memory, and the logits of 64 a thread.

    Args:
        x: `[layer, row, d_model]`, normed.
        w_u: `[d_model, d_vocab]`; the transpose of a contiguous array is read in place.
        reference: `[row, d_model]`, normed; the model's own last rows.
        bias: `[d_vocab]`.
        targets: integers `[row]`, negative for none.
        logit_scale: factor on the logits.
        softcap: `softcap * tanh(logit / softcap)` where given.

    Raises:
        ArgumentError: axes that do not fit, or a target beyond the vocabulary.
    """
    rows, compared = floats("x", x, 3), floats("reference", reference, 2)
    weight, transposed = unembedding(w_u, rows, compared)
    shape = rows.shape[:2]
    found = Judged(
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
        np.full(shape, NO_TOKEN, np.uint32),
        np.full(shape, np.nan, np.float32),
        np.zeros((shape[0], weight.shape[0] if transposed else weight.shape[1])),
    )
    if rows.size:
        _residuum.lens_judge(
            rows,
            weight,
            compared,
            found.kl,
            found.entropy,
            found.top_id,
            found.target_logprob,
            found.marginal,
            transposed=transposed,
            bias=optional("bias", bias, 1),
            targets=None if targets is None else integers("targets", targets),
            logit_scale=logit_scale,
            softcap=softcap,
        )
    return found
