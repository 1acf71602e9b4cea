"""Bars of shares, a name a row and a colour a measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from residuum.report.charts import Chart, Rows, data, finish

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, BAR = 300, 12
GAP = 0.25  # of a row that is left empty


def named_bars(rows: Rows, *, series: Sequence[str], unit: str, title: str, says: str) -> Chart:
    """Bars from 0 to 1: mappings with `name`, `series` and `value`, with the number at the end.

    Args:
        rows: The bars.
        series: Their measures, in order; each has its place in the row of a name.
        unit: What the values are.
        title: The chart's heading.
        says: One sentence on what to see.

    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    axis = alt.Axis(format=".1f", tickCount=5, labelFlush=False)
    base = alt.Chart(data(rows)).encode(
        x=alt.X("value:Q", title=unit, scale=alt.Scale(domain=[0, 1]), axis=axis),
        y=alt.Y(
            "name:N",
            title=None,
            sort=names,
            axis=alt.Axis(domain=False, ticks=False, labelPadding=8),
            scale=alt.Scale(paddingInner=GAP, paddingOuter=GAP / 2),
        ),
        yOffset=alt.YOffset("series:N", sort=list(series), scale=alt.Scale(domain=list(series))),
        tooltip=["name:N", "series:N", alt.Tooltip("value:Q", format=".3f", title=unit)],
    )
    bars = base.mark_bar().encode(
        color=alt.Color(
            "series:N",
            title=None,
            sort=list(series),
            scale=alt.Scale(domain=list(series)),
            legend=alt.Legend(orient="top") if len(series) > 1 else None,
        )
    )
    numbers = base.mark_text(align="left", dx=4, fontSize=10).encode(
        text=alt.Text("value:Q", format=".2f")
    )
    chart = alt.layer(bars, numbers).properties(width=WIDTH, height=alt.Step(BAR))
    return finish(chart, title=title, says=says)
