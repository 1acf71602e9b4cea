"""Sections of the logit lens: the map of tokens and layers, then averages per layer."""

from typing import Any

import pyarrow.compute as pc

from residuum.analyses.result import Result
from residuum.report.charts import Chart, count, layer_lines
from residuum.report.lens_map import lens_map
from residuum.report.sections import Section, scroll

EXAMPLES = 12  # in the menu
TOKENS = 40  # of one example, from its start


def sections(result: Result) -> list[Section]:
    """The lens map and the curves over layers."""
    return [_map(result), _curves(result)]


def _map(result: Result) -> Section:
    table = result["trajectory"]
    title = "What the model would say at each layer"
    if table.num_rows == 0:
        return Section(title, "No token was asked for.")
    examples = pc.unique(table["example"]).slice(0, EXAMPLES)
    chosen = table.filter(pc.is_in(table["example"], value_set=examples))
    start = pc.min(chosen["token"]).as_py()
    chosen = chosen.filter(pc.less(chosen["token"], start + TOKENS))
    says = (
        "Each row is a token of the text, each column a layer; the word in a cell is the token "
        "that the lens ranks first. An orange outline marks words that are the true next token."
    )
    text = (
        "The state after each layer, read through the final norm and the unembedding. Shown: "
        f"{count(len(examples), 'example')}, the first {TOKENS} tokens of each."
    )
    return Section(title, text, (lens_map(chosen.to_pylist(), title="Logit lens", says=says),))


def _curves(result: Result) -> Section:
    table = result["summary"]
    rows = table.to_pylist()
    nats = {
        "cross_entropy": "cross-entropy with the true next token",
        "entropy": "entropy of the lens",
        "kl_to_final": "KL(model's output ‖ lens)",
    }
    shares = {
        "top_is_target": "is the true next token",
        "top_is_final": "is the model's own top token",
    }
    charts = (
        _lines(
            rows,
            nats,
            "Nats by layer",
            "nats per token",
            "Cross-entropy and KL fall as the lens predicts better.",
        ),
        _lines(
            rows, shares, "Top token by layer", "share of tokens", "How often the top token fits."
        ),
    )
    n, n_target = rows[0]["n"] if rows else 0, rows[0]["n_target"] if rows else 0
    text = (
        f"Means over {count(n, 'stored token')}, of which {n_target:,} have a next token. "
        "The last layer is the model's own output."
    )
    return Section("By layer", text, charts, scroll(table))


def _lines(rows: list[Any], series: dict[str, str], title: str, unit: str, says: str) -> Chart:
    points = [
        {"layer": row["layer"], "series": name, "value": row[field]}
        for field, name in series.items()
        for row in rows
        if row[field] is not None
    ]
    return layer_lines(points, title=title, unit=unit, says=says)
