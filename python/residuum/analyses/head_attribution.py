"""What each head, bias and MLP adds directly to a logit.

The logit of a token is a sum over the components of the residual stream once the final norm's
scale is held at its captured value (direct logit attribution: the direct paths of Elhage et al.
2021, with the final norm kept). What a later component makes of a head's output is not counted as
the head's. A soft-capped logit is attributed before the cap, which is monotone.

That sum is an identity of the captured numbers, so that a store of int8 is refused.

    z, embed, mlp_out --components--> products with W_U's columns --> heads, components, logits
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from residuum.analyses.growing import GrowingTable
from residuum.analyses.params import param
from residuum.analyses.registry import Analysis, Tables, TableSpec
from residuum.analyses.result import column
from residuum.analyses.rows import NO_TOKEN, TokenRows, token_rows
from residuum.analyses.vocabulary import token_ids
from residuum.errors import ArgumentError
from residuum.replay.components import Components, components, row_products
from residuum.replay.readout import Floats, Readout, read_final, readout
from residuum.store.batches import blocks

if TYPE_CHECKING:
    from residuum.store import Store

BUDGET = 64 << 20  # bytes of activations and directions in memory at once
NAME = "head_attribution"


@dataclass(frozen=True)
class Params:
    """Whose logit."""

    to: tuple[str, ...] = param(
        (), "tokens (text or id) whose mean logit is explained; none given is the true next token"
    )
    minus: tuple[str, ...] = param((), "tokens whose mean logit is subtracted; needs `to`")
    examples: int | None = param(None, "only the first so many distinct examples", least=1)
    per_token: bool = param(False, "also keep every head's contribution at every token")


CONTRIBUTION = [
    column("n", pa.int64(), "tokens averaged over", unit="tokens"),
    column("mean", pa.float64(), "mean contribution", unit="logits"),
    column("std", pa.float64(), "standard deviation over tokens", unit="logits"),
]
PLACE = [
    column("row", pa.int64(), "row of the token sites"),
    column("example", pa.int64(), "first example that has the row"),
    column("token", pa.int32(), "position in the example"),
]
TABLES = (
    TableSpec(
        "heads",
        "one head",
        pa.schema(
            [
                column("layer", pa.int32(), "block"),
                column("head", pa.int32(), "head within the layer"),
                *CONTRIBUTION,
            ]
        ),
    ),
    TableSpec(
        "components",
        "one term of the residual stream, in its order",
        pa.schema(
            [
                column("component", pa.string(), "name, such as `L3 heads`"),
                column("kind", pa.string(), "embedding, heads, attention bias, MLP or output bias"),
                column("layer", pa.int32(), "block; null outside the blocks"),
                *CONTRIBUTION,
            ]
        ),
    ),
    TableSpec(
        "logits",
        "one token: the logit that is explained, and the sum of the parts",
        pa.schema(
            [
                *PLACE,
                column("target_id", pa.int32(), "the token explained; null if given by parameter"),
                column("logit", pa.float64(), "the model's logit, or difference", unit="logits"),
                column("sum_of_parts", pa.float64(), "of captured components", unit="logits"),
                column("difference", pa.float64(), "null unless all were captured", unit="logits"),
            ]
        ),
    ),
    TableSpec(
        "tokens",
        "one head at one token; empty unless `per_token`",
        pa.schema(
            [
                *PLACE,
                column("layer", pa.int32(), "block"),
                column("head", pa.int32(), "head within the layer"),
                column("contribution", pa.float32(), "to the logit", unit="logits"),
            ]
        ),
    ),
)


@dataclass(frozen=True)
class Question:
    """Whose logit is explained: the next token's, or the mean of `to` less that of `minus`."""

    readout: Readout
    to: NDArray[np.int32]
    minus: NDArray[np.int32]

    @property
    def is_next_token(self) -> bool:
        """Whether each row has a token of its own."""
        return len(self.to) == 0

    def directions(self, targets: NDArray[np.int32]) -> tuple[Floats, NDArray[np.float64]]:
        """Directions [row or 1, d_model] and constants [row or 1], before the norm's division."""
        if self.is_next_token:
            return self.readout.linear(targets)
        return self.readout.mean_linear(self.to, self.minus)


@dataclass
class Moments:
    """Mean and standard deviation of columns that arrive in blocks of rows."""

    n: int = 0
    total: NDArray[np.float64] | float = 0.0
    squares: NDArray[np.float64] | float = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Add rows of `[row, ...]`."""
        self.n += len(values)
        self.total = self.total + values.sum(axis=0)
        self.squares = self.squares + (values**2).sum(axis=0)

    def columns(self, shape: int) -> dict[str, NDArray[np.generic]]:
        """The columns n, mean and std, flattened to `shape` rows."""
        total, squares = (
            np.broadcast_to(x, np.shape(x)).ravel() for x in (self.total, self.squares)
        )
        mean = total / max(self.n, 1)
        variance = np.maximum(squares / max(self.n, 1) - mean**2, 0.0)
        return {"n": np.full(shape, self.n), "mean": mean, "std": np.sqrt(variance)}


@dataclass
class Kept:
    """What grows while the rows stream by."""

    heads: Moments = field(default_factory=Moments)
    components: Moments = field(default_factory=Moments)
    logits: GrowingTable = field(default_factory=lambda: GrowingTable(_schema("logits")))
    tokens: GrowingTable = field(default_factory=lambda: GrowingTable(_schema("tokens")))


def _schema(table: str) -> pa.Schema:
    return next(one.schema for one in TABLES if one.name == table)


def compute(store: "Store", params: Params) -> Tables:
    """Attribute the logit at every row that has one, block by block."""
    if params.minus and not params.to:
        message = f"{NAME}: `minus` needs `to`: a difference of logits has two sides"
        raise ArgumentError(message)
    question = Question(
        readout(store, analysis=NAME), token_ids(store, params.to), token_ids(store, params.minus)
    )
    parts, rows, kept = components(store, analysis=NAME), token_rows(store), Kept()
    n_row = rows.head(params.examples)
    for block in blocks(n_row, _row_bytes(parts), BUDGET):
        _attribute(question, parts, rows, block, kept, per_token=params.per_token)
    return _tables(parts, kept)


def _row_bytes(parts: Components) -> int:
    n_layer, n_head, d_head, d_model = parts.w_o.shape
    return 4 * int(4 * d_model + 3 * n_head * d_head + 2 * n_layer * n_head)


def _attribute(
    question: Question,
    parts: Components,
    rows: TokenRows,
    block: slice,
    kept: Kept,
    *,
    per_token: bool,
) -> None:
    """Add one block of rows to what is kept."""
    targets = rows.target_id[block]
    asked = (
        np.flatnonzero(targets != NO_TOKEN) if question.is_next_token else np.arange(len(targets))
    )
    if not len(asked):
        return
    directions, constants = question.directions(np.maximum(targets, 0))
    final = read_final(parts.store, block)
    divisors = question.readout.norm.scale(final).astype(np.float64)
    heads, sums = parts.contributions(block, directions)
    heads, sums = heads / divisors[:, None, None], sums / divisors[:, None]
    sums[:, -1] = constants
    logits = row_products(final, directions) / divisors + constants
    kept.heads.add(heads[asked])
    kept.components.add(sums[asked])
    chosen = asked + block.start
    kept.logits.add(_logits(question, parts, rows, chosen, logits[asked], sums[asked].sum(axis=1)))
    if per_token:
        kept.tokens.add(_tokens(parts, rows, chosen, heads[asked]))


def _logits(
    question: Question,
    parts: Components,
    rows: TokenRows,
    chosen: NDArray[np.int64],
    logits: NDArray[np.float64],
    sums: NDArray[np.float64],
) -> pa.Table:
    n = len(chosen)
    target = pa.array(rows.target_id[chosen]) if question.is_next_token else pa.nulls(n, pa.int32())
    difference = pa.array(sums - logits) if parts.complete else pa.nulls(n, pa.float64())
    place = {name: rows.taken(chosen)[name] for name in ("row", "example", "token")}
    values = {"target_id": target, "logit": logits, "sum_of_parts": sums, "difference": difference}
    return pa.table(place | values)


def _tokens(
    parts: Components, rows: TokenRows, chosen: NDArray[np.int64], heads: NDArray[np.float64]
) -> pa.Table:
    n_row, n_layer, n_head = heads.shape
    row = np.repeat(chosen, n_layer * n_head)
    layer = np.tile(np.repeat(np.array(parts.layers, np.int32), n_head), n_row)
    return pa.table(
        {
            "row": row,
            "example": rows.example[row],
            "token": rows.token[row],
            "layer": layer,
            "head": np.tile(np.arange(n_head, dtype=np.int32), n_row * n_layer),
            "contribution": heads.astype(np.float32).ravel(),
        }
    )


def _tables(parts: Components, kept: Kept) -> Tables:
    schemas = {table.name: table.schema for table in TABLES}
    n_head, n_layer, n_part = parts.w_o.shape[1], len(parts.layers), len(parts.parts)
    if kept.heads.n == 0:
        return {name: schema.empty_table() for name, schema in schemas.items()}
    heads = pa.table(
        {
            "layer": np.repeat(np.array(parts.layers, np.int32), n_head),
            "head": np.tile(np.arange(n_head, dtype=np.int32), n_layer),
            **kept.heads.columns(n_layer * n_head),
        }
    )
    components = pa.table(
        {
            "component": [part.name for part in parts.parts],
            "kind": [part.kind for part in parts.parts],
            "layer": pa.array([part.layer for part in parts.parts], pa.int32()),
            **kept.components.columns(n_part),
        }
    )
    return {
        "heads": heads,
        "components": components,
        "logits": kept.logits.finish(),
        "tokens": kept.tokens.finish(),
    }


ANALYSIS = Analysis(
    name=NAME,
    version=1,
    title="Head attribution",
    source="Elhage et al. 2021, A Mathematical Framework for Transformer Circuits",
    params=Params,
    sites=(("z",), ("resid_final", "resid_post")),
    weights=("W_O", "W_U"),
    tables=TABLES,
    compute=compute,
    exact=True,  # the parts sum to the model's own logit: those of rounded codes would not
)
run = ANALYSIS.run
