"""`Replay`: patched passes of a store's model, computed from what the store holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from residuum.errors import ArgumentError
from residuum.replay.architecture import architecture
from residuum.replay.check import check
from residuum.replay.cost import full_flops, plan_flops, row_bytes
from residuum.replay.edit import ORDER, changing
from residuum.replay.metrics import check_metric
from residuum.replay.numbers import single
from residuum.replay.patch import Patch, Zero
from residuum.replay.paths import Mlps, Receiver, paths
from residuum.replay.plan import Plan, Read, Run, plan
from residuum.replay.readout import Readout, readout
from residuum.replay.resolve import Example, Resolver, positions
from residuum.replay.source import Source
from residuum.replay.sweep import COLUMNS, ablate, sweep, sweep_runs
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from residuum.progress import Reporter
    from residuum.replay.edit import Edit
    from residuum.replay.executor import Executor, Found
    from residuum.replay.metrics import Metric
    from residuum.replay.patch import Value
    from residuum.store import Store

Asked: TypeAlias = "str | tuple[str, int]"
"""What can be read: "logits", or a site and a layer."""


def _listed(patches: Any) -> Sequence[Patch | Sequence[Patch]]:  # noqa: ANN401
    """Refuse a patch that stands alone: one element is one replay."""
    if isinstance(patches, Patch) or not hasattr(patches, "__iter__"):
        message = f"give a list of patches, one replay for each element, not {patches!r}"
        raise ArgumentError(message)
    listed = list(patches)
    for together in listed:
        for patch in [together] if isinstance(together, Patch) else together:
            if not isinstance(patch, Patch):
                message = f"{patch!r} is no patch: give residuum.replay.Patch(site, rows, ...)"
                raise ArgumentError(message)
    return listed


def _asked(read: Any) -> list[Asked]:  # noqa: ANN401
    if isinstance(read, str) or not hasattr(read, "__iter__"):
        message = f'`read` is a list such as ["logits", ("resid_post", 2)], not {read!r}'
        raise ArgumentError(message)
    wanted = [tuple(asked) if isinstance(asked, list) else asked for asked in read]
    for asked in wanted:
        if not isinstance(asked, str | tuple):
            message = f'{asked!r} cannot be read: say "logits", or a site and a layer'
            raise ArgumentError(message)
    return wanted


@dataclass(frozen=True)
class _Wanted:
    """A read that is made of a site at a layer."""

    site: Site
    layer: int
    logits: bool


class Replay:
    """Answers what a pass would have given with patches; computes only what they can change."""

    def __init__(
        self,
        store: Store,
        executor: Executor,
        *,
        memory_bytes: int,
        progress: bool | None = False,
    ) -> None:
        """Use `residuum.replay(store)`, which chooses the executor."""
        self.store = store
        self.of = architecture(store)
        self.source = Source(store, self.of)
        self.resolver = Resolver(self.source)
        self.executor = executor
        self.memory_bytes = memory_bytes
        self.progress = progress

    def run(
        self,
        patches: Sequence[Patch | Sequence[Patch]],
        read: Sequence[Asked] = ("logits",),
        tokens: Sequence[int] | None = None,
    ) -> list[dict[Asked, NDArray[Any]]]:
        """Replay once for each element; an element of several patches makes all of them at once.

        Args:
            patches: patches, each of one example.
            read: "logits", or `(site, layer)` with a site that can be patched.
            tokens: positions that are read, -1 being the last, in ascending order; all by default.

        Returns:
            for each element, by read, `[token, ...]`.

        Raises:
            SiteError, SelectionError, ArgumentError: a patch that means nothing here, or one that
                alone exceeds the memory budget.
        """
        wanted = {asked: self._wanted(asked) for asked in _asked(read)}
        runs = [self._run(one, list(wanted.values()), tokens) for one in _listed(patches)]
        found = self.execute(runs)
        logits = self._logits(found) if any(one.logits for one in wanted.values()) else None
        return [
            {
                asked: logits[number] if one.logits and logits else values[one.site, one.layer]
                for asked, one in wanted.items()
            }
            for number, values in enumerate(found)
        ]

    def sweep(
        self,
        site: str,
        clean: int | Sequence[int],
        corrupted: int | Sequence[int],
        over: Sequence[str] = ("layer", "token"),
        *,
        metric: Metric | Sequence[Metric],
        layers: Sequence[int] | None = None,
        tokens: Sequence[int] | None = None,
        at: int = -1,
    ) -> pa.Table:
        """Put what the clean example did into the corrupted one: activation patching.

        Args:
            site: where.
            clean: number of the example whose values are put in, or one for each pair.
            corrupted: of the one that they are put into; as many, each as long as its partner.
            over: "layer", with "token" or "head" or both. Without "token" all tokens are patched
                at once, without "head" all heads.
            metric: of the logits at one token; or one for each pair, such as its own answer's.
            layers: that are patched; all by default.
            tokens: that are patched; all by default.
            at: the token whose logits count; the last by default.

        Returns:
            a row for each pair and patch: clean, corrupted, layer, token, head, the metric under
            its name, and what it is for the unpatched examples.
        """
        return sweep(self, site, clean, corrupted, over, metric, layers, tokens, at)

    def ablate(
        self,
        site: str,
        examples: int | Sequence[int],
        over: Sequence[str] = ("layer", "head"),
        *,
        value: Value | None = None,
        metric: Metric | Sequence[Metric],
        layers: Sequence[int] | None = None,
        tokens: Sequence[int] | None = None,
        at: int = -1,
    ) -> pa.Table:
        """Put something in the place of each cell: zeros, the mean, other rows' values.

        Args:
            site: that is ablated, such as `z`.
            examples: number of the example, or several.
            over: the axes of a cell: `layer`, and `token` or `head`.
            value: of a patch, for all cells alike: `Zero()` by default, `Mean()`, `Scale(0.5)`, …
            metric: of the logits at one token; or one for each example.
            layers: that are ablated; all by default.
            tokens: that are ablated; all by default.
            at: the token whose logits count; the last by default.

        Returns:
            a row for each example and cell: example, layer, token, head, the metric under its name,
            and what it is unpatched.
        """
        value = Zero() if value is None else value
        return ablate(self, site, examples, over, value, metric, layers, tokens, at)

    def paths(
        self,
        clean: int | Sequence[int],
        corrupted: int | Sequence[int],
        receivers: Sequence[Receiver] = (),
        senders: Sequence[tuple[int, int]] | None = None,
        *,
        metric: Metric | Sequence[Metric],
        mlps: Mlps = "computed",
        tokens: Sequence[int] | None = None,
        at: int = -1,
    ) -> pa.Table:
        """Path patching: what the clean run's heads do through some paths (Wang et al. 2022).

        Args:
            clean: number of the example whose heads send, or one for each pair.
            corrupted: of the one that they send into; as many, each as long as its partner.
            receivers: where paths end, all together; without any at the logits (direct effects).
            senders: (layer, head) of each; by default all heads before the last receiver.
            metric: of the logits at one token; or one for each pair.
            mlps: between sender and receiver: "computed", so that paths go through them, or
                "frozen" as in the corrupted run, which needs `mlp_out`.
            tokens: at which the sender sends; all by default.
            at: the token whose logits count; the last by default.

        Returns:
            a row for each pair and sender: clean, corrupted, layer, head, the metric under its
            name, and what it is for the unpatched examples.

        Raises:
            SiteError: `z` was not captured, or a head or layer that is not there.
            ArgumentError: a sender that reaches no receiver, pairs of different lengths.
        """
        return paths(self, clean, corrupted, receivers, senders, metric, mlps, tokens, at)

    def explain(
        self,
        patches: Sequence[Patch | Sequence[Patch]],
        read: Sequence[Asked] = ("logits",),
        tokens: Sequence[int] | None = (-1,),
    ) -> str:
        """What `run` would compute for these patches, and what a full pass.

        Args:
            patches: as of `run`.
            read: as of `run`.
            tokens: as of `run`, but the last by default.

        Raises:
            SiteError: the store does not hold what they start from.
        """
        wanted = [self._wanted(asked) for asked in _asked(read)]
        return self._explained([self._run(one, wanted, tokens) for one in _listed(patches)])

    def explain_sweep(
        self,
        site: str,
        clean: int | Sequence[int],
        corrupted: int | Sequence[int],
        over: Sequence[str] = ("layer", "token"),
        *,
        layers: Sequence[int] | None = None,
        tokens: Sequence[int] | None = None,
        at: int = -1,
    ) -> str:
        """What `sweep` would compute, and what full passes; cells that change nothing are none."""
        runs = sweep_runs(self, site, clean, corrupted, over, layers, tokens, at)
        return self._explained(runs)

    def _explained(self, runs: Sequence[Run]) -> str:
        lines, total, full = [], 0.0, 0.0
        by_layer = np.zeros((self.of.n_layer, 3))
        for _, one in self._batches(runs):
            for layer, mask in enumerate(one.entered):
                if mask.any():
                    self.source.require(Site.RESID_PRE, layer)
            flops = plan_flops(one, self.of)
            by_layer += np.stack(
                [
                    [mask.sum() for mask in one.queries],
                    [mask.sum() for mask in one.keys],
                    flops,
                ],
                1,
            )
            total += sum(flops)
            full += full_flops(one, self.of)
        n_token = sum(run.n_token for run in runs)
        what = "1 replay" if len(runs) == 1 else f"{len(runs)} replays"
        lines.append(f"{what} of {n_token} tokens, {self.of.n_layer} layers")
        for layer, (queries, keys, flops) in enumerate(by_layer):
            lines.append(
                f"layer {layer:3}: {queries:8.0f} rows computed, {keys:8.0f} with keys of their "
                f"own, {_flops(flops)}"
            )
        share = total / full if full else 0.0
        lines.append(f"{_flops(total)} in place of {_flops(full)} for full passes ({share:.1%})")
        return "\n".join(lines)

    def check(self, examples: Sequence[int] | None = None) -> pa.Table:
        """How far a replay is from what the store holds: whole passes from the first block on.

        What is off is the rounding of the stored stream (16-bit stores) and of the computation.

        Args:
            examples: numbers; the first 16 by default.

        Returns:
            a row for each example and layer: example, layer, `max_difference` of what leaves the
            block, and `max_size`, the largest number there.
        """
        return check(self, examples)

    def streams(self, runs: Sequence[Run], bar: Reporter | None = None) -> list[NDArray[Any]]:
        """What leaves the last block at the tokens that each run reads, `[token, d_model]`."""
        last = (Site.RESID_POST, self.of.n_layer - 1)
        return [found[last] for found in self.execute(runs, bar)]

    def final(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """What left the last block unpatched, `[row, d_model]`."""
        return self.source.read(Site.RESID_POST, self.of.n_layer - 1, rows)

    def check_metric(self, metric: Metric) -> None:
        """Refuse a metric that cannot be computed; see `metrics.check_metric`."""
        check_metric(metric, self.readout.d_vocab, COLUMNS)

    def logits(self, stream: NDArray[Any], metric: Metric) -> NDArray[Any]:
        """The logits that a metric reads."""
        columns = None if metric.tokens is None else np.array(metric.tokens)
        return self.readout.logits(stream, columns)

    def _wanted(self, asked: Asked) -> _Wanted:
        if asked == "logits":
            return _Wanted(Site.RESID_POST, self.of.n_layer - 1, logits=True)
        if isinstance(asked, str) or len(asked) != 2:
            message = f'{asked!r} cannot be read: say "logits", or a site and a layer'
            raise ArgumentError(message)
        site = self.resolver.site(asked[0])
        if site is Site.PATTERN:
            message = "a replayed pattern cannot be read: read z, or q and k"
            raise ArgumentError(message)
        layer = single("the layer of a read", asked[1])
        return _Wanted(site, int(self.resolver.layers(layer)[0]), logits=False)

    def _run(
        self,
        patches: Patch | Sequence[Patch],
        wanted: Sequence[_Wanted],
        tokens: Sequence[int] | None,
    ) -> Run:
        together = [patches] if isinstance(patches, Patch) else list(patches)
        edits: list[Edit] = []
        examples: set[Example] = set()
        for patch in together:
            example, made = self.resolver.edits(patch)
            examples.add(example)
            edits += made
        if len(examples) != 1:
            message = f"patches that are made at once are of one example, not of {len(examples)}"
            raise ArgumentError(message)
        (example,) = examples
        at = positions(tokens, example.n_token)
        reads = [Read(one.site, one.layer, at) for one in wanted]
        return Run(example.first_row, example.n_token, self._without_effect(example, edits), reads)

    def _without_effect(self, example: Example, edits: list[Edit]) -> list[Edit]:
        """Leave out what changes nothing whatever is there, and what is there already.

        The latter as far as that is stored, and until something is changed: from there on it may
        be otherwise.
        """
        left = [edit for edit in edits if not edit.is_identity]
        # Edits of one site are made in the order in which they are given.
        order = sorted(range(len(left)), key=lambda i: (left[i].layer, ORDER.index(left[i].site)))
        for place, number in enumerate(order):
            part = self._changing(example, left[number])
            if part is not None:
                rest = [left[i] for i in sorted(order[place + 1 :])]
                return [part, *rest]
        return []

    def _changing(self, example: Example, edit: Edit) -> Edit | None:
        """The part of an edit that puts something else in the unpatched run's place."""
        if edit.cached:
            # Frozen keys are not rotated, whatever comes after.
            return edit if edit.site is Site.K else None
        plain = edit.shift is not None and edit.scale == 0.0 and edit.off is None
        stored = edit.site is not Site.PATTERN and self.source.has(edit.site, edit.layer)
        if not plain or not stored:
            return edit
        rows = edit.tokens + example.first_row
        return changing(edit, self.source.read(edit.site, edit.layer, rows, edit.heads))

    def execute(
        self, runs: Sequence[Run], bar: Reporter | None = None
    ) -> list[dict[tuple[Site, int], NDArray[Any]]]:
        """What each run's reads give, `[token, ...]` by site and layer.

        `bar` is told of the runs, if it is somebody else's; else there is one of their own.
        """
        if bar is None:
            with self.reporter() as own:
                own.start(len(runs), 0)
                return self.execute(runs, own)
        found: list[dict[tuple[Site, int], NDArray[Any]]] = [{} for _ in runs]
        for numbers, one in self._batches(runs):
            values = self.executor.run(one, self.source)
            for place, number in enumerate(numbers):
                for read in runs[number].reads:
                    at = (read.site, read.layer)
                    found[number][at] = self._read(runs[number], read, values.get(at), place)
            n_row = sum(int(mask.sum()) for mask in one.queries)
            bar.advance(done=len(numbers), rows=n_row, n_bytes=0)
        return found

    def reporter(self) -> Reporter:
        """A bar of replays, as `progress` says."""
        from residuum.progress import reporter  # its library is slow to load

        return reporter("replay", show=self.progress)

    def _read(self, run: Run, read: Read, changed: Found | None, place: int) -> NDArray[Any]:
        """What was computed for the `place`-th run of a batch, the rest as it is stored."""
        begin, end = (0, 0) if changed is None else np.searchsorted(changed.run, [place, place + 1])
        if changed is not None and end - begin == len(read.tokens):
            return changed.values[begin:end]
        out = self.source.read(read.site, read.layer, read.tokens + run.first_row)
        if changed is None:
            return out
        out = out.astype(np.result_type(out, changed.values), copy=False)
        out[np.searchsorted(read.tokens, changed.token[begin:end])] = changed.values[begin:end]
        return out

    def _batches(self, runs: Sequence[Run]) -> Iterator[tuple[list[int], Plan]]:
        """Runs that fit into the budget together, of neighbouring examples."""
        order = sorted(range(len(runs)), key=lambda number: runs[number].first_row)
        longest = max((run.n_token for run in runs), default=0)
        each = self.row_bytes(longest)
        most = self.memory_bytes // each
        need = max((run.n_token + self._rows(run) for run in runs), default=0)
        if need > most:
            message = (
                f"a memory budget of {self.memory_bytes:,} bytes is too little for one replay of "
                f"{longest} tokens, which takes about {need * each:,}: give that much as "
                "`memory`"
            )
            raise ArgumentError(message)
        begin = 0
        while begin < len(order):
            end, rows, example = begin, 0, None
            while end < len(order):
                run = runs[order[end]]
                # What is cached of an example is there once for all its runs.
                cached = 0 if run.first_row == example else run.n_token
                if rows + cached + self._rows(run) > most:
                    break
                rows, example = rows + cached + self._rows(run), run.first_row
                end += 1
            numbers = order[begin:end]
            yield numbers, self._plan([runs[number] for number in numbers])
            begin = end

    def _rows(self, run: Run) -> int:
        """Rows of a run that may be computed in a layer."""
        first = [int(edit.tokens[0]) for edit in run.edits if len(edit.tokens)]
        if not first:
            return 0
        return run.n_token - min(first) if self.of.causal else run.n_token

    def _plan(self, runs: Sequence[Run]) -> Plan:
        return plan(runs, self.of, lambda layer: self.source.has(Site.Z, layer))

    def row_bytes(self, n_token: int) -> int:
        """What a row takes on its way through a block, about."""
        return row_bytes(self.of, n_token)

    def _logits(self, found: Sequence[dict[tuple[Site, int], NDArray[Any]]]) -> list[NDArray[Any]]:
        """Of what left the last block, for many runs at once: each weighs W_U's way in."""
        last = (Site.RESID_POST, self.of.n_layer - 1)
        streams = [values[last] for values in found]
        most = max(self.memory_bytes // (4 * self.readout.d_vocab), 1)
        out: list[NDArray[Any]] = []
        begin = 0
        while begin < len(streams):
            end, rows = begin + 1, len(streams[begin])
            while end < len(streams) and rows + len(streams[end]) <= most:
                rows += len(streams[end])
                end += 1
            logits = self.readout.logits(np.concatenate(streams[begin:end]))
            cuts = np.cumsum([len(stream) for stream in streams[begin : end - 1]])
            # Copies, so that keeping one answer does not keep all of them.
            out += [np.array(part) for part in np.split(logits, cuts)]
            begin = end
        return out

    @cached_property
    def readout(self) -> Readout:
        """The final norm and unembedding."""
        return readout(self.store, analysis="replay")


def _flops(number: float) -> str:
    """With the unit that suits it."""
    units = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP")
    power = min(int(np.log10(max(number, 1.0)) / 3), len(units) - 1)
    return f"{number / 1000**power:.3g} {units[power]}"
