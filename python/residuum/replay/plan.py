"""Which rows a batch of replays has to compute: what an edit can change, and what is asked for.

A *run* is one example with its edits. For each layer there are masks `[run, token]`:

    dirty   what enters the block is not what the store holds
    keys    its keys and values are computed; those of other tokens come from the cached stream
    queries its way through the block is computed
    entered what enters the block counts: for its own way, or for its keys
    mixed   of these, z is not what the store holds, and counts; or q is asked for
    attn    of these, what attention adds to the stream counts: no edit puts something else there
    mlp     likewise what the MLP adds

    edits --forward--> dirty, touched        reads --backward--> queries, keys
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from residuum.replay.shared import shared
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from residuum.replay.architecture import Architecture
    from residuum.replay.edit import Edit
    from residuum.replay.shared import Shared

    Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Read:
    """What is asked of a run: a site of `edit.ORDER` at some tokens, int64 ascending."""

    site: Site
    layer: int
    tokens: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Run:
    """One example, replayed with edits.

    Attributes:
        first_row: of the example in its store.
        n_token: of the example.
    """

    first_row: int
    n_token: int
    edits: Sequence[Edit]
    reads: Sequence[Read]


@dataclass(frozen=True, eq=False)
class Plan:
    """The masks of a batch of runs, by layer; see the module's text.

    Attributes:
        dirty, keys, queries, entered, mixed, attn, mlp: bool `[run, token]` for each layer.
        edits: by layer and site, (number of the run, edit).
        changed: bool `[run, token]` for each read site and layer: what a read finds computed;
            elsewhere it is what the store holds.
        shared: whose stream runs go on from, where several begin alike.
    """

    runs: Sequence[Run]
    n_token: int
    dirty: list[Mask]
    keys: list[Mask]
    queries: list[Mask]
    entered: list[Mask]
    mixed: list[Mask]
    attn: list[Mask]
    mlp: list[Mask]
    edits: dict[tuple[int, Site], list[tuple[int, Edit]]]
    changed: dict[tuple[int, Site], Mask]
    shared: Shared


def plan(runs: Sequence[Run], of: Architecture, stored_z: Callable[[int], bool]) -> Plan:
    """Find out what has to be computed; `stored_z` says whether the store holds z of a layer."""
    n_token = max(run.n_token for run in runs)
    edits: dict[tuple[int, Site], list[tuple[int, Edit]]] = {}
    for number, run in enumerate(runs):
        for edit in run.edits:
            edits.setdefault((edit.layer, edit.site), []).append((number, edit))
    forward = _Forward(runs, n_token, edits, of)
    touched = [forward.layer(layer) for layer in range(of.n_layer)]
    begun = shared(runs)
    back = _Backward(runs, forward, of, stored_z, begun)
    for layer in reversed(range(of.n_layer)):
        back.layer(layer, touched[layer])
    masks = {name: found[::-1] for name, found in back.found.items()}
    return Plan(
        runs, n_token, forward.dirty, **masks, edits=edits, changed=forward.changed, shared=begun
    )


class _Forward:
    """What edits can change, layer by layer."""

    def __init__(
        self,
        runs: Sequence[Run],
        n_token: int,
        edits: dict[tuple[int, Site], list[tuple[int, Edit]]],
        of: Architecture,
    ) -> None:
        self.shape = (len(runs), n_token)
        self.edits = edits
        self.of = of
        self.own = np.arange(n_token) < np.array([run.n_token for run in runs])[:, None]
        self.dirty: list[Mask] = []
        self.keys: list[Mask] = []
        self.mixed: list[Mask] = []
        self.changed: dict[tuple[int, Site], Mask] = {}
        self._leaving = np.zeros(self.shape, bool)

    def layer(self, layer: int) -> Mask:
        """What leaves a block changed, before the edits of the next; call it in order."""
        dirty = self.after(layer, Site.RESID_PRE, self._leaving)
        self.dirty.append(dirty)
        q, k, v = (self.after(layer, site, dirty) for site in (Site.Q, Site.K, Site.V))
        self.keys.append(k | v)
        pattern = self.after(layer, Site.PATTERN, q | self.seen(k))
        self.mixed.append(pattern | self.seen(v))
        z = self.after(layer, Site.Z, self.mixed[-1])
        attn = self.after(layer, Site.ATTN_OUT, z)
        mid = self.after(layer, Site.RESID_MID, dirty | attn)
        mlp = self.after(layer, Site.MLP_OUT, dirty if self.of.parallel else mid)
        self._leaving = self.after(layer, Site.RESID_POST, mid | mlp)
        return self._leaving

    def after(self, layer: int, site: Site, before: Mask) -> Mask:
        """What is changed at a site, given what is without its edits."""
        mask = before
        for number, edit in self.edits.get((layer, site), ()):
            if mask is before:
                mask = before.copy()
            if not edit.cached:
                mask[number, edit.tokens] = True
            elif edit.heads is None:
                mask[number, edit.tokens] = False
        self.changed[layer, site] = mask
        return mask

    def given(self, layer: int, site: Site) -> Mask:
        """Tokens at which an edit puts something whole in place of what was there."""
        mask = np.zeros(self.shape, bool)
        for number, edit in self.edits.get((layer, site), ()):
            if edit.overwrites:
                mask[number, edit.tokens] = True
        return mask

    def seen(self, keys: Mask) -> Mask:
        """The queries that see one of these keys."""
        if not self.of.causal:
            return keys.any(1, keepdims=True) & self.own
        return np.logical_or.accumulate(keys, 1) & self.own


class _Backward:
    """Of what is changed, what is asked for, or needed for that; layers from the last."""

    def __init__(
        self,
        runs: Sequence[Run],
        forward: _Forward,
        of: Architecture,
        stored_z: Callable[[int], bool],
        begun: Shared,
    ) -> None:
        self.forward, self.of, self.stored_z, self.shared = forward, of, stored_z, begun
        self.asked = asked_for(runs, forward.shape)
        self.needed = np.zeros(forward.shape, bool)
        names = ("queries", "keys", "entered", "mixed", "attn", "mlp")
        self.found: dict[str, list[Mask]] = {name: [] for name in names}

    def layer(self, layer: int, touched: Mask) -> None:
        """Find a layer's masks; `touched` is what leaves it changed."""
        given = self.forward.given(layer + 1, Site.RESID_PRE)
        changed = self.forward.changed
        read = {s: mask & changed[at, s] for (at, s), mask in self.asked.items() if at == layer}
        own = [read.pop(site) for site in (Site.K, Site.V) if site in read]
        needed = self._led(layer, self.needed & ~given)
        passing = np.logical_or.reduce([touched & needed, *read.values()])
        counts, mixed, attn, mlp = self._branches(layer, passing, read)
        reach = _reached(mixed, causal=self.of.causal) & self.forward.own
        keys = np.logical_or.reduce([self.forward.keys[layer] & reach, *own])
        self.needed = counts | keys
        masks = (passing, keys, self.needed, mixed, attn, mlp)
        for name, mask in zip(self.found, masks, strict=True):
            self.found[name].append(mask)

    def _led(self, layer: int, needed: Mask) -> Mask:
        """What runs need of the block that their leaders compute last is the leaders' affair."""
        for run in np.flatnonzero(self.shared.until == layer + 1):
            needed[self.shared.leader[run]] |= needed[run]
            needed[run] = False
        return needed

    def _branches(
        self, layer: int, passing: Mask, read: dict[Site, Mask]
    ) -> tuple[Mask, Mask, Mask, Mask]:
        """Where what enters counts, where z is computed, attention adds, and the MLP does."""
        inner = [mask for site, mask in read.items() if site is not Site.RESID_POST]
        free = passing & ~np.logical_or.reduce([np.zeros_like(passing), *inner])
        given = {site: self.forward.given(layer, site) & free for site in _GIVEN}
        after = given[Site.RESID_POST]
        attn = passing & ~(given[Site.ATTN_OUT] | given[Site.RESID_MID] | after)
        mlp = passing & ~(given[Site.MLP_OUT] | after)
        mixed = attn & ~given[Site.Z]
        if self.stored_z(layer):
            mixed &= self.forward.mixed[layer]
        # Queries are computed on the way to z, also for those who only look at them.
        mixed |= read.get(Site.Q, np.zeros_like(mixed))
        return passing & ~after, mixed, attn, mlp


_GIVEN = (Site.Z, Site.ATTN_OUT, Site.RESID_MID, Site.MLP_OUT, Site.RESID_POST)


def asked_for(runs: Sequence[Run], shape: tuple[int, int]) -> dict[tuple[int, Site], Mask]:
    """What is read, bool `[run, token]` by layer and site."""
    asked: dict[tuple[int, Site], Mask] = {}
    for number, run in enumerate(runs):
        for read in run.reads:
            where = (read.layer, read.site)
            asked.setdefault(where, np.zeros(shape, bool))[number, read.tokens] = True
    return asked


def _reached(queries: Mask, *, causal: bool) -> Mask:
    """The keys that any of these queries sees."""
    if not causal:
        return np.broadcast_to(queries.any(1, keepdims=True), queries.shape)
    return np.logical_or.accumulate(queries[:, ::-1], 1)[:, ::-1]
