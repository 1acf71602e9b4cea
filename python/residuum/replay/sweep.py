"""Sweeps: one patch for each cell of layers, tokens and heads, over pairs of examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from residuum.errors import ArgumentError
from residuum.replay.edit import Edit, changing
from residuum.replay.numbers import single, whole
from residuum.replay.plan import Read, Run
from residuum.replay.resolve import positions
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from residuum.replay.engine import Replay
    from residuum.replay.metrics import Metric
    from residuum.replay.resolve import Example

AXES = ("layer", "token", "head")
COLUMNS = ("clean", "corrupted", *AXES)
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
) -> Cells:
    """The patches of one pair: the clean example's values, put into the corrupted one.

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
    for number, edit in enumerate(
        _edits(replay, pair, site, layers, tokens, heads, "token" in over)
    ):
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
    by_token: bool,  # noqa: FBT001
) -> Iterator[Edit | None]:
    for layer in map(int, layers):
        values = replay.source.read(site, layer, tokens + pair.source.first_row)
        there = None
        if replay.source.has(site, layer):
            there = replay.source.read(site, layer, tokens + pair.target.first_row)
        for chosen in [[i] for i in range(len(tokens))] if by_token else [list(range(len(tokens)))]:
            for head in heads:
                yield _edit(site, layer, tokens, chosen, int(head), values, there)


def _edit(
    site: Site,
    layer: int,
    tokens: NDArray[np.int64],
    chosen: list[int],
    head: int,
    values: NDArray[Any],
    there: NDArray[Any] | None,
) -> Edit | None:
    rows = np.array(chosen)

    def pick(x: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(x[rows] if head < 0 else x[rows][:, head : head + 1])

    heads = None if head < 0 else np.array([head])
    edit = Edit(site, layer, tokens[rows], heads, shift=pick(values))
    return edit if there is None else changing(edit, pick(there))


def sweep(
    replay: Replay,
    site: str,
    clean: int | Sequence[int],
    corrupted: int | Sequence[int],
    over: Sequence[str],
    metric: Metric,
    layers: Sequence[int] | None,
    tokens: Sequence[int] | None,
    at: int,
) -> pa.Table:
    """See `Replay.sweep`."""
    replay.check_metric(metric)
    at = single("the token `at`", at)
    where = replay.resolver.site(site)
    wrong = [axis for axis in over if axis not in AXES]
    if wrong or "layer" not in over:
        message = f"a sweep goes over layer, and token or head if you like, not over {list(over)}"
        raise ArgumentError(message)
    if "head" in over and replay.resolver.n_head(where) is None:
        message = f"{where} has no heads to sweep over"
        raise ArgumentError(message)
    chosen = replay.resolver.layers(layers)
    found, all_runs = [], []
    for pair in pairs(replay, clean, corrupted):
        n_token = pair.target.n_token
        mine, last = positions(tokens, n_token), positions(at, n_token)
        one = cells(replay, pair, where, over, chosen, mine, last)
        found.append((pair, one))
        all_runs += one.runs
    streams = replay.streams(all_runs)
    tables, begin = [], 0
    for pair, one in found:
        end = begin + len(one.runs)
        tables.append(
            metric_columns(replay, pair, one.columns, streams[begin:end], one.place, metric, at)
        )
        begin = end
    return pa.concat_tables(tables)


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
    top = replay.logits(replay.final(pair.source.first_row + last), metric)
    n = len(columns["layer"])
    values = np.full(n, metric.of(base, base)[0])
    if len(streams):
        logits = replay.logits(np.concatenate(streams), metric)
        values[place] = metric.of(logits, np.broadcast_to(base, logits.shape))
    return pa.table(
        {
            "clean": np.full(n, pair.clean),
            "corrupted": np.full(n, pair.corrupted),
            **columns,
            metric.name: values,
            f"{metric.name}_clean": np.full(n, metric.of(top, base)[0]),
            f"{metric.name}_corrupted": np.full(n, metric.of(base, base)[0]),
        }
    )
