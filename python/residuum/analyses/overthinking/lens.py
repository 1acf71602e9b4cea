"""Label probabilities by the logit lens at every state of the stream.

State 0 is the embedding, state l the stream that leaves block l - 1, so that a model of L blocks
has L + 1 states and the last gives the model's own output. Each is normed once by the final norm.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from residuum import kernels
from residuum.lenses.states import States
from residuum.replay.readout import Floats, readout
from residuum.store.batches import blocks

if TYPE_CHECKING:
    from residuum.analyses.overthinking.tasks import Task
    from residuum.store import Store

    Ints = NDArray[np.int64]

ROWS = 4096
"""Rows of the stream that are read at once."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What the lens says of rows.

    Attributes:
        p: float64 `[..., class]`, probability of each label's first token in the full vocabulary.
        top: int64 `[..., rank]`, the likeliest tokens, as many as there are classes.
    """

    p: NDArray[np.float64]
    top: "Ints"


class Lens:
    """The final norm and unembedding, and the states that they are applied to."""

    def __init__(self, store: "Store", *, double: bool) -> None:
        """Find the weights; `double` norms the last state twice, as the paper's code does.

        Raises:
            StoreError: the model has no unembedding.
        """
        self.readout = readout(store, analysis="overthinking")
        self.states = States(store, analysis="overthinking")
        self.n_state = self.states.n_state
        self.double = double

    def of_stream(self, stream: Floats, token_id: "Ints", *, last: bool = True) -> Seen:
        """The labels' probabilities from rows `[row, d_model]` before the final norm."""
        of = self.readout
        normed = of.norm.apply(stream)
        if last and self.double:
            normed = of.norm.apply(normed)
        found = kernels.lens(
            normed,
            of.w_u,
            bias=of.b_u,
            k=len(token_id),
            logit_scale=of.logit_scale,
            softcap=of.logit_softcap,
        )
        logits = of.unembed(normed.astype(np.float64), token_id)
        return Seen(np.exp(logits - found.lse[:, None]), found.top_ids.astype(np.int64))

    def at(self, task: "Task", state: int, demos: list[int]) -> Seen:
        """At some demonstrations of a task: `[pair, prefix, demo, ...]`."""
        rows = task.row[:, :, demos]
        parts = [
            self.of_stream(
                self.states.read(state, rows.ravel()[part]),
                task.token_id,
                last=state == self.n_state - 1,
            )
            for part in blocks(rows.size, 1, ROWS)
        ]
        return Seen(
            np.concatenate([part.p for part in parts]).reshape(*rows.shape, -1),
            np.concatenate([part.top for part in parts]).reshape(*rows.shape, -1),
        )
