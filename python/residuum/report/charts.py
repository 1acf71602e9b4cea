"""The charts a section is made of: layer by head maps, lines over layers, scatters.

A `Chart` is a Vega-Lite specification with a title and a sentence that says what it shows (also to
a screen reader). The parameter `dark` in every specification tells text on coloured cells which way
to contrast; the page sets it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import altair as alt
import vl_convert

from residuum.report.theme import config

Rows = Sequence[Mapping[str, Any]]

Drawing: TypeAlias = alt.Chart | alt.LayerChart | alt.FacetChart

CELL_HEIGHT = 26  # pixels of a cell that holds a number
CELL_WIDTH = {0: 34, 2: 34, 3: 42}  # by the decimals of the number
TEXT_CELLS = 16  # a map wider than this has no room for numbers
SMALL_CELLS = (6, 20)  # least and largest without numbers
MAP_WIDTH = 440  # of a map without numbers; two such maps fit beside each other
MAP_LEGEND = (40, 200)
LEGEND_TITLE = 18
LINE_WIDTH, LINE_HEIGHT = 420, 240
LAYER_LABELS = 13  # along the axis of a line chart, fewer than this
SCATTER = 320  # pixels, both ways
GREY = "#868e96"  # of legends of shapes; legible on white and on dark, as are the next
BY_LAYER = ("#2f7fd6", "#8b5fd3", "#d1508f", "#dd7326")  # first to last
PNG_SCALE = 2.0


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification with words around it."""

    title: str
    says: str
    spec: Mapping[str, Any]

    def png(self, mode: Literal["light", "dark"] = "light") -> bytes:
        """The chart as a PNG image."""
        spec = {**self.spec, "background": "white" if mode == "light" else "#10151c"}
        spec["params"] = [
            {**p, "value": mode == "dark"} if p["name"] == "dark" else p for p in spec["params"]
        ]
        return bytes(
            vl_convert.vegalite_to_png(
                spec,
                vl_version=vl_version(),
                scale=PNG_SCALE,
                config=config(mode) | {"background": spec["background"]},
            )
        )


def vl_version() -> str:
    """The Vega-Lite version that Altair writes, as vl-convert spells it: `6.4`."""
    return ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])


def finish(chart: Drawing, *, title: str, says: str) -> Chart:
    """Add what every chart has: the description and the `dark` parameter."""
    whole = chart.properties(description=f"{title}. {says}").add_params(dark())
    spec = whole.to_dict()
    spec.pop("config", None)  # Altair's own; the page has one for light and one for dark
    return Chart(title, says, spec)


def dark() -> alt.Parameter:
    """Is the page dark? Set by the page."""
    return alt.param(name="dark", value=False)


def count(n: int, noun: str) -> str:
    """`1 token`, `2,000 tokens`."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def data(rows: Rows) -> alt.InlineData:
    """Rows as the data of a chart; what is not finite becomes null, as JSON has no other word."""
    return alt.InlineData(
        values=[{name: _finite(value) for name, value in row.items()} for row in rows]
    )


def _finite(value: object) -> object:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def largest(values: Iterable[float | None]) -> float:
    """The largest finite magnitude, the end of a colour scale; 1 where there is none."""
    sizes = (abs(value) for value in values if value is not None and math.isfinite(value))
    return max(sizes, default=0.0) or 1.0


def contrast(strength: str) -> Any:  # noqa: ANN401  Altair's condition types are private
    """Ink for text on a cell, from an expression for how far along the scale its colour is."""
    return alt.condition(
        f"(({strength}) > 0.5) != dark", alt.value("#ffffff"), alt.value("#10151c")
    )


def head_map(
    rows: Rows,
    *,
    value: str,
    title: str,
    says: str,
    unit: str,
    signed: bool = False,
    low: float = 0.0,
    high: float | None = None,
    axes: tuple[str, str] = ("head", "layer"),
) -> Chart:
    """A map of heads: columns are heads, rows are layers, colour is `value`.

    Args:
        rows: One mapping per head with `layer`, `head` and `value`.
        value: The field that colours the cell.
        title: The chart's heading.
        says: One sentence on what to see.
        unit: What the colour counts, for the legend.
        signed: Colours run both ways from 0 instead of up from `low`.
        low: The value without colour, such as chance.
        high: The value at the end of the scale; the largest one if not given.
        axes: Fields that columns and rows are, of maps of other things.

    """
    across, down = axes
    if high is None:
        high = largest(row[value] for row in rows)
    shown = [name for name in rows[0] if name not in axes]
    n_head = len({row[across] for row in rows})
    n_layer = len({row[down] for row in rows})
    roomy = n_head <= TEXT_CELLS
    decimals = 3 if high < 0.3 else 2 if high < 30 else 0
    small = within(SMALL_CELLS, MAP_WIDTH // n_head)
    width, height = (CELL_WIDTH[decimals], CELL_HEIGHT) if roomy else (small, small)
    if signed:
        scale = alt.Scale(domain=[-high, high], domainMid=0, nice=True, interpolate="lab")
    else:
        scale = alt.Scale(domain=[low, high], nice=True, interpolate="lab", clamp=True)
    base = alt.Chart(data(rows)).encode(
        x=alt.X(f"{across}:O", title=across.replace("_", " "), axis=cell_axis(orient="top")),
        y=alt.Y(f"{down}:O", title=down.replace("_", " "), axis=cell_axis()),
        tooltip=[
            f"{down}:O",
            f"{across}:O",
            *(_number(name, rows[0][name], unit if name == value else "") for name in shown),
        ],
    )
    legend = alt.Legend(
        format=".2~g", gradientLength=within(MAP_LEGEND, n_layer * height - LEGEND_TITLE)
    )
    cells = base.mark_rect(cornerRadius=2 if roomy else 0).encode(
        color=alt.Color(f"{value}:Q", title=unit, scale=scale, legend=legend)
    )
    layers = [cells]
    if roomy:
        numbers = base.mark_text(fontSize=10).encode(
            text=alt.Text(f"{value}:Q", format=f".{decimals}f"),
            color=contrast(f"(abs(datum['{value}']) - {low}) / {high - low}"),
        )
        layers.append(numbers)
    chart = alt.layer(*layers).properties(width=alt.Step(width), height=alt.Step(height))
    return finish(chart, title=title, says=says)


def within(ends: tuple[int, int], value: int) -> int:
    """The value, or the end that it is beyond."""
    return min(max(value, ends[0]), ends[1])


def cell_axis(**more: Any) -> alt.Axis:  # noqa: ANN401  whatever an axis takes
    """An axis of cells: no lines, and as many labels as there is room for."""
    return alt.Axis(
        domain=False,
        ticks=False,
        labelAngle=0,
        labelOverlap="parity",
        labelSeparation=4,
        labelPadding=5,
        **more,
    )


def _number(name: str, example: object, unit: str) -> alt.Tooltip:
    title = f"{name} ({unit})" if unit else name
    form = ",d" if isinstance(example, int) else ".4~g"
    return alt.Tooltip(f"{name}:Q", title=title, format=form)


def layer_lines(
    rows: Rows,
    *,
    title: str,
    says: str,
    unit: str,
    axis: str = "layer",
    dash: str | None = None,
    level: tuple[str, float] | None = None,
    zero: bool = True,
) -> Chart:
    """Lines over layers: mappings with `layer`, `value` and `series`, the name of the line.

    Args:
        rows: The points.
        title: The chart's heading.
        says: One sentence on what to see.
        unit: What the values count.
        axis: What the layers are called, where they are something else.
        dash: A field that tells lines of one colour apart by their dashes.
        level: A dashed rule across, and its name.
        zero: Whether the axis of values must start at 0.

    """
    base = alt.Chart(data(rows)).encode(
        x=alt.X(
            "layer:Q",
            title=axis,
            axis=alt.Axis(format="d", values=labelled(rows), grid=False, labelFlush=False),
            scale=alt.Scale(nice=False),
        ),
        y=alt.Y("value:Q", title=unit, scale=alt.Undefined if zero else alt.Scale(zero=False)),
        color=alt.Color(
            "series:N",
            title=None,
            sort=list(dict.fromkeys(row["series"] for row in rows)),
            legend=alt.Legend(orient="top", columns=1),
        ),
        tooltip=[
            "series:N",
            *([f"{dash}:N"] if dash else []),
            alt.Tooltip("layer:O", title=axis),
            alt.Tooltip("value:Q", format=".4~g", title=unit),
        ],
    )
    if dash:
        kinds = list(dict.fromkeys(row[dash] for row in rows))
        legend = alt.Legend(orient="top", columns=1, symbolType="stroke", symbolSize=300)
        base = base.encode(
            strokeDash=alt.StrokeDash(f"{dash}:N", title=None, sort=kinds, legend=legend)
        )
    chart: Drawing = base.mark_line(point=alt.OverlayMarkDef(size=36, filled=True))
    if level:
        chart = alt.layer(chart, *rule(*level, end=LINE_WIDTH))
    return finish(chart.properties(width=LINE_WIDTH, height=LINE_HEIGHT), title=title, says=says)


def labelled(rows: Rows) -> list[int]:
    """The layers that have a label, few enough to be read."""
    layers = sorted({row["layer"] for row in rows})
    return layers[:: 1 + len(layers) // LAYER_LABELS]


def rule(name: str, value: float, *, end: int | None = None) -> list[alt.Chart]:
    """A dashed rule across at a value of y, with its name at the left, or before a right `end`."""
    base = alt.Chart(data([{"value": value, "name": name}]))
    line = base.mark_rule(strokeDash=[5, 4]).encode(
        y="value:Q", tooltip=["name:N", alt.Tooltip("value:Q", format=".4~g")]
    )
    left = end is None
    label = base.mark_text(
        align="left" if left else "right", dx=4 if left else -4, dy=-6, fontSize=11
    ).encode(y="value:Q", x=alt.value(end or 0), text="name:N")
    return [line, label]


def scatter(
    rows: Rows,
    *,
    x: tuple[str, str],
    y: tuple[str, str],
    shape: str,
    tooltip: Sequence[str],
    title: str,
    says: str,
) -> Chart:
    """Points on logarithmic axes, coloured by `layer`.

    Args:
        rows: One mapping per point; what has no logarithm has no place here.
        x: The field that goes across, and what the axis is called.
        y: Likewise, up.
        shape: The field that tells points of one colour apart.
        tooltip: Fields that name a point.
        title: The chart's heading.
        says: One sentence on what to see.

    """
    kinds = list(dict.fromkeys(row[shape] for row in rows))
    ticks = {name: _decades(row[name] for row in rows) for name, _ in (x, y)}
    scales = {n: alt.Scale(type="log", domain=[t[0], t[-1]]) for n, t in ticks.items()}
    axes = {
        name: alt.Axis(values=at, format="~g", labelOverlap="parity", labelFlush=False)
        for name, at in ticks.items()
    }
    chart = (
        alt.Chart(data(rows))
        .mark_point(filled=True, size=64, opacity=0.85)
        .encode(
            x=alt.X(f"{x[0]}:Q", title=x[1], scale=scales[x[0]], axis=axes[x[0]]),
            y=alt.Y(f"{y[0]}:Q", title=y[1], scale=scales[y[0]], axis=axes[y[0]]),
            color=alt.Color(
                "layer:Q",
                scale=alt.Scale(range=list(BY_LAYER), interpolate="lab", nice=False),
                legend=alt.Legend(type="symbol", values=labelled(rows), format="d"),
            ),
            shape=alt.Shape(
                f"{shape}:N",
                title=None,
                sort=kinds,
                legend=alt.Legend(symbolFillColor=GREY, symbolStrokeColor=GREY),
                scale=alt.Scale(domain=kinds, range=["circle", "cross", "diamond"][: len(kinds)]),
            ),
            tooltip=[
                *tooltip,
                *(alt.Tooltip(f"{n}:Q", title=unit, format=".4~g") for n, unit in (x, y)),
            ],
        )
    )
    return finish(chart.properties(width=SCATTER, height=SCATTER), title=title, says=says)


def has_logarithm(value: float | None) -> bool:
    """Is it a positive number?"""
    return value is not None and math.isfinite(value) and value > 0


def _decades(values: Iterable[float]) -> list[float]:
    """The powers of ten from the one below the least to the one above the largest."""
    logs = [math.log10(value) for value in values]
    first, last = math.floor(min(logs)), math.ceil(max(logs))
    return [10.0**power for power in range(first, max(last, first + 1) + 1)]
