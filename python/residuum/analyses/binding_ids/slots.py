"""From the store alone: do a layer's vectors tell slots apart, and in how many dimensions?

That a slot can be read off says nothing of how it is used; only the interventions do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.binding_ids.calibration import share
from residuum.analyses.binding_ids.prompts import CATEGORIES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.analyses.binding_ids.deltas import Deltas
    from residuum.analyses.binding_ids.prompts import Prompts
    from residuum.analyses.binding_ids.subject import Subject

N_PROMPT = 100
"""Prompts of each split that are read at most."""


def rows(subject: Subject, prompts: Prompts, deltas: Deltas) -> list[dict[str, Any]]:
    """Rows of the table `slots`: the first token of each slot, by its nearest mean."""
    splits = []
    for split in ("train", "test"):
        one = prompts.of(split, "default")
        one = one.take(np.unique(one.prompt_id, return_index=True)[1]).first(N_PROMPT)
        splits.append(one)
    out = []
    for category in CATEGORIES:
        train, test = (_values(subject, one, category) for one in splits)
        if not len(train) or not len(test):
            continue
        for layer in range(train.shape[2]):
            means = train[:, :, layer].mean(0)
            # [prompt, slot, mean]
            far = ((test[:, :, None, layer] - means) ** 2).sum(-1)
            right = far.argmin(-1) == np.arange(prompts.n)
            squares = np.linalg.svd(deltas.by[category][1:, 0, layer], compute_uv=False) ** 2
            total = float(squares.sum())
            so_far = np.cumsum(squares)
            out.append(
                {
                    "category": category,
                    "layer": layer,
                    "accuracy": share(right),
                    "chance": 1 / prompts.n,
                    "rank": int((so_far < 0.99 * total).sum()) + 1 if total else 0,
                    "first_share": float(squares[0]) / total if total else None,
                    "n": len(test),
                }
            )
    return out


def _values(subject: Subject, prompts: Prompts, category: str) -> NDArray[np.float64]:
    """Float64 `[prompt, slot, layer, d_model]`."""
    at = np.stack([prompts.tokens(category, slot)[:, 0] for slot in range(prompts.n)], 1)
    found = subject.values(np.repeat(prompts.example, prompts.n), at.ravel())
    return found.reshape(*at.shape, *found.shape[1:]).astype(np.float64)
