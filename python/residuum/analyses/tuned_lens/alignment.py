"""Do lens and model answer an intervention the same way (T6)? In Aitchison's geometry.

A response is the change of log-probabilities that an intervention makes. What is the same for every
token says nothing, so that responses are centred; tokens have weights, all the same or as often as
the model says them, which keeps rare tokens from drowning the others (Belrose et al. 2023, section
4.2; Aitchison 1982).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from residuum.analyses.tuned_lens.replayed import Replayed
    from residuum.analyses.tuned_lens.study import Study

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

LOGITS = 4 << 20
"""Logits of the rows that are looked at together."""
LEAST = 1e-8


class Alignment:
    """Compares responses of a lens with those of the model, over the replayed examples."""

    def __init__(self, study: Study, replayed: Replayed) -> None:
        """Sum up how often the model says each token: the second kind of weights."""
        self.study, self.replayed = study, replayed
        final, targets = replayed.final, study.tokens.target_id[replayed.rows]
        said = study.readout.judge(final[None], final, targets).marginal[0]
        self.weights = {"uniform": np.full(len(said), 1 / len(said)), "marginal": said / said.sum()}

    def of(
        self, moved: Mapping[str, tuple[Floats, Floats]], stream: Floats
    ) -> Iterator[dict[str, Any]]:
        """By lens and kind of weights.

        Args:
            moved: normed rows of each lens, before and after.
            stream: those of the model, after.
        """
        alike = {(lens, name): np.empty(self.replayed.n) for lens in moved for name in self.weights}
        step = max(1, LOGITS // self.study.readout.d_vocab)
        for at in range(0, self.replayed.n, step):
            some = slice(at, at + step)
            model = self.response(self.replayed.final[some], stream[some])
            for lens, (before, after) in moved.items():
                own = self.response(before[some], after[some])
                for name, weights in self.weights.items():
                    alike[lens, name][some] = similarity(own, model, weights)
        for (lens, name), values in alike.items():
            each = np.array([values[place].mean() for place in self.replayed.places])
            error = each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else None
            yield {
                "lens": lens,
                "weights": name,
                "alignment": float(each.mean()),
                "error": error,
                "n_tokens": len(values),
                "n_examples": len(each),
            }

    def response(self, before: Floats, after: Floats) -> Floats:
        """How the logits of normed rows change, `[row, token]`."""
        of = self.study.readout
        if of.logit_softcap is not None:
            return np.asarray(of.unembed(after) - of.unembed(before))
        # Logits are linear but for the cap: one product says as much as two.
        return np.asarray((after - before) @ of.w_u * np.float32(of.logit_scale))


def similarity(a: NDArray[Any], b: NDArray[Any], weights: Doubles) -> Doubles:
    """Aitchison's cosine of changes of log-probabilities `[row, token]`, by row.

    Args:
        a: up to a constant for each row.
        b: likewise.
        weights: of tokens, sum to 1.
    """
    a, b = (x.astype(np.float64) for x in (a, b))
    a -= (a @ weights)[:, None]
    b -= (b @ weights)[:, None]
    inner = (a * b) @ weights
    sizes = np.sqrt((a * a) @ weights * ((b * b) @ weights))
    return np.asarray(inner / np.maximum(sizes, LEAST))
