"""Run a plan in torch: packed rows through the blocks, on any device.

    Plan (masks) ──▶ for each layer: rows ▶ norm ▶ q, k, v ▶ attention ▶ W_O ▶ MLP ──▶ reads
                         ▲                         ▲
                     the stream                keys and values of cached tokens, once per example

The blocks are our own: the library's layer calls go wrong without a word with caches and masks of
this kind (`Architecture` and `weights` say what they compute).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from residuum.replay.executor import Found
from residuum.replay.plan import asked_for
from residuum.replay.torch_attention import Keys, Look, Own, Rows, attend
from residuum.replay.torch_blocks import TorchBlock, rotated, tensor, torch_block
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from residuum.replay.architecture import Architecture
    from residuum.replay.edit import Edit
    from residuum.replay.executor import Cached
    from residuum.replay.plan import Plan
    from residuum.replay.weights import Weights

__all__ = ["TorchExecutor"]


class TorchExecutor:
    """Runs plans for one model on one device."""

    def __init__(
        self,
        of: Architecture,
        weights: Weights,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Weights are brought to the device when a layer is first computed, and stay there."""
        self.of = of
        self.weights = weights
        self.device = torch.device(device)
        self.dtype = dtype
        self._blocks: dict[int, TorchBlock] = {}

    def block(self, layer: int) -> TorchBlock:
        """One block's weights on the device."""
        if layer not in self._blocks:
            made = torch_block(self.weights.block(layer), self.of, self.device, self.dtype)
            self._blocks[layer] = made
        return self._blocks[layer]

    @torch.no_grad()
    def run(self, plan: Plan, cached: Cached) -> dict[tuple[Site, int], Found]:
        """Compute what is asked for.

        Returns:
            by site and layer, the rows that runs were asked for and changed; all others are as the
            store has them.
        """
        return _Pass(self, plan, cached).run()


class _Pass:
    """One plan on its way through the blocks."""

    def __init__(self, executor: TorchExecutor, plan: Plan, cached: Cached) -> None:
        self.executor = executor
        self.of = executor.of
        self.plan = plan
        self.cached = cached
        # Runs of one example share what is cached of it.
        first = np.array([run.first_row for run in plan.runs])
        self.example_row, self.example = np.unique(first, return_inverse=True)
        self.found: dict[tuple[Site, int], Found] = {}
        self.asked = _asked(plan)
        # What leaves the last layer, and where in it the row of a run's token is.
        self.leaving = self.to_device(np.empty((0, self.of.d_model), np.float32))
        self.place = np.full((len(plan.runs), plan.n_token), -1)

    def to_device(self, array: NDArray[Any]) -> torch.Tensor:
        return tensor(array, self.executor.device, self.executor.dtype)

    def index(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.executor.device)

    def run(self) -> dict[tuple[Site, int], Found]:
        for layer in range(self.of.n_layer):
            if (self.plan.queries[layer] | self.plan.keys[layer]).any():
                _Layer(self, layer).run()
        return self.found


def _asked(plan: Plan) -> dict[tuple[Site, int], NDArray[np.bool_]]:
    """Bool `[run, token]` by site and layer: what is read and changed."""
    asked = asked_for(plan.runs, plan.queries[0].shape)
    return {(site, at): mask & plan.changed[at, site] for (at, site), mask in asked.items()}


class _Layer:
    """One block: the rows that it computes, and what is cached for it."""

    def __init__(self, course: _Pass, layer: int) -> None:
        self.course = course
        self.of, self.plan, self.layer = course.of, course.plan, layer
        self.block = course.executor.block(layer)
        queries, keys = self.plan.queries[layer], self.plan.keys[layer]
        self.run_of, self.token_of = np.nonzero(queries | keys)
        self.is_query = queries[self.run_of, self.token_of]
        self.is_key = keys[self.run_of, self.token_of]
        # Where z is stored, it is computed only for those whose attention can have changed.
        stored = course.cached.has(Site.Z, layer)
        mixed = self.plan.mixed[layer] if stored else queries
        self.is_mixed = mixed[self.run_of, self.token_of]
        # How far into its example each is looked at.
        both = queries | keys
        reach = np.where(both.any(1), both.shape[1] - both[:, ::-1].argmax(1), 0)
        if not self.of.causal:
            reach = np.array([run.n_token for run in self.plan.runs])
        self.length = np.zeros(len(course.example_row), np.int64)
        np.maximum.at(self.length, course.example, reach)
        self.start = np.concatenate(([0], np.cumsum(self.length)))

    def run(self) -> None:
        stream = self.cached_stream()
        x = self.entering(stream)
        h = x if self.of.post_norm else self.block.norms[0](x)
        queries = self.course.index(np.flatnonzero(self.is_query))
        z = self.edited(Site.Z, self.z(h, stream))
        self.leave(x[queries], h[queries], self.block.out(z.flatten(1)))

    def z(self, h: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        """What attention gives the queries: computed where it can have changed, else as stored."""
        by_head = (self.of.n_head, self.of.d_head)
        if self.is_mixed.any() or self.is_key.any():
            own, cached = self.keys(h, stream)
            mixed = self.course.index(np.flatnonzero(self.is_mixed))
            q = self.edited(Site.Q, self.block.q(h[mixed]).unflatten(1, by_head), self.is_mixed)
            q = rotated(q, self.tokens(self.is_mixed), self.of.rotary)
            computed = self.attention(q, own, cached)
            if (self.is_mixed == self.is_query).all():
                return computed
        run, token = self.rows(self.is_query)
        first = self.course.example_row[self.course.example[run]]
        z = self.course.to_device(self.course.cached.read(Site.Z, self.layer, first + token))
        if self.is_mixed.any():
            z[self.course.index(np.flatnonzero(self.is_mixed[self.is_query]))] = computed
        return z

    def leave(self, x: torch.Tensor, h: torch.Tensor, attn: torch.Tensor) -> None:
        """From what attention gives to the stream that leaves: `[row, d_model]` of the queries."""
        norms, branch = self.block.norms, self.block.branch_norms
        if self.of.post_norm:
            attn = norms[0](x + attn) - x
        elif branch:
            attn = branch[0](attn)
        attn = self.edited(Site.ATTN_OUT, attn)
        mid = x + attn
        if not self.of.parallel:
            mid = self.edited(Site.RESID_MID, mid)
        if self.of.post_norm:
            entering = mid
        elif self.of.parallel:
            entering = norms[1](x) if len(norms) > 1 else h
        else:
            entering = norms[1](mid)
        mlp = self.block.mlp(entering)
        if self.of.post_norm:
            mlp = norms[1](mid + mlp) - mid
        elif branch:
            mlp = branch[1](mlp)
        leaving = self.edited(Site.RESID_POST, mid + self.edited(Site.MLP_OUT, mlp))
        course = self.course
        course.leaving = leaving
        course.place = np.full_like(course.place, -1)
        rows = self.rows(self.is_query)
        course.place[rows] = np.arange(len(rows[0]))

    def rows(self, which: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(run, token) of the queries or of the keys."""
        return self.run_of[which], self.token_of[which]

    def tokens(self, which: NDArray[np.bool_]) -> torch.Tensor:
        return self.course.index(self.token_of[which])

    def cached_stream(self) -> torch.Tensor:
        """What enters the block by the store: the examples' tokens one after another."""
        first = self.course.example_row
        spans = [np.arange(n) + row for row, n in zip(first, self.length, strict=True)]
        rows = self.course.cached.read(Site.RESID_PRE, self.layer, np.concatenate(spans))
        return self.course.to_device(rows)

    def entering(self, stream: torch.Tensor) -> torch.Tensor:
        """What enters the block, with its edits, `[row, d_model]`."""
        course = self.course
        place = course.place[self.run_of, self.token_of]
        dirty = self.plan.dirty[self.layer][self.run_of, self.token_of]
        computed = dirty & (place >= 0)
        stored = self.start[course.example[self.run_of]] + self.token_of
        x = stream[course.index(stored)]
        x[course.index(np.flatnonzero(computed))] = course.leaving[course.index(place[computed])]
        return self.edited(Site.RESID_PRE, x, np.ones(len(self.run_of), bool))

    def keys(self, h: torch.Tensor, stream: torch.Tensor) -> tuple[Keys, Keys]:
        """The keys that runs compute themselves, and those of all cached tokens."""
        mine = h[self.course.index(np.flatnonzero(self.is_key))]
        by_head = (self.of.n_kv_head, self.of.d_head)
        k = self.edited(Site.K, self.block.k(mine).unflatten(1, by_head), self.is_key)
        v = self.edited(Site.V, self.block.v(mine).unflatten(1, by_head), self.is_key)
        token = self.tokens(self.is_key)
        own = Keys(rotated(k, token + self.turns(), self.of.rotary), v, token)
        theirs = stream if self.of.post_norm else self.block.norms[0](stream)
        token = self.course.index(np.concatenate([np.arange(n) for n in self.length]))
        k = rotated(self.block.k(theirs).unflatten(1, by_head), token, self.of.rotary)
        return own, Keys(k, self.block.v(theirs).unflatten(1, by_head), token)

    def turns(self) -> torch.Tensor:
        """Steps by which each own key is rotated further."""
        turns = np.zeros(int(self.is_key.sum()), np.int64)
        for rows, which, edit in self.edits(Site.K, self.is_key):
            if edit.turn is not None:
                turns[rows] += edit.turn[which]
        return self.course.index(turns)

    def attention(self, q: torch.Tensor, own: Keys, cached: Keys) -> torch.Tensor:
        """The z of the rows whose attention is computed, example by example."""
        look = Look(
            self.of.scaling[self.layer],
            self.of.softcap,
            self.of.window[self.layer],
            self.of.causal,
        )
        query_run, query_token = self.rows(self.is_mixed)
        out = torch.empty_like(q)
        for example, (start, end) in enumerate(zip(self.start, self.start[1:], strict=False)):
            runs = np.flatnonzero(self.course.example == example)
            at = np.flatnonzero(np.isin(query_run, runs))
            if not len(at):
                continue
            rows = self.course.index(at)
            number = np.searchsorted(runs, query_run[at])
            mine = Rows(q[rows], self.course.index(query_token[at]), self.course.index(number))
            hidden = self.plan.keys[self.layer][runs, : self.length[example]]
            theirs = Keys(cached.k[start:end], cached.v[start:end], cached.token[start:end])
            change = self.pattern_change(at)
            out[rows] = attend(
                mine, theirs, self.course.index(hidden), self.own(own, runs), look, change
            )
        return out

    def own(self, keys: Keys, runs: NDArray[np.int64]) -> Own:
        """The keys of some runs, padded."""
        key_run = self.run_of[self.is_key]
        begin, end = (np.searchsorted(key_run, runs, side=side) for side in ("left", "right"))
        n_slot = int((end - begin).max())
        index = begin[:, None] + np.arange(n_slot)
        valid = index < end[:, None]
        index = np.where(valid, index, 0)
        return Own(keys, self.course.index(index), self.course.index(valid))

    def pattern_change(
        self, at: NDArray[np.int64]
    ) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """How the pattern of the queries `at` is changed; None if it is not."""
        edits = self.edits(Site.PATTERN, self.is_mixed)
        if not edits:
            return None

        def change(pattern: torch.Tensor) -> torch.Tensor:
            for rows, which, edit in edits:
                here, there = np.intersect1d(at, rows, return_indices=True)[1:]
                if len(here):
                    self.apply(edit, pattern, here, which[there])
            return pattern

        return change

    def edits(
        self, site: Site, which: NDArray[np.bool_]
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64], Edit]]:
        """(rows among `which`, tokens of the edit that these are, edit) of a site's edits."""
        edits = self.plan.edits.get((self.layer, site), ())
        if not edits:
            return []
        place = np.full(self.course.place.shape, -1)
        run, token = self.rows(which)
        place[run, token] = np.arange(len(run))
        found = []
        for number, edit in edits:
            rows = place[number, edit.tokens]
            there = np.flatnonzero(rows >= 0)
            if len(there):
                found.append((rows[there], there, edit))
        return found

    def edited(
        self, site: Site, values: torch.Tensor, which: NDArray[np.bool_] | None = None
    ) -> torch.Tensor:
        """Apply a site's edits to the rows of the queries (or others), and keep what is read."""
        which = self.is_query if which is None else which
        for rows, tokens, edit in self.edits(site, which):
            self.apply(edit, values, rows, tokens)
        self.keep(site, values, which)
        return values

    def apply(
        self,
        edit: Edit,
        values: torch.Tensor,
        rows: NDArray[np.int64],
        tokens: NDArray[np.int64],
    ) -> None:
        """Change rows in place; `tokens` says which of the edit's they are."""
        index = self.course.index
        at: tuple[torch.Tensor, ...] = (index(rows),)
        if edit.heads is not None:
            at = (index(rows)[:, None], index(edit.heads)[None])
        if edit.turn is not None:
            return
        x = values[at]
        if edit.off is not None:
            off = self.course.to_device(edit.off)
            x = x - (x @ off.T) @ off
        else:
            x = torch.zeros_like(x) if edit.scale == 0.0 else x * edit.scale
        if edit.shift is not None:
            # A pattern's last keys are cut off where nobody looks that far.
            shift = edit.shift[tokens][..., : x.shape[-1]]
            x = x + self.course.to_device(shift)
        values[at] = x

    def keep(self, site: Site, values: torch.Tensor, which: NDArray[np.bool_]) -> None:
        """Keep what is asked of a site."""
        asked = self.course.asked.get((site, self.layer))
        if asked is None:
            return
        run, token = self.rows(which)
        wanted = asked[run, token]
        rows = self.course.index(np.flatnonzero(wanted))
        self.course.found[site, self.layer] = Found(
            run[wanted], token[wanted], values[rows].cpu().numpy()
        )
