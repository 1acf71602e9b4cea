"""Attention of packed query rows over two sorts of keys, in torch.

One are the example's cached ones, which all runs of the example share, the others those that a run
computed itself. Both are scored apart and meet in one softmax. A key that a run computed hides the
cached one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from residuum.replay.kit import Change, Keys, Look, Queries, Seen

    ToIndex = Callable[[NDArray[Any]], torch.Tensor]


def attend(
    queries: Queries,
    cached: Keys,
    own: Keys,
    seen: Seen,
    look: Look,
    change: Change | None,
    index: ToIndex,
) -> torch.Tensor:
    """See `kit.Kit.attend`; `index` brings numbers to the device."""
    out = torch.empty_like(queries.q)
    n_example = len(seen.start) - 1
    by_run = _grouped(seen.example, n_example)
    by_row = _grouped(seen.example[queries.run], n_example)
    for runs, at, start, end in zip(by_run, by_row, seen.start, seen.start[1:], strict=False):
        if not len(at):
            continue
        rows = index(at)
        number = index(np.searchsorted(runs, queries.run[at]))
        mine = _Rows(queries.q[rows], index(queries.token[at]), number)
        theirs = _Cached(cached.k[start:end], cached.v[start:end])
        hidden = index(seen.own[runs, : end - start])
        of_rows = None if change is None else _of(change, at)
        out[rows] = _one_example(mine, theirs, hidden, _own(own, seen, runs, index), look, of_rows)
    return out


def _grouped(group: NDArray[np.int64], n: int) -> list[NDArray[np.int64]]:
    """The places of each of `n` groups, ascending."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.searchsorted(group[order], np.arange(1, n)))


def _of(change: Change, at: NDArray[np.int64]) -> Callable[[torch.Tensor], torch.Tensor]:
    def of_rows(pattern: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = change(pattern, at)
        return changed

    return of_rows


@dataclass(frozen=True)
class _Rows:
    """Query rows of one example's runs: q `[row, head, d_head]`, token and run int64 `[row]`."""

    q: torch.Tensor
    token: torch.Tensor
    run: torch.Tensor


@dataclass(frozen=True)
class _Cached:
    """Keys and values of one example, `[token, kv_head, d_head]`."""

    k: torch.Tensor
    v: torch.Tensor


@dataclass(frozen=True)
class _Own:
    """Keys that runs computed themselves, padded.

    Attributes:
        k, v: of all, `[key, kv_head, d_head]`; token: int64 `[key]`.
        index: into these, `[run, slot]`.
        valid: which of these count.
    """

    k: torch.Tensor
    v: torch.Tensor
    token: torch.Tensor
    index: torch.Tensor
    valid: torch.Tensor


def _own(keys: Keys, seen: Seen, runs: NDArray[np.int64], index: ToIndex) -> _Own:
    """The keys of some runs, padded."""
    begin, end = (np.searchsorted(seen.own_run, runs, side=side) for side in ("left", "right"))
    n_slot = int((end - begin).max())
    slot = begin[:, None] + np.arange(n_slot)
    valid = slot < end[:, None]
    slot = np.where(valid, slot, 0)
    return _Own(keys.k, keys.v, index(seen.own_token), index(slot), index(valid))


def _sees(look: Look, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Whether queries at these tokens see keys at those, broadcast."""
    mask = torch.ones_like(query == key)
    if look.causal:
        mask &= key <= query
    if look.window is not None:
        mask &= key > query - look.window
    return mask


def _scored(look: Look, scores: torch.Tensor) -> torch.Tensor:
    """Scale and cap."""
    scores = scores * look.scaling
    return scores if look.softcap is None else (scores / look.softcap).tanh() * look.softcap


def _one_example(
    rows: _Rows,
    cached: _Cached,
    hidden: torch.Tensor,
    own: _Own,
    look: Look,
    change: Callable[[torch.Tensor], torch.Tensor] | None,
) -> torch.Tensor:
    """Pattern-weighted values of the runs of one example.

    Args:
        rows: the queries.
        cached: the example's keys, token by token from 0.
        hidden: bool `[run, token]`, cached keys that the run has computed anew.
        own: those.
        look: what a query sees.
        change: takes the pattern `[row, head, token]` and gives the one to use.

    Returns:
        z, `[row, head, d_head]`.
    """
    n_row, n_head, d_head = rows.q.shape
    n_cached, n_kv = cached.k.shape[:2]
    q = rows.q.reshape(n_row, n_kv, -1, d_head)
    neg = float("-inf")
    every = torch.arange(n_cached, device=rows.q.device)
    there = ~hidden[rows.run] & _sees(look, rows.token[:, None], every)
    scores = _scored(look, torch.einsum("rkgd,tkd->rkgt", q, cached.k))
    parts = [scores.masked_fill(~there[:, None, None], neg)]
    n_slot = own.index.shape[1]
    if n_slot:
        slot = _slots(rows.run)
        padded = _spread(q, rows.run, slot, len(own.index))
        mine = _scored(look, torch.einsum("bnkgd,bmkd->bnkgm", padded, own.k[own.index]))
        token = own.token[own.index][rows.run]
        visible = own.valid[rows.run] & _sees(look, rows.token[:, None], token)
        parts.append(mine[rows.run, slot].masked_fill(~visible[:, None, None], neg))
    pattern = torch.cat(parts, -1).softmax(-1)
    if change is not None:
        pattern = _changed(pattern, rows, hidden, own, change)
    z = torch.einsum("rkgt,tkd->rkgd", pattern[..., :n_cached], cached.v)
    if n_slot:
        padded = _spread(pattern[..., n_cached:], rows.run, slot, len(own.index))
        z = z + torch.einsum("bnkgm,bmkd->bnkgd", padded, own.v[own.index])[rows.run, slot]
    return z.reshape(n_row, n_head, d_head)


def _slots(run: torch.Tensor) -> torch.Tensor:
    """Number of each row within its run."""
    first = torch.searchsorted(run, run)
    return torch.arange(len(run), device=run.device) - first


def _spread(
    values: torch.Tensor, run: torch.Tensor, slot: torch.Tensor, n_run: int
) -> torch.Tensor:
    """`[row, ...]` -> `[run, slot, ...]`, zeros where a run has fewer rows."""
    out = values.new_zeros((n_run, int(slot.max()) + 1, *values.shape[1:]))
    out[run, slot] = values
    return out


def _changed(
    pattern: torch.Tensor,
    rows: _Rows,
    hidden: torch.Tensor,
    own: _Own,
    change: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Change the pattern with its keys in the order of tokens, whoever computed them."""
    n_row, n_kv, group, _ = pattern.shape
    n_cached = hidden.shape[1]
    by_token = pattern[..., :n_cached].reshape(n_row, n_kv * group, -1).clone()
    mine = pattern[..., n_cached:].reshape(n_row, n_kv * group, -1)
    valid = own.valid[rows.run][:, None].expand(mine.shape)
    if mine.numel():
        token = own.token[own.index][rows.run][:, None].expand(mine.shape)
        token = torch.where(valid, token, 0)
        by_token.scatter_add_(2, token, torch.where(valid, mine, 0.0))
    by_token = change(by_token)
    parts = [by_token.masked_fill(hidden[rows.run][:, None], 0.0)]
    if mine.numel():
        parts.append(torch.where(valid, by_token.gather(2, token), 0.0))
    return torch.cat(parts, -1).reshape(n_row, n_kv, group, -1)
