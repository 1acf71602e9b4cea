"""B6, the map of IDs: how far apart must two IDs be to be told apart?

The differences of slots 1 and 2 span a plane (entities and attributes, all layers and widths as one
flat vector; the second made orthogonal to the first). Slots 0 and 1 get IDs at points of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.binding_ids.calibration import chosen, medians, share
from residuum.analyses.binding_ids.means import own_queries, promoted
from residuum.analyses.binding_ids.prompts import CATEGORIES
from residuum.analyses.binding_ids.subject import Shift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.analyses.binding_ids.deltas import Deltas
    from residuum.analyses.binding_ids.prompts import Prompts
    from residuum.analyses.binding_ids.subject import Intervention, Subject

Rows = list[dict[str, Any]]
Vectors = dict[str, "NDArray[np.float64]"]

FIXED = (
    (0.0, 0.0),
    (1.0, 0.0),
    (0.0, 1.0),
    (1.0, 1.0),
    (0.5, 0.5),
    (0.5, 0.7),
    (0.7, 0.1),
    (0.0, 0.5),
)
"""Where slot 0's ID is put."""

ENDS = (-0.5, 1.5)


def plane(deltas: Deltas) -> tuple[Vectors, Vectors, tuple[float, float]]:
    """The first difference, what of the second is orthogonal to it, the second's coordinates."""
    flat = [
        np.concatenate([deltas.by[category][slot].ravel() for category in CATEGORIES])
        for slot in (1, 2)
    ]
    along = float(flat[1] @ flat[0] / (flat[0] @ flat[0]))
    first = {category: deltas.by[category][1] for category in CATEGORIES}
    second = {category: deltas.by[category][2] - along * first[category] for category in CATEGORIES}
    return first, second, (along, 1.0)


def geometry(
    subject: Subject, prompts: Prompts, deltas: Deltas, *, grid: int, promote: bool
) -> Rows:
    """Rows of the table `geometry`: slot 0's ID fixed, slot 1's at each point of a grid.

    Queries and candidates are those of slots 0 and 1; calibrated by the null query's medians.
    """
    asked = own_queries(prompts)
    asked = asked.take((asked.query < 2) | (asked.query == prompts.n))
    first, second, _ = plane(deltas)
    points = np.linspace(*ENDS, grid)
    rows: Rows = []
    for fixed in FIXED:
        cells = [(float(x), float(y)) for x in points for y in points]
        interventions = [
            _placed(asked, deltas, first, second, (fixed, cell), promote=promote) for cell in cells
        ]
        scores = subject.scores(asked, asked.answers[:, asked.partner[:2]], interventions)
        for i, cell in enumerate(cells):
            rows.append(_row(asked, scores.logprob[i], fixed, cell))
    return rows


def _placed(
    asked: Prompts,
    deltas: Deltas,
    first: Vectors,
    second: Vectors,
    at: tuple[tuple[float, float], tuple[float, float]],
    *,
    promote: bool,
) -> Intervention:
    """Slots 0 and 1 with IDs at two points of the plane; their own are taken off."""
    changes = []
    for slot, (x, y) in enumerate(at):
        for category in CATEGORIES:
            by = x * first[category] + y * second[category] - deltas.by[category][slot]
            changes.append(Shift(asked.tokens(category, slot), by))
    return (*changes, promoted(asked)) if promote else tuple(changes)


def _row(
    asked: Prompts,
    logprob: NDArray[np.float64],
    fixed: tuple[float, float],
    cell: tuple[float, float],
) -> dict[str, Any]:
    null = asked.query == asked.n
    shift = medians(logprob[null])
    mine = logprob[~null]
    query = asked.query[~null]
    means = np.stack([mine[query == one].mean(0) for one in (0, 1)])
    return {
        "c0_x": fixed[0],
        "c0_y": fixed[1],
        "c1_x": cell[0],
        "c1_y": cell[1],
        "accuracy": share(chosen(mine) == query),
        "cal_accuracy": share(chosen(mine, shift) == query),
        "logit_margin": float(means[0, 0] + means[1, 1] - means[0, 1] - means[1, 0]),
        "n": len(mine),
    }
