"""Metrics: one number of the logits at a token.

sweep(…, metric=logit_diff(10, 12))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow.compute as pc
    from numpy.typing import NDArray

    Floats = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Metric:
    """A number for each row of logits.

    Attributes:
        name: of the column in tables.
        tokens: the logits that it reads, in this order; None for the whole vocabulary.
        of: takes logits `[row, token]` and those of the unpatched runs, same shape; gives `[row]`.
    """

    name: str
    tokens: tuple[int, ...] | None
    of: Callable[[Floats, Floats], Floats]


def logit_diff(a: int, b: int) -> Metric:
    """The logit of token `a` minus that of token `b`."""
    return Metric("logit_diff", (a, b), lambda x, _clean: x[:, 0] - x[:, 1])


def logit(token: int) -> Metric:
    """The logit of a token."""
    return Metric("logit", (token,), lambda x, _clean: x[:, 0])


def log_prob(token: int) -> Metric:
    """The log-probability of a token, in nats."""
    return Metric("log_prob", None, lambda x, _clean: _log_softmax(x)[:, token])


def prob(token: int) -> Metric:
    """The probability of a token."""
    return Metric("prob", None, lambda x, _clean: np.exp(_log_softmax(x)[:, token]))


def kl() -> Metric:
    """The divergence KL(unpatched || patched) of the next-token distributions, in nats."""

    def of(x: Floats, clean: Floats) -> Floats:
        p, q = _log_softmax(clean), _log_softmax(x)
        return np.asarray((np.exp(p) * (p - q)).sum(-1))

    return Metric("kl", None, of)


def rank(token: int) -> Metric:
    """How many tokens have a larger logit than this one."""
    return Metric(
        "rank", None, lambda x, _clean: (x > x[:, token, None]).sum(-1).astype(np.float64)
    )


def accuracy(answer: int, candidates: Sequence[int]) -> Metric:
    """1 where the answer has the largest logit of the candidates (it is one of them), else 0."""
    tokens = (answer, *(token for token in candidates if token != answer))
    return Metric("accuracy", tokens, lambda x, _clean: (x.argmax(-1) == 0).astype(np.float64))


def expression(what: pc.Expression, tokens: Sequence[int], name: str = "expression") -> Metric:
    """An Arrow expression over the columns `logit_<token>` and `clean_<token>`.

    `expression(pc.field("logit_7") - pc.field("clean_7"), [7])`
    """

    def of(x: Floats, clean: Floats) -> Floats:
        columns = {f"logit_{token}": x[:, i] for i, token in enumerate(tokens)}
        columns |= {f"clean_{token}": clean[:, i] for i, token in enumerate(tokens)}
        table = pa.table({key: np.ascontiguousarray(value) for key, value in columns.items()})
        found = ds.dataset(table).to_table(columns={name: what})[name]
        return np.asarray(found.to_numpy(), np.float64)

    return Metric(name, tuple(tokens), of)


def _log_softmax(x: Floats) -> Floats:
    shifted = x - x.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
