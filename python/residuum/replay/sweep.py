"""Sweeps: one patch for each cell of layers, tokens and heads, over pairs of examples."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from residuum.errors import ArgumentError
from residuum.replay.edit import Edit, changing
from residuum.replay.metrics import Beside
from residuum.replay.numbers import single, whole
from residuum.replay.patch import Patch
from residuum.replay.plan import Read, Run
from residuum.replay.resolve import positions
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from residuum.replay.engine import Replay
    from residuum.replay.metrics import Metric
    from residuum.replay.patch import Value
    from residuum.replay.resolve import Example

_SHARE = 4
"""One part in so many of the budget is for the numbers of patches that wait for their turn."""
AXES = ("layer", "token", "head")
COLUMNS = ("clean", "corrupted", "example", *AXES)
"""Of the tables, beside the metric's."""


@dataclass(frozen=True)
class Pair:
    """Numbers of two examples, and where they are."""

    clean: int
    corrupted: int
    source: Example
    target: Example


@dataclass(frozen=True, eq=False)
class Cells:
    """The patches of one pair.

    Attributes:
        runs: one for each cell that changes something.
        place: int64 `[run]`, the cell of each.
        columns: layer, token, head of each cell, as far as the sweep goes over them.
    """

    runs: list[Run]
    place: NDArray[np.int64]
    columns: dict[str, NDArray[np.int64]]


def pairs(replay: Replay, clean: int | Sequence[int], corrupted: int | Sequence[int]) -> list[Pair]:
    """The pairs of a sweep.

    Raises:
        ArgumentError: lists of different lengths, or examples of different lengths.
    """
    left, right = whole("clean examples", clean), whole("corrupted examples", corrupted)
    if len(left) != len(right):
        message = (
            f"clean names {len(left)} examples and corrupted {len(right)}: give pairs of examples"
        )
        raise ArgumentError(message)
    out = []
    for one, other in zip(map(int, left), map(int, right), strict=True):
        source, target = replay.resolver.example_of(one), replay.resolver.example_of(other)
        if source.n_token != target.n_token:
            message = (
                f"example {one} has {source.n_token} tokens and example {other} "
                f"{target.n_token}: patches go from a token to the one at the same place, so that "
                "a pair has to be equally long"
            )
            raise ArgumentError(message)
        out.append(Pair(one, other, source, target))
    return out


def cells(
    replay: Replay,
    pair: Pair,
    site: Site,
    over: Sequence[str],
    layers: NDArray[np.int64],
    tokens: NDArray[np.int64],
    at: NDArray[np.int64],
    value: Value | None,
) -> Cells:
    """The patches of one pair: the clean example's values, or `value`, put into the corrupted one.

    A cell that would put in place what is there already has no run.
    """
    heads = np.arange(replay.resolver.n_head(site) or 0) if "head" in over else np.array([-1])
    shape = (len(layers), len(tokens) if "token" in over else 1, len(heads))
    grid = np.indices(shape).reshape(3, -1)
    columns = {"layer": layers[grid[0]]}
    if "token" in over:
        columns["token"] = tokens[grid[1]]
    if "head" in over:
        columns["head"] = heads[grid[2]]
    runs, place = [], []
    last = Read(Site.RESID_POST, replay.of.n_layer - 1, at)
    edits = _edits(replay, pair, site, layers, tokens, heads, value, by_token="token" in over)
    for number, edit in enumerate(edits):
        if edit is not None:
            runs.append(Run(pair.target.first_row, pair.target.n_token, [edit], [last]))
            place.append(number)
    return Cells(runs, np.array(place, np.int64), columns)


def _edits(
    replay: Replay,
    pair: Pair,
    site: Site,
    layers: NDArray[np.int64],
    tokens: NDArray[np.int64],
    heads: NDArray[np.int64],
    value: Value | None,
    *,
    by_token: bool,
) -> Iterator[Edit | None]:
    """Cell by cell, cut out of one edit of all tokens and heads of a layer."""
    every = np.arange(len(tokens))
    for layer in map(int, layers):
        edit = _whole(replay, pair, site, layer, tokens, value)
        there = None
        puts = edit.shift is not None and edit.scale == 0.0 and not edit.cached
        # A pattern that was handed over may be wider than the stored one.
        comparable = value is None or site is not Site.PATTERN
        if puts and comparable and replay.source.has(site, layer):
            there = replay.source.read(site, layer, tokens + pair.target.first_row)
        for chosen in every[:, None] if by_token else every[None]:
            for head in map(int, heads):
                yield _cell(edit, chosen, head, there)


def _whole(
    replay: Replay,
    pair: Pair,
    site: Site,
    layer: int,
    tokens: NDArray[np.int64],
    value: Value | None,
) -> Edit:
    """What is put at all tokens and heads of a layer."""
    if value is None:
        values = replay.source.read(site, layer, tokens + pair.source.first_row)
        return Edit(site, layer, tokens, shift=values)
    patch = Patch(site, tokens + pair.target.first_row, layer, value=value)
    (edit,) = replay.resolver.edits(patch)[1]
    return edit


def _cell(
    edit: Edit, chosen: NDArray[np.int64], head: int, there: NDArray[Any] | None
) -> Edit | None:
    """Some tokens of an edit, at one head or, -1, all; None if nothing else is `there`."""
    if edit.turn is not None and head >= 0:
        message = "keys are rotated at all heads together: leave head out of `over`"
        raise ArgumentError(message)

    def pick(x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(x[chosen] if head < 0 else x[chosen][:, head : head + 1])

    part = replace(
        edit,
        tokens=edit.tokens[chosen],
        heads=None if head < 0 else np.array([head]),
        shift=None if edit.shift is None else pick(edit.shift),
        turn=None if edit.turn is None else edit.turn[chosen],
    )
    if part.is_identity:
        return None
    return part if there is None else changing(part, pick(there))


def metrics_of(
    replay: Replay, metric: Metric | Sequence[Metric], pairs: Sequence[Pair]
) -> list[Metric]:
    """A metric for each pair: one for all of them, or a list.

    Raises:
        ArgumentError: they cannot be computed, have several names, or are not as many as the pairs.
    """
    every: list[Any] = list(metric) if isinstance(metric, list | tuple) else [metric] * len(pairs)
    for one in every:
        replay.check_metric(one)
    if len(every) != len(pairs):
        message = f"{len(every)} metrics for {len(pairs)} pairs: give one, or one for each pair"
        raise ArgumentError(message)
    names = sorted({one.name for one in every})
    if len(names) > 1:
        message = f"the metrics of one table have one name, not {', '.join(names)}"
        raise ArgumentError(message)
    return every


def sweep(
    replay: Replay,
    site: str,
    clean: int | Sequence[int],
    corrupted: int | Sequence[int],
    over: Sequence[str],
    metric: Metric | Sequence[Metric],
    layers: Sequence[int] | None,
    tokens: Sequence[int] | None,
    at: int,
) -> pa.Table:
    """See `Replay.sweep`."""
    every = pairs(replay, clean, corrupted)
    return _swept(replay, site, every, over, metric, layers, tokens, at, None)


def ablate(
    replay: Replay,
    site: str,
    examples: int | Sequence[int],
    over: Sequence[str],
    value: Value,
    metric: Metric | Sequence[Metric],
    layers: Sequence[int] | None,
    tokens: Sequence[int] | None,
    at: int,
) -> pa.Table:
    """See `Replay.ablate`."""
    every = []
    for number in map(int, whole("examples", examples)):
        place = replay.resolver.example_of(number)
        every.append(Pair(number, number, place, place))
    table = _swept(replay, site, every, over, metric, layers, tokens, at, value)
    _, example, *axes, name, _, unpatched = table.column_names
    table = table.select([example, *axes, name, unpatched])
    return table.rename_columns(["example", *axes, name, f"{name}_unpatched"])


def _swept(
    replay: Replay,
    site: str,
    every: Sequence[Pair],
    over: Sequence[str],
    metric: Metric | Sequence[Metric],
    layers: Sequence[int] | None,
    tokens: Sequence[int] | None,
    at: int,
    value: Value | None,
) -> pa.Table:
    """A row for each cell of each pair."""
    metrics = metrics_of(replay, metric, every)
    grid = _Grid(replay, site, over, layers, tokens, at)
    tables: list[pa.Table] = []
    with replay.reporter() as bar:
        bar.start(sum(map(grid.n_cell, every)), 0)
        for group in _groups(grid.made(every, value), grid.most):
            streams = replay.streams([run for _, one in group for run in one.runs], bar)
            for number, one in group:
                mine, streams = streams[: len(one.runs)], streams[len(one.runs) :]
                pair, of = every[number], metrics[number]
                tables.append(
                    metric_columns(replay, pair, one.columns, mine, one.place, of, grid.at)
                )
                # Cells that change nothing were not computed.
                bar.advance(done=len(one.columns["layer"]) - len(one.runs), rows=0, n_bytes=0)
    return pa.concat_tables(tables)


def sweep_runs(
    replay: Replay,
    site: str,
    clean: int | Sequence[int],
    corrupted: int | Sequence[int],
    over: Sequence[str],
    layers: Sequence[int] | None,
    tokens: Sequence[int] | None,
    at: int,
) -> list[Run]:
    """The runs of a sweep."""
    every = pairs(replay, clean, corrupted)
    grid = _Grid(replay, site, over, layers, tokens, at)
    return [run for _, one in grid.made(every, None) for run in one.runs]


class _Grid:
    """The axes of a sweep: which cells each pair has."""

    def __init__(
        self,
        replay: Replay,
        site: str,
        over: Sequence[str],
        layers: Sequence[int] | None,
        tokens: Sequence[int] | None,
        at: int,
    ) -> None:
        """Refuse axes that there are not.

        Raises:
            ArgumentError, SiteError: an axis, site, layer or token that means nothing here.
        """
        self.replay, self.tokens = replay, tokens
        self.at = single("the token `at`", at)
        self.site = replay.resolver.site(site)
        if not isinstance(over, str | list | tuple):
            message = f"`over` names axes, such as ('layer', 'token'), not {over!r}"
            raise ArgumentError(message)
        self.over = (over,) if isinstance(over, str) else tuple(over)
        wrong = [axis for axis in self.over if axis not in AXES]
        if wrong or "layer" not in self.over or len(set(self.over)) < len(self.over):
            message = (
                "a sweep goes over layer, and token or head if you like, not over "
                f"{list(self.over)}"
            )
            raise ArgumentError(message)
        if "head" in self.over and replay.resolver.n_head(self.site) is None:
            message = f"{self.site} has no heads to sweep over"
            raise ArgumentError(message)
        self.layers = replay.resolver.layers(layers)
        self.most = replay.memory_bytes // _SHARE

    def n_cell(self, pair: Pair) -> int:
        """Cells of a pair."""
        n_token = len(positions(self.tokens, pair.target.n_token)) if "token" in self.over else 1
        n_head = (self.replay.resolver.n_head(self.site) or 1) if "head" in self.over else 1
        return len(self.layers) * n_token * n_head

    def made(self, every: Sequence[Pair], value: Value | None) -> Iterator[tuple[int, Cells]]:
        """Numbers of pairs, with some layers' cells each: as many as the budget has room for."""
        for number, pair in enumerate(every):
            n_token = pair.target.n_token
            mine, last = positions(self.tokens, n_token), positions(self.at, n_token)
            width = self.replay.resolver.width(self.site, n_token)
            step = max(1, self.most // (4 * len(mine) * width))
            for begin in range(0, len(self.layers), step):
                some = self.layers[begin : begin + step]
                yield (
                    number,
                    cells(self.replay, pair, self.site, self.over, some, mine, last, value),
                )


def _groups(made: Iterator[tuple[int, Cells]], most: int) -> Iterator[list[tuple[int, Cells]]]:
    """Cells of pairs whose patches hold at most so many bytes together, or one pair's."""
    group: list[tuple[int, Cells]] = []
    held = 0
    for number, one in made:
        mine = sum(edit.n_bytes for run in one.runs for edit in run.edits)
        if group and held + mine > most:
            yield group
            group, held = [], 0
        group.append((number, one))
        held += mine
    if group:
        yield group


def metric_columns(
    replay: Replay,
    pair: Pair,
    columns: dict[str, NDArray[np.int64]],
    streams: Sequence[NDArray[Any]],
    place: NDArray[np.int64],
    metric: Metric,
    at: int,
) -> pa.Table:
    """A row for each cell of `columns`: the pair, the cell, the metric.

    Args:
        replay: whose logits count.
        pair: whose cells these are.
        columns: of the cells.
        streams: what left the last block at the token `at`, `[1, d_model]` of each computed cell.
        place: the cell of each; the others are as if unpatched.
        metric: of the logits.
        at: the token whose logits count.
    """
    last = positions([at], pair.target.n_token)
    base = replay.logits(replay.final(pair.target.first_row + last), metric)
    top = base
    if pair.source != pair.target:
        top = replay.logits(replay.final(pair.source.first_row + last), metric)
    n, beside = len(columns["layer"]), Beside(base, top)
    values = np.full(n, metric.of(base, beside)[0])
    if len(streams):
        logits = replay.logits(np.concatenate(streams), metric)
        each = [np.broadcast_to(one, logits.shape) for one in (base, top)]
        values[place] = metric.of(logits, Beside(*each))
    return pa.table(
        {
            "clean": np.full(n, pair.clean),
            "corrupted": np.full(n, pair.corrupted),
            **columns,
            metric.name: values,
            f"{metric.name}_clean": np.full(n, metric.of(top, beside)[0]),
            f"{metric.name}_corrupted": np.full(n, metric.of(base, beside)[0]),
        }
    )
