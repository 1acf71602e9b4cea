"""Sections of clusters: how large each is, and the rows nearest to each centre."""

import html
from itertools import groupby
from typing import Any

import altair as alt

from residuum.analyses.result import Result
from residuum.report.charts import Chart, cell_axis, count, data, finish, within
from residuum.report.sections import Section

CLUSTERS = 60  # with their nearest rows spelt out
BAR_STEP = (6, 22)  # pixels, least and largest
WIDTH, HEIGHT = 440, 180


def sections(result: Result) -> list[Section]:
    """Sizes and spread, then what is nearest to each centre."""
    return [_sizes(result), _nearest(result)]


def _where(result: Result) -> str:
    p = result.parameters
    layer = "" if p.get("layer") is None else f", layer {p['layer']}"
    head = "" if p.get("head") is None else f", head {p['head']}"
    return f"{p['site']}{layer}{head}"


def _sizes(result: Result) -> Section:
    rows = sorted(result["clusters"].to_pylist(), key=lambda row: -row["size"])
    total = sum(row["size"] for row in rows)
    text = f"{count(total, 'row')} of {_where(result)} in {count(len(rows), 'cluster')}."
    charts = (
        _bars(
            rows,
            "size",
            title="Rows in each cluster",
            unit="rows",
            says="Clusters are numbered by size.",
        ),
        _bars(
            rows,
            "inertia_share",
            title="Share of the spread",
            unit="share of inertia",
            says="Of the squared distances to the centres, summed over all rows.",
        ),
    )
    return Section("Sizes", text, charts)


def _bars(rows: list[dict[str, Any]], field: str, *, title: str, unit: str, says: str) -> Chart:
    order = [row["cluster"] for row in rows]
    step = within(BAR_STEP, WIDTH // len(rows))
    chart = (
        alt.Chart(data(rows))
        .mark_bar()
        .encode(
            x=alt.X("cluster:O", sort=order, title="cluster", axis=cell_axis()),
            y=alt.Y(f"{field}:Q", title=unit),
            tooltip=[
                "cluster:O",
                alt.Tooltip("size:Q", title="rows", format=",d"),
                alt.Tooltip("mean_distance:Q", title="mean distance", format=".4~g"),
                alt.Tooltip("inertia_share:Q", title="share of inertia", format=".2%"),
            ],
        )
    )
    return finish(chart.properties(width=alt.Step(step), height=HEIGHT), title=title, says=says)


def _nearest(result: Result) -> Section:
    sizes = {row["cluster"]: row["size"] for row in result["clusters"].to_pylist()}
    rows = result["nearest"].sort_by([("cluster", "ascending"), ("rank", "ascending")]).to_pylist()
    cards = [
        _card(cluster, sizes[cluster], list(members))
        for cluster, members in groupby(rows, key=lambda row: row["cluster"])
    ]
    text = "The rows nearest to each centre; the number is the distance to it."
    if len(cards) > CLUSTERS:
        text += f" The first {CLUSTERS} of {len(cards)} clusters are listed."
    return Section("Nearest to each centre", text, html=_grid(cards[:CLUSTERS]))


def _card(cluster: int, size: int, members: list[dict[str, Any]]) -> str:
    items = "".join(f"<li>{_member(row)}</li>" for row in members)
    return (
        f'<article class="card"><h4>Cluster {cluster} '
        f"<small>{count(size, 'row')}</small></h4>"
        f"<ol>{items}</ol></article>"
    )


def _member(row: dict[str, Any]) -> str:
    place = f"example {row['example']}"
    if row["token"] is not None:
        place += f", token {row['token']}"
    before, text, after = (str(row[name] or "") for name in ("before", "text", "after"))
    blank = " " if text[:1].isspace() else ""  # left out of the mark
    marked = f"<mark>{html.escape(text.strip() or '⏎')}</mark>"
    shown = f"{html.escape(before)}{blank}{marked}{html.escape(after)}"
    if row["token"] is None:
        shown = html.escape(text)
    return f"{shown} <small>{place} · {row['distance']:.3g}</small>"


def _grid(parts: list[str]) -> str:
    return f'<div class="grid">{"".join(parts)}</div>'
