"""Replays of held-out examples, every token of them, and how far the model's output moves."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from residuum.lenses.examples import stored_examples
from residuum.replay.plan import Read, Run
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from residuum.analyses.tuned_lens.study import Study
    from residuum.lenses.examples import Examples
    from residuum.replay.edit import Edit

    Floats = NDArray[np.float32]
    Rows = NDArray[np.int64]
    Change = Callable[[slice], Edit]
    """An edit of one example, given the place of its rows among those of all."""

STREAMS = 64 << 20
"""Bytes of what leaves the last block in the cases that are replayed together."""


class Replayed:
    """The first of the examples that are judged, under changes of the model's own pass."""

    def __init__(self, study: Study) -> None:
        """Choose the examples.

        Raises:
            SelectionError: one that not all tokens of are stored: it cannot be replayed.
        """
        self.study = study
        every = stored_examples(study.store)
        judged = np.flatnonzero(np.isin(every.first, study.judged))
        self.examples: Examples = every.taken(judged[: study.params.basis_examples])
        for first in self.examples.first:
            study.replay.resolver.example(first[None])
        self.rows: Rows = self.examples.rows()
        ends = np.cumsum(self.examples.n)
        spans = zip(ends - self.examples.n, ends, strict=True)
        self.places = [slice(int(first), int(end)) for first, end in spans]

    @property
    def n(self) -> int:
        """Tokens."""
        return len(self.rows)

    @cached_property
    def final(self) -> Floats:
        """What left the last block as the model ran, normed, `[row, d_model]`."""
        return self.study.final(self.rows)

    def states(self, layer: int) -> Floats:
        """The states of all rows, `[row, d_model]`."""
        return self.study.states.finite(layer, self.rows)

    def streams(self, changes: Sequence[Change]) -> Iterator[Floats]:
        """What leaves the last block under each change, normed, `[row, d_model]`."""
        replay = self.study.replay
        together = max(1, STREAMS // (4 * self.n * replay.of.d_model))
        for at in range(0, len(changes), together):
            some = changes[at : at + together]
            found = replay.streams([run for change in some for run in self._runs(change)])
            each = len(self.places)
            for case in range(len(some)):
                whole = np.concatenate(found[case * each : (case + 1) * each])
                yield self.study.readout.norm.apply(whole.astype(np.float32, copy=False))

    def _runs(self, change: Change) -> Iterator[Run]:
        last = self.study.replay.of.n_layer - 1
        for first, n, place in zip(
            self.examples.first.tolist(), self.examples.n.tolist(), self.places, strict=True
        ):
            read = Read(Site.RESID_POST, last, np.arange(n))
            yield Run(first, n, [change(place)], [read])

    def divergence(self, stream: Floats) -> float:
        """Mean KL from the model's own output to that of a normed stream, nats a token."""
        seen = self.study.statistics(stream, self.final, self.rows)
        return float(seen.kl_to_reference.mean(dtype=np.float64))
