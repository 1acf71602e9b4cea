"""Attention of packed query rows over two sorts of keys.

One are the example's cached ones, which all runs of the example share, the others those that a run
computed itself. Both are scored apart and meet in one softmax. A key that a run computed hides the
cached one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True)
class Keys:
    """Keys and values, `[key, kv_head, d_head]`, and the token of each, int64 `[key]`."""

    k: torch.Tensor
    v: torch.Tensor
    token: torch.Tensor


@dataclass(frozen=True)
class Rows:
    """Query rows of one example's runs.

    Attributes:
        q: `[row, head, d_head]`, rotated.
        token: int64 `[row]`.
        run: int64 `[row]`, from 0, ascending.
    """

    q: torch.Tensor
    token: torch.Tensor
    run: torch.Tensor


@dataclass(frozen=True)
class Own:
    """Keys that runs computed themselves, padded.

    Attributes:
        index: into `keys`, `[run, slot]`.
        valid: which of these count.
    """

    keys: Keys
    index: torch.Tensor
    valid: torch.Tensor


@dataclass(frozen=True)
class Look:
    """How scores are made and which keys a query sees."""

    scaling: float
    softcap: float | None
    window: int | None
    causal: bool

    def sees(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Whether queries at these tokens see keys at those, broadcast."""
        mask = torch.ones_like(query == key)
        if self.causal:
            mask &= key <= query
        if self.window is not None:
            mask &= key > query - self.window
        return mask

    def scores(self, scores: torch.Tensor) -> torch.Tensor:
        """Scale and cap."""
        scores = scores * self.scaling
        return scores if self.softcap is None else (scores / self.softcap).tanh() * self.softcap


def attend(
    rows: Rows,
    cached: Keys,
    hidden: torch.Tensor,
    own: Own,
    look: Look,
    change: Callable[[torch.Tensor], torch.Tensor] | None,
) -> torch.Tensor:
    """Pattern-weighted values.

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
    n_kv = cached.k.shape[1]
    q = rows.q.reshape(n_row, n_kv, -1, d_head)
    neg = float("-inf")
    there = ~hidden[rows.run] & look.sees(rows.token[:, None], cached.token[None])
    parts = [
        look.scores(torch.einsum("rkgd,tkd->rkgt", q, cached.k)).masked_fill(
            ~there[:, None, None], neg
        )
    ]
    n_slot = own.index.shape[1]
    if n_slot:
        slot = _slots(rows.run)
        padded = _spread(q, rows.run, slot, len(own.index))
        mine = look.scores(torch.einsum("bnkgd,bmkd->bnkgm", padded, own.keys.k[own.index]))
        token = own.keys.token[own.index][rows.run]
        seen = own.valid[rows.run] & look.sees(rows.token[:, None], token)
        parts.append(mine[rows.run, slot].masked_fill(~seen[:, None, None], neg))
    pattern = torch.cat(parts, -1).softmax(-1)
    if change is not None:
        pattern = _changed(pattern, rows, hidden, own, change)
    n_cached = len(cached.token)
    z = torch.einsum("rkgt,tkd->rkgd", pattern[..., :n_cached], cached.v)
    if n_slot:
        padded = _spread(pattern[..., n_cached:], rows.run, slot, len(own.index))
        z = z + torch.einsum("bnkgm,bmkd->bnkgd", padded, own.keys.v[own.index])[rows.run, slot]
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
    rows: Rows,
    hidden: torch.Tensor,
    own: Own,
    change: Callable[[torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """Change the pattern with its keys in the order of tokens, whoever computed them."""
    n_row, n_kv, group, _ = pattern.shape
    n_cached = hidden.shape[1]
    by_token = pattern[..., :n_cached].reshape(n_row, n_kv * group, -1).clone()
    mine = pattern[..., n_cached:].reshape(n_row, n_kv * group, -1)
    valid = own.valid[rows.run][:, None].expand(mine.shape)
    if mine.numel():
        token = own.keys.token[own.index][rows.run][:, None].expand(mine.shape)
        token = torch.where(valid, token, 0)
        by_token.scatter_add_(2, token, torch.where(valid, mine, 0.0))
    by_token = change(by_token)
    parts = [by_token.masked_fill(hidden[rows.run][:, None], 0.0)]
    if mine.numel():
        parts.append(torch.where(valid, by_token.gather(2, token), 0.0))
    return torch.cat(parts, -1).reshape(n_row, n_kv, group, -1)
