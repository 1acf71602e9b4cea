"""What differs between slots in the mean: the additive ID of slot k, less that of slot 0.

    delta(k) = mean over prompts of  Z(item at slot k)  -  Z(the same item at slot 0)

one vector for each layer and token of the width. The same item stands at slot 0 in the context that
is rotated by k, so that content cancels prompt by prompt and not only in the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.binding_ids.prompts import CATEGORIES, Unsuited

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.analyses.binding_ids.prompts import Prompts
    from residuum.analyses.binding_ids.subject import Subject

BLOCK_BYTES = 64 << 20
"""Of activations in memory at once."""


@dataclass(frozen=True, eq=False)
class Deltas:
    """Mean differences of a task's slots from slot 0.

    Attributes:
        task, n: whose.
        n_prompt: that were averaged over.
        by: for each category float64 `[slot, width, layer, d_model]`; zeros at slot 0.
        residual: mean norm of what was averaged, `[slot, width, layer]`.
    """

    task: str
    n: int
    n_prompt: int
    by: dict[str, NDArray[np.float64]]
    residual: dict[str, NDArray[np.float64]]

    def change(self, category: str, to: int, at: int) -> NDArray[np.float64]:
        """What turns slot `at`'s ID into that of slot `to`, `[width, layer, d_model]`."""
        return np.asarray(self.by[category][to] - self.by[category][at])

    def random(self, rng: np.random.Generator) -> Deltas:
        """Random vectors of the same norms, at every slot, token and layer."""
        made = {}
        for category, by in self.by.items():
            noise = rng.standard_normal(by.shape)
            noise /= np.linalg.norm(noise, axis=-1, keepdims=True)
            made[category] = noise * np.linalg.norm(by, axis=-1, keepdims=True)
        return Deltas(self.task, self.n, self.n_prompt, made, self.residual)

    def zeros(self) -> Deltas:
        """No difference anywhere."""
        by = {category: np.zeros_like(one) for category, one in self.by.items()}
        return Deltas(self.task, self.n, self.n_prompt, by, self.residual)


def estimate(subject: Subject, prompts: Prompts, split: str = "train") -> Deltas:
    """Mean differences of the prompts of a split, in one pass over them.

    Raises:
        Unsuited: a prompt id lacks its default or a rotated context.
    """
    default = prompts.of(split, "default")
    default = default.take(np.unique(default.prompt_id, return_index=True)[1])
    if not len(default):
        message = f"{prompts.task} with {prompts.n} entities has no {split} prompts"
        raise Unsuited(message)
    by: dict[str, NDArray[np.float64]] = {}
    residual: dict[str, NDArray[np.float64]] = {}
    for category in CATEGORIES:
        shifts, norms = [], []
        for slot in range(prompts.n):
            rotated = prompts.of(split, "rotated", slot) if slot else default
            shift, norm = _mean_difference(subject, category, slot, default, rotated)
            shifts.append(shift)
            norms.append(norm)
        by[category], residual[category] = np.stack(shifts), np.stack(norms)
    return Deltas(prompts.task, prompts.n, len(default), by, residual)


def _mean_difference(
    subject: Subject, category: str, slot: int, default: Prompts, rotated: Prompts
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean of slot k less its item at slot 0, and the mean norm at slot k."""
    rotated = rotated.take(default.partners(rotated))
    own, other = default.tokens(category, slot), rotated.tokens(category, 0)
    total, norm = 0.0, 0.0
    start, size = 0, 16
    while start < len(default):
        part = slice(start, start + size)
        here = _read(subject, default, own, part)
        there = here if not slot else _read(subject, rotated, other, part)
        total = total + (here - there).sum(0)
        norm = norm + np.linalg.norm(here, axis=-1).sum(0)
        start += size
        size = max(1, BLOCK_BYTES // here[0].nbytes)
    return np.asarray(total / len(default)), np.asarray(norm / len(default))


def _read(
    subject: Subject, prompts: Prompts, tokens: NDArray[np.int64], part: slice
) -> NDArray[np.float64]:
    """Float64 `[prompt, width, layer, d_model]`."""
    at = tokens[part]
    found = subject.values(np.repeat(prompts.example[part], at.shape[1]), at.ravel())
    return found.reshape(*at.shape, *found.shape[1:]).astype(np.float64)


def rows(deltas: Deltas) -> list[dict[str, Any]]:
    """Rows of the table `deltas`: norms, and the angle to the first difference."""
    out = []
    for category, by in deltas.by.items():
        for slot in range(1, deltas.n):
            for offset, layer in np.ndindex(by.shape[1:3]):
                mine, first = by[slot, offset, layer], by[1, offset, layer]
                norm, size = float(np.linalg.norm(mine)), float(np.linalg.norm(first))
                residual = float(deltas.residual[category][slot, offset, layer])
                out.append(
                    {
                        "category": category,
                        "slot": slot,
                        "offset": offset,
                        "layer": layer,
                        "norm": norm,
                        "residual_norm": residual,
                        "ratio": norm / residual if residual else None,
                        "cosine_to_first": float(mine @ first) / (norm * size)
                        if norm * size
                        else None,
                        "n": deltas.n_prompt,
                    }
                )
    return out
