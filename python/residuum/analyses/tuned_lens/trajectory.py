"""Tokens by layers: what each lens would say, and how far that is from the layer before (T3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from residuum.analyses.rows import NO_TOKEN
from residuum.kernels import NO_TOKEN as NO_RANK
from residuum.lenses import divergence

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.analyses.tuned_lens.study import Study
    from residuum.kernels import LensStats

    Floats = NDArray[np.float32]

LOGITS = 4 << 20
"""Logits of the rows that are compared together."""


def trajectory(study: Study) -> pa.Table | list[dict[str, object]]:
    """Rows of the table `trajectory`, of the first examples that are judged."""
    example = study.tokens.example[study.judged]
    chosen = np.unique(example)[: study.params.examples]
    rows = study.judged[np.isin(example, chosen)]
    parts = []
    for block in study.blocks(rows):
        final = study.final(block)
        before: dict[str, Floats] = {}
        for layer in study.layers:
            states = study.states.finite(layer, block)
            for name, lens in study.names.items():
                normed = study.normed(lens, layer, states)
                seen = study.statistics(normed, final, block)
                table = _table(study, name, layer, block, seen)
                for column, values in _steps(study, before.get(name), normed).items():
                    table = table.append_column(column, values)
                parts.append(table)
                before[name] = normed
    if not parts:
        return []
    order = [("lens", "ascending"), ("row", "ascending"), ("layer", "ascending")]
    return pa.concat_tables(parts).sort_by(order)


def _steps(study: Study, before: Floats | None, normed: Floats) -> dict[str, pa.Array]:
    """How far normed rows are from those of the layer before; null at the first."""
    n, step = len(normed), max(1, LOGITS // study.readout.d_vocab)
    if before is None:
        return dict.fromkeys(("js_to_previous", "tv_to_previous"), pa.nulls(n, pa.float32()))
    js, tv = np.empty(n, np.float32), np.empty(n, np.float32)
    for at in range(0, n, step):
        some = slice(at, at + step)
        p, q = (divergence.log_softmax(study.readout.unembed(x[some])) for x in (before, normed))
        js[some], tv[some] = divergence.js(p, q), divergence.total_variation(p, q)
    return {"js_to_previous": pa.array(js), "tv_to_previous": pa.array(tv)}


def _table(
    study: Study, name: str, layer: int, rows: NDArray[np.int64], seen: LensStats
) -> pa.Table:
    tokens, n = study.tokens, len(rows)
    words = pa.array(study.store.vocabulary)
    top = seen.top_ids[:, 0]
    ids = pa.array(np.where(top == NO_RANK, 0, top).astype(np.int32), mask=top == NO_RANK)
    target = tokens.target_id[rows]
    without = target == NO_TOKEN
    block = study.block_of(layer)
    return pa.table(
        {
            "lens": pa.array([name] * n),
            "row": rows,
            "seq_id": tokens.example[rows],
            "pos": tokens.token[rows],
            "layer": np.full(n, layer, np.int32),
            "block": pa.array([block] * n, pa.int32()),
            "text": tokens.text.take(pa.array(rows)),
            "top1_id": ids,
            "top1_text": words.take(ids),
            "top1_prob": np.exp(seen.top_logprobs[:, 0]),
            "entropy": seen.entropy,
            "kl_to_final": seen.kl_to_reference,
            "target_id": pa.array(target, mask=without),
            "target_text": tokens.target_text.take(pa.array(rows)),
            "target_logprob": pa.array(seen.target_logprob, mask=without),
            "target_rank": pa.array(
                np.where(seen.target_rank == NO_RANK, 0, seen.target_rank).astype(np.int32),
                mask=without | (seen.target_rank == NO_RANK),
            ),
        }
    )
