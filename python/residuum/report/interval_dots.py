"""Values with their intervals, one name a row, and a dashed line to compare with."""

from collections.abc import Sequence

import altair as alt

from residuum.report.charts import Chart, Rows, data, finish

WIDTH, LINE = 300, 15
GAP = 0.3  # of a row that is left empty


def interval_dots(
    rows: Rows,
    *,
    series: Sequence[str],
    level: tuple[str, float],
    low: float,
    unit: str,
    title: str,
    says: str,
) -> Chart:
    """Dots with lines: mappings with `name`, `series`, `value`, `lo` and `hi`.

    Args:
        rows: The dots.
        series: Their kinds, in order; each has its place in the row of a name.
        level: Name and value of the dashed line.
        low: The least value on the axis, which ends at 1.
        unit: What the values are.
        title: The chart's heading.
        says: One sentence on what to see.

    """
    names = list(dict.fromkeys(row["name"] for row in rows))
    base = alt.Chart(data(rows)).encode(
        y=alt.Y(
            "name:N",
            title=None,
            sort=names,
            axis=alt.Axis(domain=False, ticks=False, labelPadding=8, grid=False),
            scale=alt.Scale(paddingInner=GAP, paddingOuter=GAP / 2),
        ),
        yOffset=alt.YOffset("series:N", sort=list(series), scale=alt.Scale(domain=list(series))),
        color=alt.Color(
            "series:N",
            title=None,
            sort=list(series),
            scale=alt.Scale(domain=list(series)),
            legend=alt.Legend(orient="top", columns=1) if len(series) > 1 else None,
        ),
        tooltip=[
            "name:N",
            "series:N",
            *(
                alt.Tooltip(f"{field}:Q", title=words, format=".3f")
                for field, words in (("value", unit), ("lo", "from"), ("hi", "to"))
            ),
        ],
    )
    scale = alt.Scale(domain=[low, 1], nice=True, zero=False)
    lines = base.mark_rule(strokeWidth=2).encode(
        x=alt.X("lo:Q", title=unit, scale=scale, axis=alt.Axis(labelFlush=False, tickCount=6)),
        x2="hi:Q",
    )
    dots = base.mark_point(filled=True, size=64, opacity=1).encode(
        x=alt.X("value:Q", title=unit, scale=scale)
    )
    across = alt.Chart(data([{"name": level[0], "value": level[1]}]))
    rule = across.mark_rule(strokeDash=[5, 4]).encode(
        x="value:Q", tooltip=["name:N", alt.Tooltip("value:Q", format=".3f")]
    )
    late = level[1] > (low + 1) / 2  # a label on the right would stand out of the chart
    label = across.mark_text(
        align="right" if late else "left",
        baseline="bottom",
        dx=-4 if late else 4,
        dy=-2,
        fontSize=11,
    ).encode(x="value:Q", y=alt.value(0), text="name:N")
    chart = alt.layer(rule, label, lines, dots).properties(width=WIDTH, height=alt.Step(LINE))
    return finish(chart, title=title, says=says)
