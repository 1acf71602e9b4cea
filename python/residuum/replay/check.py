"""Whole passes from the first block on, beside what the store holds of the same passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from residuum.replay.edit import Edit
from residuum.replay.numbers import whole
from residuum.replay.plan import Read, Run
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from residuum.replay.engine import Replay

_FIRST = 16


def check(replay: Replay, examples: Sequence[int] | None) -> pa.Table:
    """See `Replay.check`."""
    n_example = replay.store.n_example
    numbers = (
        list(range(min(_FIRST, n_example)))
        if examples is None
        else whole("examples", examples).tolist()
    )
    layers = range(replay.of.n_layer)
    runs = []
    for number in numbers:
        place = replay.resolver.example_of(number)
        every = np.arange(place.n_token)
        # An edit that changes nothing has everything computed.
        same = Edit(Site.RESID_PRE, 0, every, scale=1.0)
        reads = [Read(Site.RESID_POST, layer, every) for layer in layers]
        runs.append(Run(place.first_row, place.n_token, [same], reads))
    rows: list[dict[str, Any]] = []
    for number, run, found in zip(numbers, runs, replay.execute(runs), strict=True):
        for layer in layers:
            stored = replay.source.read(
                Site.RESID_POST, layer, run.first_row + np.arange(run.n_token)
            )
            difference = np.abs(found[Site.RESID_POST, layer] - stored).max()
            rows.append(
                {
                    "example": number,
                    "layer": layer,
                    "max_difference": float(difference),
                    "max_size": float(np.abs(stored).max()),
                }
            )
    return pa.Table.from_pylist(rows)
