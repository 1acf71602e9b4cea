"""Bars of components that are no heads: layers are rows, as in the map of heads beside it."""

from __future__ import annotations

import altair as alt

from residuum.report.charts import CELL_HEIGHT, Chart, Rows, data, finish, within

WIDTH = 240
HEIGHT, STEP = 560, (12, CELL_HEIGHT)  # pixels of all rows; of one row, least and largest
ENDS = {"embedding": "embed", "rest": "rest"}  # before the first layer and after the last


def layer_bars(rows: Rows, *, value: str, unit: str, title: str, says: str) -> Chart:
    """Bars from 0 both ways: mappings with `component`, `kind`, `layer` and `value`.

    Args:
        rows: The components, in the order of the stream.
        value: The field that is the length of a bar.
        unit: What it counts.
        title: The chart's heading.
        says: One sentence on what to see.

    """
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    slots = [kind for kind in kinds if kind not in ENDS] or ["MLP"]
    middle = slots[len(slots) // 2]
    bars = [
        {
            "component": row["component"],
            "kind": row["kind"],
            "place": ENDS.get(row["kind"], str(row["layer"])),
            "slot": middle if row["kind"] in ENDS else row["kind"],
            value: row[value],
        }
        for row in rows
    ]
    places = list(dict.fromkeys(bar["place"] for bar in bars))
    base = alt.Chart(data(bars)).encode(
        x=alt.X(
            f"{value}:Q", title=unit, axis=alt.Axis(format="~g", labelFlush=False, tickCount=5)
        ),
        y=alt.Y(
            "place:N",
            title="layer",
            sort=places,
            axis=alt.Axis(
                domain=False, ticks=False, grid=False, labelOverlap="parity", labelPadding=6
            ),
        ),
        yOffset=alt.YOffset("slot:N", sort=slots, scale=alt.Scale(domain=slots)),
        color=alt.Color(
            "kind:N", title=None, sort=kinds, legend=alt.Legend(orient="top", columns=3)
        ),
        tooltip=["component:N", alt.Tooltip(f"{value}:Q", title=unit, format=".3~g")],
    )
    zero = alt.Chart(alt.InlineData(values=[{}])).mark_rule().encode(x=alt.datum(0))
    step = within(STEP, HEIGHT // len(places))
    height = alt.Step(step, **{"for": "position"})
    chart = alt.layer(base.mark_bar(), zero).properties(width=WIDTH, height=height)
    return finish(chart, title=title, says=says)
