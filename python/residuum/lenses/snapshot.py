"""Where a training is, kept in a file, so that one that was stopped goes on to the same end."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import StoreError
from residuum.lenses.stored import write_tensors
from residuum.store import tensor_file
from residuum.store.lens_files import KEY
from residuum.store.weights import Weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from residuum.store.s3_path import StorePath

SECONDS = 60.0
"""Between snapshots."""


class Keeper:
    """Keeps one training's snapshots under a path; without a path it does nothing."""

    def __init__(self, path: StorePath | None, question: Mapping[str, Any]) -> None:
        """`question` is what has to be the same for a snapshot to be gone on with."""
        self.path = path
        self.question = json.loads(json.dumps(question))
        self._last = time.monotonic()

    def restore(self, run: Any) -> None:  # noqa: ANN401  the training's own class
        """Put a training where the snapshot is, if there is one of the same question."""
        if self.path is None or not self.path.exists():
            return
        try:
            kept = json.loads(tensor_file.read_metadata(self.path)[KEY])
            tensors = Weights(self.path)
            if kept["question"] != self.question:
                return
            arrays = _arrays(run)
            if set(tensors) != set(arrays):
                return
        except (StoreError, KeyError, ValueError, TypeError):
            return  # damaged: begin again
        for name, array in arrays.items():
            array[...] = run.kit.array(tensors[name])
        run.step = int(kept["step"])
        run.losses = [(n, np.array(losses)) for n, losses in kept["losses"]]

    def keep(self, run: Any) -> None:  # noqa: ANN401
        """Write a snapshot if the last is a while ago."""
        if self.path is None or time.monotonic() - self._last <= SECONDS:
            return
        about = {
            "question": self.question,
            "step": run.step,
            "losses": [(n, losses.tolist()) for n, losses in run.losses],
        }
        arrays = _arrays(run)
        write_tensors(self.path, {k: run.kit.numpy(x) for k, x in arrays.items()}, about)
        self._last = time.monotonic()

    def done(self) -> None:
        """Take the snapshot away."""
        if self.path is not None and self.path.exists():
            self.path.unlink()


def _arrays(run: Any) -> dict[str, Any]:  # noqa: ANN401
    each = [("parameter", run.parameters), ("buffer", run.optimizer.buffers)]
    return {f"{kind}.{i}": x for kind, arrays in each for i, x in enumerate(arrays)}
