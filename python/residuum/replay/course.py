"""A plan on its way through the blocks: packed rows, whatever computes them.

    Plan (masks) ──▶ for each layer: rows ▶ norm ▶ q, k, v ▶ attention ▶ W_O ▶ MLP ──▶ reads
                         ▲                         ▲
                     the stream                keys and values of cached tokens, once per example

The blocks are our own: the library's layer calls go wrong without a word with caches and masks of
this kind (`Architecture` and `weights` say what they compute).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.replay.executor import Found
from residuum.replay.kit import Keys, Look, Queries, Seen
from residuum.replay.placed import Placed, placed
from residuum.replay.plan import asked_for
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.replay.architecture import Architecture
    from residuum.replay.executor import Cached
    from residuum.replay.kit import Array, Change, Kit, Part
    from residuum.replay.plan import Plan

    Rows = NDArray[np.int64]
    Which = NDArray[np.bool_]


class KitExecutor:
    """Runs plans for one model with what a kit computes."""

    def __init__(self, of: Architecture, kit: Kit) -> None:
        """Weights are looked up when a layer is first computed."""
        self.of = of
        self.kit = kit

    def run(self, plan: Plan, cached: Cached) -> dict[tuple[Site, int], Found]:
        """Compute what is asked for.

        Returns:
            by site and layer, the rows that runs were asked for and changed; all others are as the
            store has them.
        """
        return _Course(self, plan, cached).run()


class _Course:
    """One plan on its way."""

    def __init__(self, executor: KitExecutor, plan: Plan, cached: Cached) -> None:
        self.of, self.kit = executor.of, executor.kit
        self.plan = plan
        self.cached = cached
        # Runs of one example share what is cached of it.
        first = np.array([run.first_row for run in plan.runs])
        self.example_row, self.example = np.unique(first, return_inverse=True)
        self.n_token = np.array([run.n_token for run in plan.runs])
        self.found: dict[tuple[Site, int], Found] = {}
        self.asked = _asked(plan)
        # What leaves the last layer, and where in it the row of a run's token is.
        self.leaving = self.kit.array(np.empty((0, self.of.d_model), np.float32))
        self.place = np.full((len(plan.runs), plan.n_token), -1)

    def run(self) -> dict[tuple[Site, int], Found]:
        for layer in range(self.of.n_layer):
            if (self.plan.queries[layer] | self.plan.keys[layer]).any():
                _Layer(self, layer).run()
        return self.found


def _asked(plan: Plan) -> dict[tuple[Site, int], Which]:
    """Bool `[run, token]` by site and layer: what is read and changed."""
    asked = asked_for(plan.runs, plan.queries[0].shape)
    return {(site, at): mask & plan.changed[at, site] for (at, site), mask in asked.items()}


class _Layer:
    """One block: the rows that it computes, and what is cached for it."""

    def __init__(self, course: _Course, layer: int) -> None:
        self.course = course
        self.of, self.kit, self.plan, self.layer = course.of, course.kit, course.plan, layer
        self.block = course.kit.block(layer)
        queries, keys = self.plan.queries[layer], self.plan.keys[layer]
        self.run_of, self.token_of = np.nonzero(queries | keys)
        self.is_query = queries[self.run_of, self.token_of]
        self.is_key = keys[self.run_of, self.token_of]
        self.is_mixed = self.plan.mixed[layer][self.run_of, self.token_of]
        self.length = self.reach(queries | keys)
        self.start = np.concatenate(([0], np.cumsum(self.length)))

    def reach(self, rows: Which) -> Rows:
        """How far into each example its runs look."""
        course = self.course
        last = np.where(rows.any(1), rows.shape[1] - rows[:, ::-1].argmax(1), 0)
        length = np.zeros(len(course.example_row), np.int64)
        np.maximum.at(length, course.example, last if self.of.causal else course.n_token)
        return length

    def run(self) -> None:
        if not self.plan.entered[self.layer].any():
            self.leave_given()
            return
        stream = self.cached_stream()
        x = self.entering(stream)
        h = x if self.of.post_norm else self.block.norm(0, x)
        z = self.edited(Site.Z, self.z(h, stream))
        z = z.reshape(len(z), self.of.n_head * self.of.d_head)
        self.leave(self.some(x, self.is_query), self.some(h, self.is_query), z)

    def z(self, h: Array, stream: Array) -> Array:
        """What attention gives the queries: computed where it can have changed, else as stored.

        Where it counts for nothing it is zero if it is not stored.
        """
        run, token = self.rows(self.is_query)
        computed = None
        own = self.own_keys(h)
        if self.is_mixed.any():
            cached = self.cached_keys(stream)
            q = self.by_head(self.block.q(self.some(h, self.is_mixed)))
            q = self.kit.rotated(self.edited(Site.Q, q, self.is_mixed), self.tokens(self.is_mixed))
            queries = Queries(q, *self.rows(self.is_mixed))
            computed = self.kit.attend(
                queries, cached, own, self.seen(), self.look(), self.pattern_change()
            )
            if (self.is_mixed == self.is_query).all():
                return computed
        if self.course.cached.has(Site.Z, self.layer):
            z = self.kit.array(self.stored(Site.Z, run, token))
        else:
            z = self.kit.array(np.zeros((len(run), self.of.n_head, self.of.d_head), np.float32))
        if self.is_mixed.any():
            z[self.kit.index(np.flatnonzero(self.is_mixed[self.is_query]))] = computed
        return z

    def stored(self, site: Site, run: Rows, token: Rows) -> NDArray[Any]:
        """What the store holds of these rows."""
        first = self.course.example_row[self.course.example[run]]
        return self.course.cached.read(site, self.layer, first + token)

    def leave(self, x: Array, h: Array, z: Array) -> None:
        """From what heads give to the stream that leaves: `[row, d_model]` of the queries.

        `x`, the stream that entered, is used up.
        """
        block, of = self.block, self.of
        entering = h
        if of.parallel and block.n_norm > 1:
            entering = block.norm(1, x)
        mid = self.branch(Site.ATTN_OUT, z, x)
        if not of.parallel:
            mid = self.edited(Site.RESID_MID, mid)
            entering = mid if of.post_norm else block.norm(1, mid)
        self.left(self.branch(Site.MLP_OUT, entering, mid))

    def branch(self, site: Site, x: Array, stream: Array) -> Array:
        """The stream with what attention or the MLP gives: added in place if nobody looks at it."""
        block, of, at = self.block, self.of, (self.layer, site)
        number, part, mask = 0, block.out, self.plan.attn[self.layer]
        if site is Site.MLP_OUT:
            number, part, mask = 1, block.mlp, self.plan.mlp[self.layer]
        counts = mask[self.rows(self.is_query)]
        seen = at in self.plan.edits or at[::-1] in self.course.asked
        if counts.all() and not (seen or of.post_norm or block.has_branch_norms):
            return part(x, stream)
        given = self.where(counts, x, part)
        if of.post_norm:
            given = block.norm(number, stream + given) - stream
        elif block.has_branch_norms:
            given = block.branch_norm(number, given)
        return stream + self.edited(site, given)

    def where(self, counts: Which, x: Array, part: Part) -> Array:
        """What a part of the block gives for some of the queries; the others get zeros."""
        if counts.all():
            return part(x)
        out = self.kit.array(np.zeros((len(counts), self.of.d_model), np.float32))
        if counts.any():
            rows = self.kit.index(np.flatnonzero(counts))
            out[rows] = part(x[rows])
        return out

    def leave_given(self) -> None:
        """Where edits of what leaves say all of it, nothing of the block is computed."""
        shape = (int(self.is_query.sum()), self.of.d_model)
        self.left(self.kit.array(np.zeros(shape, np.float32)))

    def left(self, leaving: Array) -> None:
        """Edit what leaves the block, and keep it for the next."""
        leaving = self.edited(Site.RESID_POST, leaving)
        course = self.course
        course.leaving = leaving
        course.place = np.full_like(course.place, -1)
        rows = self.rows(self.is_query)
        course.place[rows] = np.arange(len(rows[0]))

    def some(self, x: Array, which: Which) -> Array:
        """These of the layer's rows."""
        return x if which.all() else x[self.kit.index(np.flatnonzero(which))]

    def rows(self, which: Which) -> tuple[Rows, Rows]:
        """(run, token) of the queries or of the keys."""
        return self.run_of[which], self.token_of[which]

    def tokens(self, which: Which) -> Rows:
        return self.token_of[which]

    def by_head(self, x: Array) -> Array:
        return x.reshape(len(x), x.shape[1] // self.of.d_head, self.of.d_head)

    def cached_stream(self) -> Array:
        """What enters the block by the store: the examples' tokens one after another."""
        rows = self.cached_rows()
        return self.kit.array(self.course.cached.read(Site.RESID_PRE, self.layer, rows))

    def cached_rows(self) -> Rows:
        """The rows of the store that the examples' tokens are."""
        first = self.course.example_row
        spans = [np.arange(n) + row for row, n in zip(first, self.length, strict=True)]
        return np.concatenate(spans)

    def entering(self, stream: Array) -> Array:
        """What enters the block, with its edits, `[row, d_model]`."""
        course = self.course
        place = course.place[self.led_by, self.token_of]
        dirty = self.plan.dirty[self.layer][self.run_of, self.token_of]
        computed = dirty & (place >= 0)
        stored = self.start[course.example[self.run_of]] + self.token_of
        rows = np.where(computed, place, len(course.leaving) + stored)
        x = self.kit.gathered(course.leaving, stream, rows)
        every = np.ones(len(self.run_of), bool)
        for rows, places, edit in self.edits(Site.RESID_PRE, every):
            if edit.cached:
                x[self.kit.index(rows)] = stream[self.kit.index(stored[rows])]
            else:
                self.apply(edit, x, rows, places)
        self.keep(Site.RESID_PRE, x, every)
        return x

    @property
    def led_by(self) -> Rows:
        """The run that computed what enters, for each row."""
        shared = self.plan.shared
        leads = shared.until[self.run_of] == self.layer
        return np.where(leads, shared.leader[self.run_of], self.run_of)

    def own_keys(self, h: Array) -> Keys:
        """The keys that runs compute themselves."""
        mine = self.some(h, self.is_key)
        k = self.edited(Site.K, self.by_head(self.block.k(mine)), self.is_key)
        v = self.edited(Site.V, self.by_head(self.block.v(mine)), self.is_key)
        return Keys(self.rotated(k), v)

    def rotated(self, k: Array) -> Array:
        """Own keys, each by its position and as much further as edits say; frozen ones are not."""
        turns, tokens = self.turns(), self.tokens(self.is_key)
        rotated = self.kit.rotated(k, tokens + turns)
        if not turns.any():
            return rotated
        index = self.kit.index
        for rows, _, edit in self.edits(Site.K, self.is_key):
            if edit.cached:
                heads = np.arange(self.of.n_kv_head) if edit.heads is None else edit.heads
                at = (index(rows)[:, None], index(heads)[None])
                rotated[at] = self.kit.rotated(k[index(rows)], tokens[rows])[:, index(heads)]
        return rotated

    def cached_keys(self, stream: Array) -> Keys:
        """Those of all cached tokens: from the store where it has them, else from the stream."""
        cached, layer = self.course.cached, self.layer
        token = np.concatenate([np.arange(n) for n in self.length])
        if cached.has(Site.K, layer) and cached.has(Site.V, layer):
            rows = self.cached_rows()
            k, v = (self.kit.array(cached.read(site, layer, rows)) for site in (Site.K, Site.V))
            return Keys(self.kit.rotated(k, token), v)
        theirs = stream if self.of.post_norm else self.block.norm(0, stream)
        k = self.kit.rotated(self.by_head(self.block.k(theirs)), token)
        return Keys(k, self.by_head(self.block.v(theirs)))

    def turns(self) -> Rows:
        """Steps by which each own key is rotated further."""
        turns = np.zeros(int(self.is_key.sum()), np.int64)
        for rows, which, edit in self.edits(Site.K, self.is_key):
            if edit.turn is not None:
                np.add.at(turns, rows, edit.turn[which])
        return turns

    def seen(self) -> Seen:
        own = self.plan.keys[self.layer]
        return Seen(self.course.example, self.start, *self.rows(self.is_key), own)

    def look(self) -> Look:
        of = self.of
        return Look(of.scaling[self.layer], of.softcap, of.window[self.layer], of.causal)

    def pattern_change(self) -> Change | None:
        """How the pattern of some queries is changed; None if it is not."""
        edits = list(self.edits(Site.PATTERN, self.is_mixed))
        if not edits:
            return None

        def change(pattern: Array, at: Rows) -> Array:
            for rows, which, edit in edits:
                here, there = np.intersect1d(at, rows, return_indices=True)[1:]
                if len(here):
                    self.apply(edit, pattern, here, which[there])
            return pattern

        return change

    def edits(self, site: Site, which: Which) -> Iterator[tuple[Rows, Rows, Placed]]:
        """(rows among `which`, places of the edit that these are, edit) of a site's edits."""
        edits = self.plan.edits.get((self.layer, site), ())
        if not edits:
            return
        place = np.full(self.course.place.shape, -1)
        run, token = self.rows(which)
        place[run, token] = np.arange(len(run))
        for edit in placed(edits):
            rows = place[edit.run, edit.token]
            there = np.flatnonzero(rows >= 0)
            if len(there):
                yield rows[there], there, edit

    def edited(self, site: Site, values: Array, which: Which | None = None) -> Array:
        """Apply a site's edits to the rows of the queries (or others), and keep what is read."""
        which = self.is_query if which is None else which
        for rows, places, edit in self.edits(site, which):
            self.apply(edit, values, rows, places)
        self.keep(site, values, which)
        return values

    def apply(self, edit: Placed, values: Array, rows: Rows, places: Rows) -> None:
        """Change rows in place; `places` says which of the edit's they are."""
        if edit.turn is not None:
            return
        index = self.kit.index
        at: Any = index(rows)
        if edit.heads is not None:
            at = (index(rows)[:, None], index(edit.heads)[None])
        x: Array = 0.0
        if edit.off is not None:
            off = self.kit.array(edit.off)
            x = values[at] - (values[at] @ off.T) @ off
        elif edit.scale != 0.0:
            x = values[at] * edit.scale
        shift = edit.shift[places] if edit.shift is not None else self.kept(edit, places)
        if shift is not None:
            x = x + self.kit.array(_as_wide(shift, values.shape[-1]))
        values[at] = x

    def kept(self, edit: Placed, places: Rows) -> NDArray[Any] | None:
        """What the store holds where an edit keeps that."""
        if not edit.cached:
            return None
        values = self.stored(edit.site, edit.run[places], edit.token[places])
        return values if edit.heads is None else values[:, edit.heads]

    def keep(self, site: Site, values: Array, which: Which) -> None:
        """Keep what is asked of a site."""
        asked = self.course.asked.get((site, self.layer))
        if asked is None:
            return
        run, token = self.rows(which)
        wanted = asked[run, token]
        rows = self.kit.index(np.flatnonzero(wanted))
        self.course.found[site, self.layer] = Found(
            run[wanted], token[wanted], self.kit.numpy(values[rows])
        )


def _as_wide(shift: NDArray[Any], width: int) -> NDArray[Any]:
    """A pattern's keys as far as anybody looks; other sites are that wide."""
    missing = width - shift.shape[-1]
    if missing <= 0:
        return shift[..., :width]
    return np.pad(shift, [(0, 0)] * (shift.ndim - 1) + [(0, missing)])
