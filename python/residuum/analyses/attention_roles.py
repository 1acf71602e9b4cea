"""Which heads look at the previous token, the first, themselves, copies, or separators.

A role is a set of keys per query; a head's score is the attention it puts on that set, averaged
over the queries for which the set is not empty. Induction is the prefix-matching score of Olsson et
al., "In-context Learning and Induction Heads" (2022), on the text as it is instead of on repeated
random tokens: so read it beside `uniform`, the score of a head that looks at all it sees alike.
A query at position 0 does not count for itself: under a causal mask it can see nothing else.
Departure: copies are looked for within the example only, whatever was said before it.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from residuum.analyses.params import param
from residuum.analyses.registry import Analysis, Tables, TableSpec
from residuum.analyses.result import column
from residuum.analyses.rows import TokenRows, chosen_layers, token_rows
from residuum.analyses.vocabulary import separator_ids, token_ids
from residuum.errors import SiteError
from residuum.store.batches import blocks

if TYPE_CHECKING:
    from residuum.store import Store

BUDGET = 64 << 20  # bytes of pattern in memory at once
ROLES = (
    "previous_token",
    "next_token",
    "self",
    "first_token",
    "duplicate_token",
    "induction",
    "separator",
)
NOTHING = -2  # equals no key's token id
LATER = "later"  # every key after the query: tells causal attention from full
SETS = (*ROLES, LATER)


@dataclass(frozen=True)
class Params:
    """What to score."""

    layers: tuple[int, ...] | None = param(None, "layers to score; none is all captured", least=0)
    examples: int | None = param(None, "only the first so many distinct examples", least=1)
    separators: tuple[str, ...] = param(
        (), "tokens that count as separators, as ids or text; none given is the tokenizer's own"
    )


HEADS = TableSpec(
    "heads",
    "one head and role",
    pa.schema(
        [
            column("layer", pa.int32(), "block"),
            column("head", pa.int32(), "head within the layer"),
            column("role", pa.string(), "which keys count: " + ", ".join(ROLES)),
            column("score", pa.float64(), "mean attention on those keys", unit="share"),
            column("uniform", pa.float64(), "the score of even attention", unit="share"),
            column("n", pa.int64(), "tokens that have such a key", unit="tokens"),
        ]
    ),
)


def _refuse_stored_keys(store: "Store") -> None:
    if store.capture.get("keys") == "stored":
        message = (
            f"{store.path} was captured with the keys of stored tokens alone; attention_roles "
            "needs every key: capture `pattern` with --keys all."
        )
        raise SiteError(message)


def compute(store: "Store", params: Params) -> Tables:
    """Score every head; the pattern streams through in blocks of rows."""
    _refuse_stored_keys(store)
    site, rows = store["pattern"], token_rows(store)
    separators = token_ids(store, params.separators)
    if not len(separators):
        separators = separator_ids(store)
    layers = chosen_layers(site, params.layers)
    n_head, n_key = site.shape[2:]
    sums = Sums.zeros(len(layers), n_head)
    for block in blocks(rows.head(params.examples), n_head * n_key * 4, BUDGET):
        keys = role_keys(rows, block, n_key, separators)
        sums.count(keys, rows.token[block], rows.length[block])
        weights = keys.astype(np.float32)
        for at, layer in enumerate(layers):
            pattern = site.read(rows=block, layers=[layer]).reshape(-1, n_head, n_key)
            sums.add(at, pattern.astype(np.float32, copy=False) @ weights)
    return {"heads": _table(layers, sums)}


@dataclass(frozen=True)
class Sums:
    """Sums over queries, growing block by block.

    `attention`: [layer, head, set]. `even`: [2, set], what even attention puts on the set's keys,
    and `n`: [2, set], the queries that have such keys; if queries see all keys, and if only those
    up to themselves.
    """

    attention: NDArray[np.float64]
    even: NDArray[np.float64]
    n: NDArray[np.int64]

    @classmethod
    def zeros(cls, n_layer: int, n_head: int) -> "Sums":
        """Nothing seen yet."""
        n_set = len(SETS)
        attention = np.zeros((n_layer, n_head, n_set))
        return cls(attention, np.zeros((2, n_set)), np.zeros((2, n_set), np.int64))

    def count(
        self, keys: NDArray[np.bool_], token: NDArray[np.int32], length: NDArray[np.int32]
    ) -> None:
        """Add the queries of a block: `keys` [row, key, set], `token` and `length` [row]."""
        upto = (np.arange(keys.shape[1]) <= token[:, None])[:, :, None]
        for causal, (seen, n_visible) in enumerate(((keys, length), (keys & upto, token + 1))):
            self.n[causal] += seen.any(axis=1).sum(axis=0)
            self.even[causal] += (seen.sum(axis=1) / n_visible[:, None]).sum(axis=0)

    def add(self, layer: int, attention: NDArray[np.float32]) -> None:
        """Add a block's attention on each role, [row, head, role], of one layer."""
        self.attention[layer] += attention.sum(axis=0, dtype=np.float64)

    @property
    def is_causal(self) -> bool:
        """Whether no query looked at a key after itself."""
        return not self.attention[:, :, SETS.index(LATER)].any()


def role_keys(
    rows: TokenRows, block: slice, n_key: int, separators: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """The keys of each set for each query of a block: [row, key, set]."""
    query = rows.token[block, None]  # [row, 1]
    key = np.arange(n_key)[None, :]  # [1, key]
    ids = rows.key_ids(block, n_key)  # [row, key]
    inside = rows.inside(block, n_key)
    own = np.where(rows.token_id[block] < 0, NOTHING, rows.token_id[block])[:, None]
    follows_copy = np.zeros(ids.shape, bool)
    follows_copy[:, 1:] = (ids[:, :-1] == own) & (key[:, 1:] <= query)
    sets = {
        "previous_token": key == query - 1,
        "next_token": (key == query + 1) & inside,
        "self": (key == query) & (query > 0),
        "first_token": (key == 0) & (query > 0),
        "duplicate_token": (ids == own) & (key < query),
        "induction": follows_copy,
        "separator": np.isin(ids, separators) & (key != query),
        LATER: (key > query) & inside,
    }
    return np.stack([np.broadcast_to(sets[name], ids.shape) for name in SETS], axis=-1)


def _table(layers: list[int], sums: Sums) -> pa.Table:
    """One row per layer, head and role; a causal model has no next token to look at."""
    roles = [role for role in ROLES if not (role == "next_token" and sums.is_causal)]
    n_head = sums.attention.shape[1]
    counts, even = sums.n[int(sums.is_causal)], sums.even[int(sums.is_causal)]
    made = []
    for at, role in ((SETS.index(role), role) for role in roles):
        n = int(counts[at])
        made.append(
            pa.table(
                {
                    "layer": np.repeat(np.array(layers, np.int32), n_head),
                    "head": np.tile(np.arange(n_head, dtype=np.int32), len(layers)),
                    "role": [role] * (len(layers) * n_head),
                    "score": mean(sums.attention[:, :, at].ravel(), n),
                    "uniform": mean(np.full(len(layers) * n_head, even[at]), n),
                    "n": np.full(len(layers) * n_head, n),
                }
            )
        )
    return pa.concat_tables(made)


def mean(total: NDArray[np.float64], n: int) -> pa.Array:
    """Sums over `n`; null where `n` is 0."""
    return pa.array(total / n) if n else pa.nulls(len(total), pa.float64())


ANALYSIS = Analysis(
    name="attention_roles",
    version=1,
    title="Attention roles",
    source="Olsson et al. 2022, In-context Learning and Induction Heads, arXiv 2209.11895",
    params=Params,
    sites=(("pattern",),),
    tables=(HEADS,),
    compute=compute,
)
run = ANALYSIS.run
