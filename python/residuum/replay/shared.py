"""Runs that begin alike: what several replays of an example have in common is computed once.

Runs of one example with the same edits up to some layer are the same up to there, so that the first
of them computes it, and the others go on from its stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from residuum.replay.edit import Edit
    from residuum.replay.plan import Run


@dataclass(frozen=True, eq=False)
class Shared:
    """By run.

    Attributes:
        leader: int64 `[run]`, an earlier run that is the same below `until`, or the run itself.
        until: int64 `[run]`, the first layer that a run computes itself; 0 without a leader.
    """

    leader: NDArray[np.int64]
    until: NDArray[np.int64]


def shared(runs: Sequence[Run]) -> Shared:
    """Find for each run the earlier one with which it has most layers in common.

    A run with edits of one layer has nothing to share: before them it is as the store has it.
    """
    leader, until = np.arange(len(runs)), np.zeros(len(runs), np.int64)
    known: dict[tuple[int, bytes], int] = {}
    for number, run in enumerate(runs):
        layers = sorted({edit.layer for edit in run.edits})
        if len(layers) < 2:
            continue
        own = min((read.layer for read in run.reads), default=0)
        begun = b""
        for layer, end in zip(layers, [*layers[1:], own], strict=True):
            begun += b"".join(_said(edit) for edit in run.edits if edit.layer == layer)
            first = known.setdefault((run.first_row, begun), number)
            # Until the next edit of either; what is read a run computes itself.
            same = min(_next(runs[first], layer), max(end, layer + 1), own)
            if first != number and same > until[number]:
                leader[number], until[number] = first, same
    return Shared(leader, until)


def _next(run: Run, layer: int) -> int:
    """The layer of a run's next edit; far away where there is none."""
    return min((edit.layer for edit in run.edits if edit.layer > layer), default=1 << 30)


def _said(edit: Edit) -> bytes:
    """What an edit says, so that equal ones say the same."""
    arrays = (edit.tokens, edit.heads, edit.shift, edit.off, edit.turn)
    said = [b"-" if x is None else repr((x.dtype, x.shape)).encode() + x.tobytes() for x in arrays]
    return repr((edit.site, edit.layer, edit.scale, edit.cached)).encode() + b"".join(said)
