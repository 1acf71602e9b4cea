"""Sections of attention roles: one map of heads per role, and the strongest heads of each."""

import html

import pyarrow as pa
import pyarrow.compute as pc

from residuum.analyses.result import Result
from residuum.report.charts import Chart, count, head_map
from residuum.report.sections import Section, scroll

TOP = 5
TITLES = {
    "previous_token": "Previous token",
    "next_token": "Next token",
    "self": "Itself",
    "first_token": "First token",
    "duplicate_token": "Earlier copies of the token",
    "induction": "Induction: what followed an earlier copy",
    "separator": "Separators",
}


def sections(result: Result) -> list[Section]:
    """A map per role, side by side."""
    table = result["heads"]
    roles = pc.unique(table["role"]).to_pylist()
    charts, lists = [], []
    for role in roles:
        rows = table.filter(pc.equal(table["role"], role))
        if pc.sum(rows["n"]).as_py() == 0:
            lists.append(f"<h4>{html.escape(TITLES.get(role, role))}</h4><p>No token has one.</p>")
            continue
        charts.append(_map(role, rows))
        top = rows.sort_by([("score", "descending")]).slice(0, TOP)
        lists.append(
            f"<div><h4>{html.escape(TITLES.get(role, role))}</h4>"
            f"{scroll(top.select(['layer', 'head', 'score', 'uniform']))}</div>"
        )
    text = (
        "The share of a head's attention that goes to one kind of key, averaged over the tokens "
        "that have such a key. A head that looks everywhere alike would score what the tables "
        "list as uniform."
    )
    return [
        Section("Where heads look", text, charts),
        Section("Strongest heads", f"The first {TOP} of each role.", html=_grid(lists)),
    ]


def _map(role: str, rows: pa.Table) -> Chart:
    n, uniform = rows["n"][0].as_py(), rows["uniform"][0].as_py()
    return head_map(
        rows.select(["layer", "head", "score"]).to_pylist(),
        value="score",
        title=TITLES.get(role, role),
        says=f"{count(n, 'token')}; even attention would score {uniform:.2g}.",
        unit="share",
        signed=False,
        high=1.0,
    )


def _grid(parts: list[str]) -> str:
    return f'<div class="grid">{"".join(parts)}</div>'
