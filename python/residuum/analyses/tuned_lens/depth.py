"""Where a prediction settles: the first layer from which on the top token stays (T8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from residuum.analyses.rows import NO_TOKEN
from residuum.analyses.tuned_lens.ranks import spearman

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from numpy.typing import NDArray

    from residuum.analyses.tuned_lens.study import Block, Study


DRAWS = 200
"""Of examples, for an interval."""


class Depth:
    """The table `depth` while rows pass by."""

    def __init__(self, study: Study) -> None:
        """Nothing seen yet."""
        self.study = study
        self.parts: list[pa.Table] = []

    def add(self, block: Block) -> None:
        """Take in a block of rows."""
        tokens, rows = self.study.tokens, block.rows
        without = tokens.target_id[rows] == NO_TOKEN
        tops: dict[str, list[NDArray[np.uint32]]] = {name: [] for name in self.study.names}
        for (name, _), seen in block.seen.items():
            tops[name].append(seen.top_id)
        for name, top in tops.items():
            self.parts.append(
                pa.table(
                    {
                        "lens": pa.array([name] * len(rows)),
                        "row": rows,
                        "seq_id": tokens.example[rows],
                        "pos": tokens.token[rows],
                        "prediction_depth": settles(np.stack(top), self.study.layers),
                        "target_logprob": pa.array(block.own.target_logprob, mask=without),
                    }
                )
            )

    def made(self) -> pa.Table:
        """The table."""
        order = [("lens", "ascending"), ("row", "ascending")]
        return pa.concat_tables(self.parts).sort_by(order)


def settles(top: NDArray[np.uint32], layers: list[int]) -> NDArray[np.int32]:
    """The first layer from which on all tokens `[layer, row]` are that of the last."""
    differs = top != top[-1]
    # One past the last layer that says something else; 0 where none does.
    after = np.where(differs.any(0), len(top) - differs[::-1].argmax(0), 0)
    return np.array(layers, np.int32)[after]


def difficulty(study: Study, depths: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows of the table `difficulty`: whether what settles late is what surprises the model.

    The paper correlates depth with the training step at which an example is learnt, which takes
    checkpoints of the training; the surprise of the next token is what one model can say.
    """
    for lens in pc.unique(depths["lens"]).to_pylist():
        mine = depths.filter((pc.field("lens") == lens) & pc.field("target_logprob").is_valid())
        late, surprise = mine["prediction_depth"].to_numpy(), -mine["target_logprob"].to_numpy()
        _, example = np.unique(mine["seq_id"].to_numpy(), return_inverse=True)
        n_example = int(example.max(initial=-1)) + 1
        rng, draws = np.random.default_rng(study.params.seed), []
        rows = [np.flatnonzero(example == one) for one in range(n_example)]
        for _ in range(DRAWS if n_example > 1 else 0):
            drawn = np.concatenate([rows[i] for i in rng.integers(n_example, size=n_example)])
            draws.append(spearman(late[drawn], surprise[drawn]))
        known = [draw for draw in draws if draw is not None]
        lo, hi = np.percentile(known, [2.5, 97.5]) if known else (None, None)
        yield {
            "model": study.model,
            "lens": lens,
            "mean_depth": float(late.mean()) if len(late) else None,
            "spearman": spearman(late, surprise),
            "lo": lo,
            "hi": hi,
            "n_tokens": len(late),
            "n_examples": n_example,
        }
