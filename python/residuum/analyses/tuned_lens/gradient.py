"""Whether what a block adds to the stream steps down the loss (T9, the paper's Fig. 19).

A step against the gradient lowers the loss. There are two losses: the model's, which is brought
back through the later blocks, so that a token's state counts for its own loss and those of all
later tokens; and the logit lens' at the state itself, each token's own. And two states, that which
enters the block and that which leaves it. The paper's package took the logit lens at the state that
enters (`eval_loop.py` of early 2023), an example being one case.

By the state that leaves, the model's loss tells nothing of a model that is trained to the end: how
long a block's update is lies with its last weights, so that the mean product is 0 at an optimum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.lenses.removal import others

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.tuned_lens.replayed import Replayed
    from residuum.analyses.tuned_lens.study import Study

    Floats = NDArray[Any]


def gradient(study: Study, replayed: Replayed) -> list[dict[str, Any]]:
    """Rows of the table `gradient`."""
    rows = [
        {
            "model": study.model,
            "block": block,
            "layer": layer,
            "loss": loss,
            **_against(study, replayed, block, by),
        }
        for layer, loss, by in _gradients(study, replayed)
        for block in (layer - 1, layer)
        if 0 <= block < study.states.n_state - 1
    ]
    return sorted(rows, key=lambda row: (row["loss"] != "model", row["block"], row["layer"]))


def _gradients(study: Study, replayed: Replayed) -> Iterator[tuple[int, str, Floats]]:
    """State, loss and gradient, `[row, d_model]`."""
    from residuum.replay.opening import loss_gradients

    of, targets = study.params, study.tokens.target_id[replayed.rows]
    # The examples were looked up in a replay, which has compared the weights with the store's.
    back = loss_gradients(study.store, of.model, device=of.device, memory=of.memory, verify=False)
    for layer, by in back.of_model(replayed.states, replayed.examples.n, targets):
        yield layer, "model", by
        yield layer, "logit", back.of_readout(replayed.states(layer), targets)


def _against(study: Study, replayed: Replayed, block: int, by: Floats) -> dict[str, Any]:
    """What a block adds beside a gradient, at tokens with a next one: the others have no loss."""
    taught = study.tokens.target_id[replayed.rows] >= 0
    added = (replayed.states(block + 1) - replayed.states(block))[taught].astype(np.float64)
    by, seed = by[taught].astype(np.float64), study.params.seed
    of_tokens = _cosines(added, by)
    example = np.repeat(np.arange(len(replayed.examples)), replayed.examples.n)[taught]
    of_examples = _cosines(added, by, np.flatnonzero(np.diff(example, prepend=-1)))
    random = np.random.default_rng([seed, block]).standard_normal(added.shape)
    another = added[others(len(added), seed)] if len(added) > 1 else np.zeros_like(added)
    return {
        "cosine": _mean(of_tokens),
        "negative_share": _mean(of_tokens < 0),
        "example_negative_share": _mean(of_examples < 0),
        "cosine_random": _mean(_cosines(random, by)),
        "cosine_other": _mean(_cosines(another, by)),
        "n_tokens": len(of_tokens),
        "n_examples": len(of_examples),
    }


def _cosines(a: Floats, b: Floats, starts: NDArray[np.int64] | None = None) -> Floats:
    """Of rows `[row, d_model]`, or, from each start to the next, of rows as one vector.

    Those with a vector of length 0 have none, and are left out.
    """
    product, of_a, of_b = ((x * y).sum(1) for x, y in ((a, b), (a, a), (b, b)))
    if starts is not None:
        product, of_a, of_b = (np.add.reduceat(x, starts) for x in (product, of_a, of_b))
    length = np.sqrt(of_a) * np.sqrt(of_b)
    there = length > 0
    return np.asarray(product[there] / length[there])


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None
