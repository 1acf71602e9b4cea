"""Metrics: one number of the logits at a token.

sweep(…, metric=logit_diff(10, 12))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from residuum.errors import ArgumentError
from residuum.replay.numbers import single, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow.compute as pc
    from numpy.typing import NDArray

    Floats = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Beside:
    """What a metric may compare with, logits `[row, token]`.

    Attributes:
        unpatched: of the example that is patched (of a sweep the corrupted one).
        clean: of the example whose values are put in; where there is none, `unpatched`.
    """

    unpatched: Floats
    clean: Floats


@dataclass(frozen=True, eq=False)
class Metric:
    """A number for each row of logits.

    Attributes:
        name: of the column in tables.
        tokens: the logits that it reads, in this order; None for the whole vocabulary.
        of: takes logits `[row, token]` and what they are beside, same shape; gives `[row]`.
        names: all tokens that it is about, which the vocabulary has to have.
    """

    name: str
    tokens: tuple[int, ...] | None
    of: Callable[[Floats, Beside], Floats]
    names: tuple[int, ...] = ()


def logit_diff(a: int, b: int) -> Metric:
    """The logit of token `a` minus that of token `b`."""
    tokens = _tokens(a, b)
    return Metric("logit_diff", tokens, lambda x, _beside: x[:, 0] - x[:, 1], tokens)


def logit(token: int) -> Metric:
    """The logit of a token."""
    tokens = _tokens(token)
    return Metric("logit", tokens, lambda x, _beside: x[:, 0], tokens)


def log_prob(token: int) -> Metric:
    """The log-probability of a token, in nats."""
    names = _tokens(token)
    return Metric("log_prob", None, lambda x, _beside: _log_softmax(x)[:, token], names)


def prob(token: int) -> Metric:
    """The probability of a token."""
    names = _tokens(token)
    return Metric("prob", None, lambda x, _beside: np.exp(_log_softmax(x)[:, token]), names)


def kl(to: str = "unpatched") -> Metric:
    """The divergence KL(to || patched) of the next-token distributions, in nats.

    Args:
        to: "unpatched", the run of the patched example (of a sweep the corrupted one), or "clean",
            that of the example whose values are put in.

    Raises:
        ArgumentError: another run.
    """
    if to not in ("unpatched", "clean"):
        message = f"the divergence is from the run that is unpatched or clean, not {to!r}"
        raise ArgumentError(message)

    def of(x: Floats, beside: Beside) -> Floats:
        p, q = _log_softmax(getattr(beside, to)), _log_softmax(x)
        return np.asarray((np.exp(p) * (p - q)).sum(-1))

    return Metric("kl", None, of)


def rank(token: int) -> Metric:
    """How many tokens have a larger logit than this one; NaN where a logit is none."""

    def of(x: Floats, _beside: Beside) -> Floats:
        return _known(x, (x > x[:, token, None]).sum(-1))

    return Metric("rank", None, of, _tokens(token))


def accuracy(answer: int, candidates: Sequence[int]) -> Metric:
    """1 where the answer has the largest logit of the candidates, else 0; NaN for NaN.

    Args:
        answer: a token, which need not be named among the candidates.
        candidates: tokens, one of which at least is another.
    """
    others = [token for token in _tokens(*candidates) if token != answer]
    if not others:
        message = f"accuracy needs candidates beside the answer {answer}"
        raise ArgumentError(message)
    tokens = (*_tokens(answer), *others)
    return Metric("accuracy", tokens, lambda x, _beside: _known(x, x.argmax(-1) == 0), tokens)


def expression(what: pc.Expression, tokens: Sequence[int], name: str = "expression") -> Metric:
    """An Arrow expression over the columns `logit_<token>`, `unpatched_<token>`, `clean_<token>`.

    `expression(pc.field("logit_7") - pc.field("unpatched_7"), [7])`; `name` is that of its column.
    The last two are `Beside`'s: of a sweep the corrupted and the clean example's own logits.

    Raises:
        ArgumentError: no expression, no name, or tokens that are none.
    """
    if not name or not isinstance(name, str):
        message = f"the column of an expression has a name, not {name!r}"
        raise ArgumentError(message)
    ids = _tokens(*whole("tokens", tokens))
    if not isinstance(what, pa.compute.Expression):
        message = f"an Arrow expression is made by pyarrow.compute.field and such; {what!r} is none"
        raise ArgumentError(message)

    def of(x: Floats, beside: Beside) -> Floats:
        each = {"logit": x, "unpatched": beside.unpatched, "clean": beside.clean}
        columns = {f"{of}_{id}": y[:, i] for of, y in each.items() for i, id in enumerate(ids)}
        table = pa.table({key: np.ascontiguousarray(value) for key, value in columns.items()})
        try:
            found = ds.dataset(table).to_table(columns={name: what})[name]
        except pa.ArrowInvalid as error:
            message = f"the expression reads what is not there: it has {', '.join(columns)}"
            raise ArgumentError(message) from error
        except (pa.ArrowException, NotImplementedError) as error:
            message = f"Arrow cannot compute the expression of float32 columns: {error}"
            raise ArgumentError(message) from error
        if not pa.types.is_primitive(found.type):
            message = f"the expression gives {found.type}, not a number for each row"
            raise ArgumentError(message)
        return np.asarray(found.to_numpy(), np.float64)

    return Metric(name, ids, of, ids)


def check_metric(metric: object, d_vocab: int, columns: Sequence[str]) -> None:
    """Refuse what is no metric, and tokens that the vocabulary does not have.

    Raises:
        ArgumentError: it is one of these, or its name is that of another column.
    """
    if not isinstance(metric, Metric):
        message = f"the metric is {metric!r}: give one such as residuum.replay.logit_diff(10, 12)"
        raise ArgumentError(message)
    outside = [token for token in metric.names if token >= d_vocab]
    if outside:
        message = f"token {outside[0]} is not in the vocabulary, which has {d_vocab}, from 0"
        raise ArgumentError(message)
    if metric.name in columns:
        message = f"the metric is called {metric.name}, like another column: give it another name"
        raise ArgumentError(message)


def _tokens(*tokens: int) -> tuple[int, ...]:
    """Token ids.

    Raises:
        ArgumentError: something else, such as text or a negative number.
    """
    ids = tuple(single("a token id", token) for token in tokens)
    if any(token < 0 for token in ids):
        message = f"token ids count from 0: {min(ids)} is none"
        raise ArgumentError(message)
    return ids


def _known(x: Floats, values: Floats) -> Floats:
    """Values as numbers, NaN in rows where a logit is."""
    return np.where(np.isnan(x).any(-1), np.nan, values.astype(np.float64))


def _log_softmax(x: Floats) -> Floats:
    shifted = x - x.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
