"""How far two predictions are apart, of log-probabilities `[..., token]`: by the other axes, nats.

Whole distributions are in memory: for blocks of rows. `kernels.lens` has the KL of many rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[Any]


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities, in the dtype of the logits."""
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def kl(log_p: Floats, log_q: Floats) -> Floats:
    """`KL(p || q)`."""
    p = np.exp(log_p)
    # A token without a share adds nothing, even where its log-probability is -inf.
    below = np.where(p > 0, log_p, 0.0) - np.where(p > 0, log_q, 0.0)
    return np.asarray(np.maximum(0.0, (p * below).sum(-1, dtype=np.float64)))


def js(log_p: Floats, log_q: Floats) -> Floats:
    """Jensen and Shannon's divergence: mean KL of both to their mean; at most ln 2."""
    middle = np.logaddexp(log_p, log_q) - np.log(2).astype(log_p.dtype)
    return np.asarray((kl(log_p, middle) + kl(log_q, middle)) / 2)


def total_variation(log_p: Floats, log_q: Floats) -> Floats:
    """The largest difference of the probabilities of any set of tokens; at most sqrt(KL / 2)."""
    return np.asarray(np.abs(np.exp(log_p) - np.exp(log_q)).sum(-1, dtype=np.float64) / 2)
