"""What the model loses without one block (T9), by replay.

What a block adds to the stream is replaced at every token: by nothing (the block is deleted), by
the mean of what it adds, or by what it adds at another token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.lenses.removal import REMOVALS, instead
from residuum.replay.edit import Edit
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.tuned_lens.replayed import Change, Replayed
    from residuum.analyses.tuned_lens.study import Study

    Floats = NDArray[np.float32]


def ablation(study: Study, replayed: Replayed) -> Iterator[dict[str, Any]]:
    """Rows of the table `ablation`."""
    for block in range(study.states.n_state - 1):
        before = replayed.states(block)
        added = replayed.states(block + 1) - before
        left = [before + instead(added, removal, study.params.seed) for removal in REMOVALS]
        changes = [_left(block, stream) for stream in left]
        for removal, stream in zip(REMOVALS, replayed.streams(changes), strict=True):
            yield {
                "model": study.model,
                "block": block,
                "method": removal,
                "kl_nats": replayed.divergence(stream),
                "n_tokens": replayed.n,
            }


def _left(block: int, stream: Floats) -> Change:
    """What leaves a block is these rows instead."""

    def change(place: slice) -> Edit:
        tokens = np.arange(place.stop - place.start)
        return Edit(Site.RESID_POST, block, tokens, shift=stream[place])

    return change
