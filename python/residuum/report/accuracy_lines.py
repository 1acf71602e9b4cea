"""Accuracy over states, with bands and the chance line."""

from collections.abc import Sequence

import altair as alt

from residuum.report.charts import LAYER_LABELS, Chart, Rows, data, finish

WIDTH, HEIGHT = 300, 200  # so that two or three stand side by side
COLOURS = ("#2f9e44", "#e03131", "#3b82c4")  # green, red, blue; legible on white and on dark


def accuracy_lines(
    rows: Rows, *, series: Sequence[str], chance: float, title: str, says: str
) -> Chart:
    """Lines over states: mappings with `state`, `series`, `mean`, `lo` and `hi`.

    Args:
        rows: the points.
        series: names of the lines, in the order of `COLOURS`.
        chance: the height of the dashed line.
        title: the chart's heading.
        says: one sentence on what to see.
    """
    states = sorted({row["state"] for row in rows})
    labelled = states[:: 1 + len(states) // LAYER_LABELS]
    base = alt.Chart(data(rows)).encode(
        x=alt.X(
            "state:Q",
            title="state (0 is the embedding)",
            axis=alt.Axis(format="d", values=labelled, grid=False, labelFlush=False),
            scale=alt.Scale(nice=False),
        ),
        color=alt.Color(
            "series:N",
            title=None,
            sort=list(series),
            scale=alt.Scale(domain=list(series), range=list(COLOURS[: len(series)])),
            legend=alt.Legend(orient="top", columns=1, symbolOpacity=1),
        ),
    )
    up = alt.Y("mean:Q", title="calibrated accuracy", scale=alt.Scale(domain=[0, 1]))
    band = base.mark_area(opacity=0.2, clip=True).encode(
        y=alt.Y("lo:Q", title="calibrated accuracy"), y2="hi:Q"
    )
    lines = base.mark_line(point=alt.OverlayMarkDef(size=36, filled=True)).encode(
        y=up,
        tooltip=[
            "series:N",
            "state:O",
            *(alt.Tooltip(f"{name}:Q", format=".3f") for name in ("mean", "lo", "hi")),
        ],
    )
    level = (
        alt.Chart(data([{"chance": chance}]))
        .mark_rule(strokeDash=[4, 4], opacity=0.7, color="#868e96")
        .encode(y="chance:Q", tooltip=[alt.Tooltip("chance:Q", format=".3f")])
    )
    chart = alt.layer(band, level, lines).properties(width=WIDTH, height=HEIGHT)
    return finish(chart, title=title, says=says)
