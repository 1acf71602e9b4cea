"""Tokens by layers: what each lens would say (T3).

And how far that is from what it said at the layer before, and from what the judged lens says.
"""

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
            by_lens = {
                name: study.normed(lens, layer, states) for name, lens in study.names.items()
            }
            for name, normed in by_lens.items():
                seen = study.statistics(normed, final, block)
                table = _table(study, name, layer, block, seen)
                other = None if name == study.own_name else by_lens[study.own_name]
                for end, of in (("previous", before.get(name)), ("lens", other)):
                    for kind, values in _apart(study, of, normed).items():
                        table = table.append_column(f"{kind}_to_{end}", values)
                parts.append(table)
            before = by_lens
    if not parts:
        return []
    order = [("lens", "ascending"), ("row", "ascending"), ("layer", "ascending")]
    return pa.concat_tables(parts).sort_by(order)


def _apart(study: Study, of: Floats | None, normed: Floats) -> dict[str, pa.Array]:
    """How far normed rows are from others, `js` and `tv`; null where there are no others."""
    n, step = len(normed), max(1, LOGITS // study.readout.d_vocab)
    if of is None:
        return dict.fromkeys(("js", "tv"), pa.nulls(n, pa.float32()))
    js, tv = np.empty(n, np.float32), np.empty(n, np.float32)
    for at in range(0, n, step):
        some = slice(at, at + step)
        p, q = (divergence.log_softmax(study.readout.unembed(x[some])) for x in (of, normed))
        js[some], tv[some] = divergence.js(p, q), divergence.total_variation(p, q)
    return {"js": pa.array(js), "tv": pa.array(tv)}


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
