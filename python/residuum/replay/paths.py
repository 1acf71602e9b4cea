"""Path patching: what a head does through some paths only (Wang et al. 2022, section 3.1).

A sender's `z` is what it was in the clean run while all other heads keep what they did in the
corrupted one, so that it reaches later parts directly, or through MLPs. Without receivers the
logits are read there. With receivers, queries, keys or values of chosen heads, what these then are
is put into a second run, in which everything else is computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from residuum.errors import ArgumentError
from residuum.replay.edit import Edit
from residuum.replay.numbers import single
from residuum.replay.plan import Read, Run
from residuum.replay.resolve import positions
from residuum.replay.sweep import Pair, metric_columns, metrics_of, pairs
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from residuum.replay.engine import Replay
    from residuum.replay.metrics import Metric

Mlps = Literal["computed", "frozen"]


@dataclass(frozen=True)
class Receiver:
    """Where a path ends.

    Attributes:
        site: q, k or v.
        layer, head: whose; of k and v the head that the queries of a group share.
        tokens: positions; all by default.
    """

    site: str
    layer: int
    head: int
    tokens: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class _Question:
    """What is asked of every pair."""

    receivers: list[Receiver]
    senders: list[tuple[int, int]]
    mlps: Mlps
    tokens: Sequence[int] | None
    at: int


def paths(
    replay: Replay,
    clean: int | Sequence[int],
    corrupted: int | Sequence[int],
    receivers: Sequence[Receiver],
    senders: Sequence[tuple[int, int]] | None,
    metric: Metric | Sequence[Metric],
    mlps: Mlps,
    tokens: Sequence[int] | None,
    at: int,
) -> pa.Table:
    """See `Replay.paths`."""
    if mlps not in ("computed", "frozen"):
        message = f"MLPs between sender and receiver are computed or frozen, not {mlps!r}"
        raise ArgumentError(message)
    at = single("the token `at`", at)
    every = pairs(replay, clean, corrupted)
    metrics = metrics_of(replay, metric, every)
    _check_receivers(replay, receivers)
    last = max((one.layer for one in receivers), default=replay.of.n_layer)
    question = _Question(list(receivers), _senders(replay, senders, last), mlps, tokens, at)
    return pa.concat_tables(
        [_pair(replay, pair, question, of) for pair, of in zip(every, metrics, strict=True)]
    )


def _check_receivers(replay: Replay, receivers: Sequence[Receiver]) -> None:
    for one in _listed(receivers):
        site = replay.resolver.site(one.site)
        if site not in (Site.Q, Site.K, Site.V):
            message = f"a path ends at q, k or v of a head, not at {site}"
            raise ArgumentError(message)
        replay.resolver.layers(one.layer)
        replay.resolver.heads(site, one.head)


def _listed(receivers: Any) -> list[Receiver]:  # noqa: ANN401
    """Refuse what are no receivers."""
    if not isinstance(receivers, Receiver) and hasattr(receivers, "__iter__"):
        found = list(receivers)
        if all(isinstance(one, Receiver) for one in found):
            return found
    message = f'receivers are a list such as [Receiver("k", 5, 3)], not {receivers!r}'
    raise ArgumentError(message)


def _senders(
    replay: Replay, senders: Sequence[tuple[int, int]] | None, last: int
) -> list[tuple[int, int]]:
    """(layer, head) of each; by default all heads of the layers before the last receiver."""
    if not last:
        message = "no head reaches layer 0: name receivers of later layers"
        raise ArgumentError(message)
    if senders is None:
        return [(layer, head) for layer in range(last) for head in range(replay.of.n_head)]
    if not len(senders) or any(np.shape(sender) != (2,) for sender in senders):
        message = f"senders are a list of (layer, head), not {senders!r}"
        raise ArgumentError(message)
    if len({tuple(map(int, sender)) for sender in senders}) < len(senders):
        message = f"a sender is named twice among {list(senders)}"
        raise ArgumentError(message)
    for layer, head in senders:
        replay.resolver.layers(layer)
        replay.resolver.heads(Site.Z, head)
        if layer >= last:
            message = (
                f"head {head} of layer {layer} reaches no receiver: the last of them is in layer "
                f"{last}"
            )
            raise ArgumentError(message)
    return list(senders)


def _pair(replay: Replay, pair: Pair, question: _Question, metric: Metric) -> pa.Table:
    sent = [_sent(replay, pair, sender, question) for sender in question.senders]
    found = replay.execute(sent)
    if question.receivers:
        found = replay.execute([_received(pair, one, question, replay) for one in found])
    last = (Site.RESID_POST, replay.of.n_layer - 1)
    columns = {
        "layer": np.array([layer for layer, _ in question.senders], np.int64),
        "head": np.array([head for _, head in question.senders], np.int64),
    }
    streams = [one[last] for one in found]
    return metric_columns(replay, pair, columns, streams, np.arange(len(sent)), metric, question.at)


def _sent(replay: Replay, pair: Pair, sender: tuple[int, int], question: _Question) -> Run:
    """The run in which a sender alone does what it did in the clean one."""
    layer, head = sender
    n_token = pair.target.n_token
    every = np.arange(n_token)
    at = positions(question.tokens, n_token)
    z = replay.source.read(Site.Z, layer, at + pair.source.first_row, np.array([head]))
    edits = [Edit(Site.Z, layer, at, np.array([head]), shift=z)]
    for later in range(layer, replay.of.n_layer):
        if later > layer:
            edits.append(_frozen(replay, Site.Z, later, every))
        if question.mlps == "frozen":
            edits.append(_frozen(replay, Site.MLP_OUT, later, every))
    return Run(pair.target.first_row, n_token, edits, _reads(replay, pair, question))


def _frozen(replay: Replay, site: Site, layer: int, tokens: NDArray[np.int64]) -> Edit:
    replay.source.require(site, layer)
    return Edit(site, layer, tokens, cached=True)


def _reads(replay: Replay, pair: Pair, question: _Question) -> list[Read]:
    n_token = pair.target.n_token
    if not question.receivers:
        at = positions([question.at], n_token)
        return [Read(Site.RESID_POST, replay.of.n_layer - 1, at)]
    tokens: dict[tuple[Site, int], NDArray[np.int64]] = {}
    for one in question.receivers:
        where = (Site(one.site), one.layer)
        mine = positions(one.tokens, n_token)
        tokens[where] = np.union1d(tokens.get(where, mine), mine)
    return [Read(site, layer, at) for (site, layer), at in tokens.items()]


def _received(
    pair: Pair, found: dict[tuple[Site, int], NDArray[Any]], question: _Question, replay: Replay
) -> Run:
    """The run in which the receivers get what the first gave them."""
    n_token = pair.target.n_token
    read = {(one.site, one.layer): one.tokens for one in _reads(replay, pair, question)}
    edits = []
    for one in question.receivers:
        site = Site(one.site)
        at = positions(one.tokens, n_token)
        values = found[site, one.layer][np.searchsorted(read[site, one.layer], at)]
        head = np.array([one.head])
        edits.append(Edit(site, one.layer, at, head, shift=values[:, head]))
    last = Read(Site.RESID_POST, replay.of.n_layer - 1, positions([question.at], n_token))
    return Run(pair.target.first_row, n_token, edits, [last])
