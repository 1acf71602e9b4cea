"""Patched passes answered from the cache: `residuum.replay(store).run([Patch(...)])`.

The package is called like the function; importing it needs no torch.

    replay ──▶ engine.Replay ──▶ resolve (patches ▶ edits) ──▶ plan (which rows) ──▶ executor
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from residuum.replay.direct import DirectEffects, direct_effects
from residuum.replay.metrics import (
    Metric,
    accuracy,
    expression,
    kl,
    log_prob,
    logit,
    logit_diff,
    prob,
    rank,
)
from residuum.replay.patch import (
    Add,
    Donor,
    Freeze,
    Mean,
    Mix,
    Patch,
    ProjectOut,
    Resample,
    RotateKeys,
    Scale,
    Set,
    Zero,
)
from residuum.replay.paths import Receiver

__all__ = [
    "Add",
    "DirectEffects",
    "Donor",
    "Freeze",
    "Mean",
    "Metric",
    "Mix",
    "Patch",
    "ProjectOut",
    "Receiver",
    "Resample",
    "RotateKeys",
    "Scale",
    "Set",
    "Zero",
    "accuracy",
    "direct_effects",
    "expression",
    "kl",
    "log_prob",
    "logit",
    "logit_diff",
    "prob",
    "rank",
]


class _CallableModule(ModuleType):
    """So that `residuum.replay(...)` works also after `import residuum.replay.patch`."""

    def __call__(self, *args: Any, **settings: Any) -> Any:  # noqa: ANN401 - as opening.replay
        """Call `residuum.replay.opening.replay`; see there."""
        from residuum.replay.opening import replay

        return replay(*args, **settings)


sys.modules[__name__].__class__ = _CallableModule
