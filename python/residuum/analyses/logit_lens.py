"""What the model would predict if it stopped at each layer: the logit lens.

`layer` l reads `resid_post[l]` through the final norm and the unembedding, so that the last layer
is the model's own output. Conventions are those of the tuned lens (Belrose et al. 2023): forward
KL, `KL(p_final || p_layer)`, at the same position; entropies in nats; ranks from 0. Departure:
states are numbered by the block that leaves them, so the embedding (their state 0) is not there.

    resid_post rows --norm--> kernels.lens --statistics--> trajectory, top; sums --> summary
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from residuum.analyses.growing import GrowingTable
from residuum.analyses.params import param
from residuum.analyses.registry import Analysis, Tables, TableSpec
from residuum.analyses.result import column
from residuum.analyses.rows import NO_TOKEN, TokenRows, chosen_layers, token_rows
from residuum.kernels import NO_TOKEN as NO_RANK
from residuum.kernels import LensStats
from residuum.replay.readout import read_final, readout
from residuum.store.batches import blocks

if TYPE_CHECKING:
    from residuum.store import Store

BUDGET = 64 << 20  # bytes of residual rows in memory at once
NAME = "logit_lens"


@dataclass(frozen=True)
class Params:
    """Where to look, and how much to keep."""

    layers: tuple[int, ...] | None = param(None, "layers to read; none is all captured", least=0)
    k: int = param(5, "most likely tokens to keep per token and layer", least=1)
    examples: int | None = param(None, "only the first so many distinct examples", least=1)


PLACE = [
    column("row", pa.int64(), "row of the token sites"),
    column("layer", pa.int32(), "block whose resid_post is read"),
]
TABLES = (
    TableSpec(
        "trajectory",
        "one token at one layer",
        pa.schema(
            [
                *PLACE,
                column("example", pa.int64(), "first example that has the row"),
                column("token", pa.int32(), "position in the example"),
                column("text", pa.string(), "the token itself"),
                column("top_id", pa.int32(), "id of the most likely token"),
                column("top_text", pa.string(), "its text"),
                column("top_probability", pa.float32(), "its probability", unit="probability"),
                column("entropy", pa.float32(), "of the lens' distribution", unit="nats"),
                column("kl_to_final", pa.float32(), "KL(model's output || lens)", unit="nats"),
                column("target_id", pa.int32(), "the true next token; null at the end"),
                column("target_text", pa.string(), "its text"),
                column("target_rank", pa.int32(), "tokens ranked above it; 0 is best"),
                column("target_logprob", pa.float32(), "its log-probability", unit="nats"),
            ]
        ),
    ),
    TableSpec(
        "top",
        "one of the k most likely tokens, at one token and layer",
        pa.schema(
            [
                *PLACE,
                column("rank", pa.int32(), "0 is the most likely"),
                column("token_id", pa.int32(), "id of the predicted token"),
                column("text", pa.string(), "its text"),
                column("logit", pa.float32(), "its logit", unit="logits"),
                column("logprob", pa.float32(), "its log-probability", unit="nats"),
            ]
        ),
    ),
    TableSpec(
        "summary",
        "one layer, averaged over tokens",
        pa.schema(
            [
                column("layer", pa.int32(), "block whose resid_post is read"),
                column("n", pa.int64(), "tokens that are finite", unit="tokens"),
                column("entropy", pa.float64(), "mean", unit="nats"),
                column("kl_to_final", pa.float64(), "mean KL(model's output || lens)", unit="nats"),
                column("top_is_final", pa.float64(), "top token is the model's own", unit="share"),
                column("n_target", pa.int64(), "tokens with a next token", unit="tokens"),
                column("cross_entropy", pa.float64(), "mean, with the next token", unit="nats"),
                column("top_is_target", pa.float64(), "top token is the next token", unit="share"),
                column("target_rank_median", pa.float64(), "median rank of the next token"),
            ]
        ),
    ),
)


def compute(store: "Store", params: Params) -> Tables:
    """Read the chosen layers of every row through the lens, block by block."""
    site = store["resid_post"]
    layers = chosen_layers(site, params.layers)
    unembed, rows = readout(store, analysis=NAME), token_rows(store)
    lens = Lens.of(rows, pa.array(store.vocabulary), layers)
    row_bytes = 4 * unembed.w_u.shape[0] * (2 + len(layers))
    for block in blocks(rows.head(params.examples), row_bytes, BUDGET):
        final = unembed.norm.apply(read_final(store, block))
        own = unembed.statistics(final, final, rows.target_id[block], params.k).top_ids[:, 0]
        seen = []
        for layer in layers:
            state = site.read(rows=block, layers=[layer]).reshape(final.shape)
            state = unembed.norm.apply(state)
            seen.append(unembed.statistics(state, final, rows.target_id[block], params.k))
        lens.add(block, seen, own)
    return lens.tables()


@dataclass
class Summary:
    """Sums of one layer over the rows seen so far; ranks are kept, for their median."""

    layer: int
    n: int = 0
    entropy: float = 0.0
    kl_to_final: float = 0.0
    top_is_final: int = 0
    logprob: float = 0.0
    top_is_target: int = 0
    ranks: list[NDArray[np.uint32]] = field(default_factory=list)

    def add(self, seen: LensStats, own: NDArray[np.uint32], has_target: NDArray[np.bool_]) -> None:
        """Add a block of rows; `own` is the model's top token, `has_target` [row]."""
        # A capture may have kept rows that are not finite; they count nowhere.
        finite = np.isfinite(seen.entropy) & np.isfinite(seen.kl_to_reference)
        targeted = has_target & finite
        self.n += int(finite.sum())
        self.entropy += float(seen.entropy[finite].sum(dtype=np.float64))
        self.kl_to_final += float(seen.kl_to_reference[finite].sum(dtype=np.float64))
        self.top_is_final += int((seen.top_ids[:, 0] == own)[finite].sum())
        self.logprob += float(seen.target_logprob[targeted].sum(dtype=np.float64))
        ranks = seen.target_rank[targeted]
        self.top_is_target += int((ranks == 0).sum())
        self.ranks.append(ranks)

    def row(self) -> dict[str, float | int | None]:
        """The row of the table `summary`; means over nothing are null."""
        ranks = np.concatenate(self.ranks) if self.ranks else np.zeros(0, np.uint32)
        n, n_target = self.n or None, len(ranks) or None
        return {
            "layer": self.layer,
            "n": self.n,
            "entropy": n and self.entropy / n,
            "kl_to_final": n and self.kl_to_final / n,
            "top_is_final": n and self.top_is_final / n,
            "n_target": len(ranks),
            "cross_entropy": n_target and -self.logprob / n_target,
            "top_is_target": n_target and self.top_is_target / n_target,
            "target_rank_median": n_target and float(np.median(ranks)),
        }


@dataclass
class Lens:
    """The tables while they grow. `words`: the text of every token id."""

    rows: TokenRows
    words: pa.Array
    summaries: list[Summary]
    trajectory: GrowingTable
    top: GrowingTable

    @classmethod
    def of(cls, rows: TokenRows, words: pa.Array, layers: list[int]) -> "Lens":
        """Nothing seen yet."""
        trajectory, top = (GrowingTable(table.schema) for table in TABLES[:2])
        return cls(rows, words, [Summary(layer) for layer in layers], trajectory, top)

    def add(self, block: slice, seen: list[LensStats], own: NDArray[np.uint32]) -> None:
        """Add the statistics of one block of rows at every layer."""
        row = np.arange(block.start, block.stop)
        has_target = self.rows.target_id[block] != NO_TOKEN
        trajectory, top = [], []
        for summary, at_layer in zip(self.summaries, seen, strict=True):
            summary.add(at_layer, own, has_target)
            trajectory.append(self._trajectory(row, summary.layer, at_layer, ~has_target))
            top.append(self._top(row, summary.layer, at_layer))
        order = [("row", "ascending"), ("layer", "ascending")]
        self.trajectory.add(pa.concat_tables(trajectory).sort_by(order))
        self.top.add(pa.concat_tables(top).sort_by([*order, ("rank", "ascending")]))

    def tables(self) -> Tables:
        """The finished tables, ordered by row, layer and rank."""
        return {
            "trajectory": self.trajectory.finish(),
            "top": self.top.finish(),
            "summary": pa.Table.from_pylist([s.row() for s in self.summaries], TABLES[2].schema),
        }

    def _trajectory(
        self, row: NDArray[np.int64], layer: int, seen: LensStats, without: NDArray[np.bool_]
    ) -> pa.Table:
        best = _ids(seen.top_ids[:, 0])
        values = {
            "layer": np.full(len(row), layer, np.int32),
            "top_id": best,
            "top_text": self.words.take(best),
            "top_probability": np.exp(seen.top_logprobs[:, 0]),
            "entropy": seen.entropy,
            "kl_to_final": seen.kl_to_reference,
            "target_id": pa.array(self.rows.target_id[row], mask=without),
            "target_text": self.rows.target_text.take(pa.array(row)),
            "target_rank": pa.array(
                seen.target_rank.astype(np.int64), mask=without | (seen.target_rank == NO_RANK)
            ),
            "target_logprob": pa.array(seen.target_logprob, mask=without),
        }
        return pa.table(self.rows.taken(row) | values)

    def _top(self, row: NDArray[np.int64], layer: int, seen: LensStats) -> pa.Table:
        n_row, k = seen.top_ids.shape
        ids = _ids(seen.top_ids.ravel())
        return pa.table(
            {
                "row": np.repeat(row, k),
                "layer": np.full(n_row * k, layer, np.int32),
                "rank": np.tile(np.arange(k, dtype=np.int32), n_row),
                "token_id": ids,
                "text": self.words.take(ids),
                "logit": seen.top_logits.ravel(),
                "logprob": seen.top_logprobs.ravel(),
            }
        )


def _ids(ids: NDArray[np.integer[Any]]) -> pa.Array:
    """Token ids; null where no logit was a number."""
    none = ids == NO_RANK
    return pa.array(np.where(none, 0, ids).astype(np.int32), mask=none)


ANALYSIS = Analysis(
    name=NAME,
    version=1,
    title="Logit lens",
    source="nostalgebraist 2020, interpreting GPT: the logit lens; conventions of arXiv 2303.08112",
    params=Params,
    sites=(("resid_post",),),
    weights=("W_U",),
    tables=TABLES,
    compute=compute,
)
run = ANALYSIS.run
