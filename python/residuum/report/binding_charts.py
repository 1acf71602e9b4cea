"""The charts of binding IDs: maps of swaps, columns and IDs, lines over positions, bars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import altair as alt

from residuum.report.charts import Chart, cell_axis, contrast, data, finish, rule

if TYPE_CHECKING:
    from collections.abc import Sequence

Rows = list[dict[str, Any]]

CELL = 28
MAP_CELL = 15
BAR_WIDTH, BAR_HEIGHT = 360, 200
LINE_WIDTH, LINE_HEIGHT = 380, 220
CHANCE = "chance"
LABELS = 11  # along the axis of positions, about


def swap_map(rows: Rows, *, title: str) -> Chart:
    """Queries down, answers across: how often each answer is the likeliest of all candidates."""
    return _cells(
        rows,
        x="answer",
        y="query",
        value="chosen",
        title=title,
        says="Share of prompts in which the answer is the likeliest candidate.",
    )


def scan_map(rows: Rows) -> Chart:
    """Queries down, context tokens across: where the other context's answer comes from."""
    named = [
        {**row, "column": f"{row['token']} {row['holds']}".strip(), "share": row["takes_new"]}
        for row in rows
    ]
    return _cells(
        named,
        x="column",
        y="query",
        value="share",
        title="Where answers are read",
        says="Share of prompts in which replacing that column gives the other context's answer.",
        order=[row["column"] for row in named if row["query"] == 0],
    )


def _cells(
    rows: Rows,
    *,
    x: str,
    y: str,
    value: str,
    title: str,
    says: str,
    order: Sequence[str] | None = None,
) -> Chart:
    axis = alt.X(
        f"{x}:O",
        title=x,
        sort=order,
        axis=cell_axis(orient="top") if order is None else alt.Axis(labelAngle=-45, orient="top"),
    )
    base = alt.Chart(data(rows)).encode(
        x=axis,
        y=alt.Y(f"{y}:O", title=y, axis=cell_axis()),
        tooltip=[
            f"{y}:O",
            f"{x}:O",
            alt.Tooltip(f"{value}:Q", format=".3f", title="share"),
            "n:Q",
        ],
    )
    scale = alt.Scale(domain=[0, 1], interpolate="lab")
    cells = base.mark_rect(cornerRadius=2).encode(
        color=alt.Color(f"{value}:Q", title="share", scale=scale, legend=None)
    )
    numbers = base.mark_text(fontSize=9).encode(
        text=alt.Text(f"{value}:Q", format=".2f"), color=contrast(f"datum['{value}']")
    )
    chart = alt.layer(cells, numbers).properties(width=alt.Step(CELL), height=alt.Step(CELL))
    return finish(chart, title=title, says=says)


def accuracy_bars(
    rows: Rows,
    *,
    title: str,
    says: str,
    order: list[str],
    what: str,
    chance: float,
) -> Chart:
    """Bars of accuracies: mappings with `group`, `series` and `value`; a line at chance."""
    series = list(dict.fromkeys(row["series"] for row in rows))
    bars = (
        alt.Chart(data(rows))
        .mark_bar()
        .encode(
            x=alt.X("group:N", title=what, sort=order, axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("series:N", sort=series),
            y=alt.Y("value:Q", title="accuracy (share)", scale=alt.Scale(domain=[0, 1])),
            color=alt.Color(
                "series:N",
                title=None,
                sort=series,
                legend=alt.Legend(orient="top", columns=2) if len(series) > 1 else None,
            ),
            tooltip=["group:N", "series:N", alt.Tooltip("value:Q", format=".3f")],
        )
    )
    chart = alt.layer(bars, *rule(CHANCE, chance)).properties(width=BAR_WIDTH, height=BAR_HEIGHT)
    return finish(chart, title=title, says=says)


def position_lines(rows: Rows, *, title: str) -> Chart:
    """Mean log-probability over how far slots 0 and 1 are moved; rules at none and at all."""
    lines = [
        {
            "offset": row["offset"],
            "value": row["mean_logprob"],
            "series": f"query {row['query']}, answer {row['answer']}",
            "chosen": row["chosen"],
        }
        for row in rows
        if row["query"] < 2 and row["answer"] < 2
    ]
    offsets = sorted({row["offset"] for row in rows})
    ticks = offsets[:: 1 + len(offsets) // LABELS]
    base = (
        alt.Chart(data(lines))
        .mark_line(point=alt.OverlayMarkDef(size=30, filled=True))
        .encode(
            x=alt.X(
                "offset:Q",
                title="slot 0 moved by (tokens)",
                axis=alt.Axis(format="d", values=ticks),
            ),
            y=alt.Y("value:Q", title="mean log-prob (nats)"),
            color=alt.Color("series:N", title=None, legend=alt.Legend(orient="top", columns=2)),
            tooltip=["series:N", "offset:Q", alt.Tooltip("value:Q", format=".3f"), "chosen:Q"],
        )
    )
    marks = [*_mark(0, "control", 0), *_mark(rows[0]["distance"], "exchanged", 1)]
    chart = alt.layer(base, *marks).properties(width=LINE_WIDTH, height=LINE_HEIGHT)
    says = "What is answered, as the two slots' positions are exchanged step by step."
    return finish(chart, title=title, says=says)


def _mark(at: int, name: str, line: int) -> list[alt.Chart]:
    """A dashed rule with its name, on a line of its own so that neighbours can be read."""
    base = alt.Chart(data([{"at": at, "name": name}]))
    rule = base.mark_rule(strokeDash=[5, 4]).encode(x="at:Q")
    label = base.mark_text(align="left", dx=4, fontSize=11).encode(
        x="at:Q", y=alt.value(30 + 14 * line), text="name:N"
    )
    return [rule, label]


def id_map(rows: Rows, plane: Rows) -> Chart:
    """Accuracy over the plane of IDs: slot 1's point; crosses and circles as the text says."""
    points = sorted({row["c1_x"] for row in rows})
    step = points[1] - points[0]
    half = step / 2
    tiles = [
        {
            "x": row["c1_x"] - half,
            "x2": row["c1_x"] + half,
            "y": row["c1_y"] - half,
            "y2": row["c1_y"] + half,
            "accuracy": row["cal_accuracy"],
            "margin": row["logit_margin"],
        }
        for row in rows
    ]
    size = MAP_CELL * len(points)
    ends = [points[0] - half, points[-1] + half]
    scale = alt.Scale(domain=ends, nice=False)
    tile = (
        alt.Chart(data(tiles))
        .mark_rect()
        .encode(
            x=alt.X("x:Q", title="first difference", scale=scale),
            x2="x2:Q",
            y=alt.Y("y:Q", title="second, orthogonal", scale=scale),
            y2="y2:Q",
            color=alt.Color(
                "accuracy:Q",
                title="accuracy",
                scale=alt.Scale(scheme="redblue", domain=[0, 1]),
                legend=alt.Legend(gradientLength=size - 20),
            ),
            tooltip=[
                alt.Tooltip("accuracy:Q", format=".2f"),
                alt.Tooltip("margin:Q", format=".2f", title="logit margin (nats)"),
            ],
        )
    )
    at = {"x": rows[0]["c0_x"], "y": rows[0]["c0_y"]}
    cross = (
        alt.Chart(data([at]))
        .mark_point(shape="cross", size=110, filled=True, color="#111")
        .encode(x="x:Q", y="y:Q")
    )
    real = (
        alt.Chart(data([{"x": one["x"], "y": one["y"], "slot": one["slot"]} for one in plane]))
        .mark_point(size=60, filled=False, color="#111", strokeWidth=1.5)
        .encode(x="x:Q", y="y:Q", tooltip=["slot:O"])
    )
    chart = alt.layer(tile, real, cross).properties(width=size, height=size)
    return finish(
        chart,
        title=f"Slot 0 at ({at['x']:g}, {at['y']:g})",
        says="Calibrated accuracy of both queries, by where slot 1's ID is put.",
    )


def width_line(rows: Rows) -> Chart:
    """Accuracy of the exchanged answer over the tokens of each option line that were exchanged."""
    base = (
        alt.Chart(data(rows))
        .mark_line(point=alt.OverlayMarkDef(size=40, filled=True))
        .encode(
            x=alt.X(
                "width:O", title="last tokens of each option line", axis=alt.Axis(labelAngle=0)
            ),
            y=alt.Y("cal_accuracy:Q", title="accuracy (share)", scale=alt.Scale(domain=[0, 1])),
            tooltip=["width:O", alt.Tooltip("cal_accuracy:Q", format=".3f"), "n:Q"],
        )
    )
    chart = alt.layer(base, *rule(CHANCE, 0.5)).properties(width=LINE_WIDTH, height=LINE_HEIGHT)
    return finish(
        chart,
        title="Exchanged answer",
        says="Calibrated accuracy of the answer that is right with the options exchanged.",
    )
