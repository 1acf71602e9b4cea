"""How far a lens is from the model's own output at every layer, and how biased (T1, T2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.rows import NO_TOKEN
from residuum.analyses.tuned_lens.text_bytes import text_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from residuum.analyses.tuned_lens.study import Block, Study
    from residuum.kernels import Judged


@dataclass
class Sums:
    """Of one lens at one layer, over the rows seen so far."""

    marginal: NDArray[np.float64]
    n: int = 0
    n_target: int = 0
    totals: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("kl", "entropy", "ce", "agree"), 0.0)
    )

    def add(self, seen: Judged, own: NDArray[np.uint32], has: NDArray[np.bool_]) -> None:
        """Take in a block; `own` are the model's top tokens, `has` whether there is a target."""
        self.marginal += seen.marginal
        self.n += len(own)
        self.n_target += int(has.sum())
        self.totals["kl"] += float(seen.kl.sum(dtype=np.float64))
        self.totals["entropy"] += float(seen.entropy.sum(dtype=np.float64))
        self.totals["ce"] -= float(seen.target_logprob[has].sum(dtype=np.float64))
        self.totals["agree"] += float((seen.top_id == own).sum())


class Quality:
    """The table `quality` while rows pass by."""

    def __init__(self, study: Study) -> None:
        """Nothing seen yet."""
        self.study = study
        self.sums = {
            (name, layer): Sums(np.zeros(study.readout.d_vocab))
            for name in study.names
            for layer in study.layers
        }

    def add(self, block: Block) -> None:
        """Take in a block of rows."""
        has = self.study.tokens.target_id[block.rows] != NO_TOKEN
        for key, seen in block.seen.items():
            self.sums[key].add(seen, block.own.top_id, has)

    def made(self) -> Iterator[dict[str, Any]]:
        """The rows of the table."""
        return _rows(self.study, self.sums)


def _rows(study: Study, sums: Mapping[tuple[str, int], Sums]) -> Iterator[dict[str, Any]]:
    per_byte = bits_per_byte(study)
    own = sums[next(iter(study.names)), study.layers[-1]]
    said = own.marginal / own.marginal.sum()
    constant = (
        float(-(said[said > 0] * np.log(said[said > 0])).sum()) - own.totals["entropy"] / own.n
    )
    for (name, layer), of in sums.items():
        ce = of.totals["ce"] / of.n_target if of.n_target else None
        kl = of.totals["kl"] / of.n
        true = sums[name, study.layers[-1]].marginal
        yield {
            "model": study.model,
            "lens": name,
            "layer": layer,
            "block": study.block_of(layer),
            "ce_nats": ce,
            "ce_bpb": None if ce is None or per_byte is None else ce * per_byte,
            "kl_nats": kl,
            "kl_bpb": None if per_byte is None else kl * per_byte,
            "constant_kl_nats": constant,
            "entropy": of.totals["entropy"] / of.n,
            "marginal_kl": divergence(true, of.marginal),
            "top1_is_final": of.totals["agree"] / of.n,
            "trained_on": study.trained_on(name),
            "n_tokens": of.n,
            "n_targets": of.n_target,
        }


def lens_transfer(study: Study, quality: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows of the table `lens_transfer` (T10): the lens beside, above the model's own lens."""
    if study.beside is None:
        return
    rows = list(quality)
    own = {row["layer"]: row for row in rows if row["lens"] == study.own_name}
    for row in rows:
        if row["lens"] == study.beside_name and row["layer"] != study.layers[-1]:
            mine = own[row["layer"]]
            bits = None if row["kl_bpb"] is None else row["kl_bpb"] - mine["kl_bpb"]
            yield {
                "lens": row["lens"],
                "lens_model": study.beside.about.get("model"),
                "state_model": study.model,
                "layer": row["layer"],
                "kl_nats": row["kl_nats"],
                "kl_bpb": row["kl_bpb"],
                "own_kl_nats": mine["kl_nats"],
                "penalty_nats": row["kl_nats"] - mine["kl_nats"],
                "penalty_bpb": bits,
                "n_tokens": row["n_tokens"],
            }


def divergence(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    """KL of two distributions that need not be normed yet, in nats."""
    p, q = p / p.sum(), q / q.sum()
    there = p > 0
    return max(0.0, float((p[there] * np.log(p[there] / q[there])).sum()))


def bits_per_byte(study: Study) -> float | None:
    """What turns nats per token into bits per byte of the judged texts; None without texts.

    Tokens that stand for no text, such as the first, count as tokens only.
    """
    n_byte = text_bytes(study.store, study.tokens, study.judged)
    return len(study.judged) / n_byte / np.log(2) if n_byte else None
