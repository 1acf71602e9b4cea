"""Label copying (O6): what looking at a label adds to its logit, through a head's W_V and W_O.

For each label of a false prefix before the last, with x what entered the head's block there:

    added = norm(x) W_V W_O, seen through the final norm and W_U     one number for each label
    shown_logit_minus_mean = added[the label that stands there] - mean over labels

The final norm's divisor is that of the token before the last label, so that the unit is a logit.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.overthinking.metrics import Floats
from residuum.errors import SiteError, StoreError
from residuum.kernels import Norm
from residuum.sites import Site

if TYPE_CHECKING:
    import pyarrow as pa

    from residuum.analyses.overthinking.lens import Lens
    from residuum.analyses.overthinking.tasks import Task
    from residuum.replay.engine import Replay
    from residuum.replay.weights import Block, Weights

MOST = 2000
"""Labels that are looked at in a task, evenly drawn."""


def copying(
    task: "Task", labels: "pa.Table", lens: "Lens", replay: "Replay", weights: "Weights"
) -> Floats:
    """By layer and head, float64 `[layer, head]`; `labels` is what `looked_at` gives.

    Raises:
        StoreError: the model's blocks norm the sum, or what heads give.
        SiteError: what enters a block was not captured.
    """
    of = replay.of
    if of.post_norm or weights.block(0).branch_norms:
        message = (
            f"label copying needs heads that add to the stream, but the blocks of the model in "
            f"{lens.states.store.path} norm what they give"
        )
        raise StoreError(message)
    rows, shown, query = (labels[name].to_numpy() for name in ("row", "shown_label", "query_row"))
    final = lens.states.read(lens.n_state - 1, query)
    divisor = lens.readout.norm.scale(final).astype(np.float64)  # [label]
    directions, _ = lens.readout.linear(task.token_id.astype(np.int32))  # [class, d_model]
    found = np.empty((of.n_layer, of.n_head))
    for layer in range(of.n_layer):
        block = weights.block(layer)
        x = replay.source.read(Site.RESID_PRE, layer, rows).astype(np.float32)
        value = _values(x, block, replay)  # [label, head, d_head]
        read = _read(block, directions, of.n_head)  # [head, d_head, class]
        added = np.einsum("rhd,hdc->rhc", value, read) / divisor[:, None, None]
        own = np.take_along_axis(added, shown[:, None, None], axis=2)[:, :, 0]
        found[layer] = (own - added.mean(2)).mean(0)
    return found


def _values(x: Any, block: "Block", replay: "Replay") -> Floats:  # noqa: ANN401  an array
    """What a block's heads read at rows `[row, d_model]`: `[row, head, d_head]`."""
    of, first = replay.of, block.norms[0]
    norm = Norm(of.norm, of.eps, of.norm_offset, _wide(first.w), _wide(first.b))
    value = norm.apply(x).astype(np.float64) @ np.asarray(block.v.w, np.float64)
    if block.v.b is not None:
        value += block.v.b
    by_head = value.reshape(len(x), of.n_kv_head, of.d_head)
    return np.asarray(np.repeat(by_head, of.n_head // of.n_kv_head, axis=1))


def _read(block: "Block", directions: Any, n_head: int) -> Floats:  # noqa: ANN401  an array
    """What each head's output adds along directions `[class, d_model]`: `[head, d_head, class]`."""
    w_o = np.asarray(block.out.w, np.float64)
    read = w_o @ directions.T.astype(np.float64)
    return np.asarray(read.reshape(n_head, -1, len(directions)))


def _wide(weight: Any) -> Any:  # noqa: ANN401  an array or None
    return None if weight is None else np.asarray(weight, np.float32)


SQL = """
SELECT t.row, k.shown_label, q.row AS query_row
FROM demos q JOIN demos k ON k.example = q.example AND k.demo < q.demo
JOIN tokens t ON t.example = k.example AND t.token = k.label_tokens[1]
WHERE q.demo = q.n_demo - 1 AND q.prefix = 'false'
  AND q.dataset = $dataset AND q.prompt_format = $format AND q.setting = $setting
ORDER BY q.example, k.demo
"""


def looked_at(task: "Task", demos: "pa.Table", lens: "Lens") -> "pa.Table":
    """The labels of a task's false prefixes: row, shown_label, query_row; `MOST` of them at most.

    Raises:
        SiteError: the tokens of labels are not stored.
    """
    connection = lens.states.store.connect()
    try:
        connection.register("demos", demos)
        given = {"dataset": task.dataset, "format": task.format, "setting": task.setting}
        found = connection.sql(SQL, params=given).to_arrow_table()
    finally:
        connection.close()
    if found["row"].null_count or not found.num_rows:
        message = (
            "label copying reads the tokens of labels before the last, and "
            f"{lens.states.store.path} holds not all of them: capture with --positions all"
        )
        raise SiteError(message)
    order = np.random.default_rng(0).permutation(found.num_rows)[:MOST]
    return found.take(np.sort(order))


def rows(task: "Task", found: Floats, n: int, model: str) -> list[dict[str, Any]]:
    """Rows of `label_copying`."""
    return [
        {
            "model": model,
            "dataset": task.dataset,
            "setting": task.setting,
            "layer": layer,
            "head": head,
            "shown_logit_minus_mean": found[layer, head],
            "n": n,
        }
        for layer, head in np.ndindex(*found.shape)
    ]
