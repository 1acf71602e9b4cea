"""Sections of attention roles: one map of heads per role, and the strongest heads of each."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from residuum.analyses.result import Result, column
from residuum.report.charts import Chart, count, head_map, largest
from residuum.report.sections import Section, scroll

TOP = 5
TITLES = {
    "previous_token": "Previous token",
    "next_token": "Next token",
    "self": "Itself",
    "first_token": "First token",
    "duplicate_token": "Earlier copies",
    "induction": "Induction",
    "separator": "Separators",
}
STRONGEST = pa.schema(
    [
        column("looks at", pa.string(), "role"),
        column("n", pa.int64(), "tokens that have such a key", unit="tokens"),
        column("even attention", pa.float64(), "the score of even attention", unit="share"),
        *(column(str(rank), pa.string(), "head and score") for rank in range(1, TOP + 1)),
    ]
)


def sections(result: Result) -> list[Section]:
    """A map per role, side by side, and a table of the strongest heads."""
    table = result["heads"]
    roles = [table.filter(pc.equal(table["role"], role)) for role in pc.unique(table["role"])]
    high = largest(table["score"].to_pylist())
    charts = [_map(rows, high) for rows in roles if rows["n"][0].as_py()]
    text = (
        "The share of a head's attention that goes to one kind of key, averaged over the tokens "
        "that have such a key. Copies are of the token itself; induction looks at what followed "
        "them. All maps have the same colours."
    )
    strongest = pa.Table.from_pylist([_strongest(rows) for rows in roles], STRONGEST)
    return [
        Section("Where heads look", text, charts),
        Section("Strongest heads", "L2H7 is head 7 of layer 2.", html=scroll(strongest)),
    ]


def _map(rows: pa.Table, high: float) -> Chart:
    n, uniform = rows["n"][0].as_py(), rows["uniform"][0].as_py()
    return head_map(
        rows.select(["layer", "head", "score"]).to_pylist(),
        value="score",
        title=_title(rows),
        says=f"{count(n, 'token')}; even attention would score {uniform:.2g}.",
        unit="share",
        high=high,
    )


def _strongest(rows: pa.Table) -> dict[str, Any]:
    """A row of the table; a role that no token has keeps its place."""
    n, uniform = rows["n"][0].as_py(), rows["uniform"][0].as_py()
    top = rows.sort_by([("score", "descending")]).slice(0, TOP).to_pylist() if n else []
    heads = {
        str(rank): f"L{row['layer']}H{row['head']} {row['score']:.3f}"
        for rank, row in enumerate(top, 1)
    }
    return {"looks at": _title(rows), "n": n, "even attention": uniform, **heads}


def _title(rows: pa.Table) -> str:
    role: str = rows["role"][0].as_py()
    return TITLES.get(role, role)
