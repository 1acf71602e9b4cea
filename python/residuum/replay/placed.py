"""A site's edits of a whole batch of runs, as few as they can be made together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from residuum.replay.edit import Edit
    from residuum.sites import Site

    Place = NDArray[np.int64]
    Key = tuple[int, bytes | None, float, bool, int | None, bool, bool]


@dataclass(frozen=True, eq=False)
class Placed:
    """Like an `Edit`, at tokens of several runs.

    Attributes:
        site: of all of them.
        run, token: int64 `[place]`.
        heads, scale, off, cached: of all of them.
        shift, turn: `[place, ...]`, or None.
    """

    site: Site
    run: Place
    token: Place
    heads: Place | None
    scale: float
    shift: NDArray[Any] | None
    off: NDArray[Any] | None
    turn: Place | None
    cached: bool


def placed(edits: Sequence[tuple[int, Edit]]) -> list[Placed]:
    """Put together what is done alike; `edits` are of one site and layer, with their runs.

    The edits of one run keep their order; those of different runs do not touch each other.
    """
    turns: dict[int, int] = {}
    groups: dict[Key, list[tuple[int, Edit]]] = {}
    for run, edit in edits:
        turn = turns[run] = turns.get(run, -1) + 1
        groups.setdefault(_key(turn, edit), []).append((run, edit))
    order = sorted(groups.items(), key=lambda item: item[0][0])
    return [_together(group) for _, group in order]


def _key(turn: int, edit: Edit) -> Key:
    heads = None if edit.heads is None else edit.heads.tobytes()
    off = None if edit.off is None else id(edit.off)
    return turn, heads, edit.scale, edit.shift is not None, off, edit.turn is not None, edit.cached


def _together(group: list[tuple[int, Edit]]) -> Placed:
    first = group[0][1]
    shifts = [edit.shift for _, edit in group if edit.shift is not None]
    turns = [edit.turn for _, edit in group if edit.turn is not None]
    return Placed(
        first.site,
        np.repeat([run for run, _ in group], [len(edit.tokens) for _, edit in group]),
        np.concatenate([edit.tokens for _, edit in group]),
        first.heads,
        first.scale,
        _stacked(shifts) if shifts else None,
        first.off,
        np.concatenate(turns) if turns else None,
        first.cached,
    )


def _stacked(shifts: list[NDArray[Any]]) -> NDArray[Any]:
    """One after another; patterns of examples of different lengths get zeros behind."""
    width = max(shift.shape[-1] for shift in shifts)
    same = [
        shift
        if shift.shape[-1] == width
        else np.pad(shift, [(0, 0)] * (shift.ndim - 1) + [(0, width - shift.shape[-1])])
        for shift in shifts
    ]
    return same[0] if len(same) == 1 else np.concatenate(same)
