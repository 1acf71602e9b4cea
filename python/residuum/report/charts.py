"""The charts a section is made of: layer by head maps, lines over layers, bars.

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
        signed: Colours run both ways from 0 instead of up from 0.
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
        scale = alt.Scale(domain=[0, high], nice=True, interpolate="lab")
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
            color=contrast(f"abs(datum['{value}']) / {high}"),
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


def layer_lines(rows: Rows, *, title: str, says: str, unit: str, axis: str = "layer") -> Chart:
    """Lines over layers: mappings with `layer`, `value` and `series`, the name of the line.

    `axis` is what the layers are called, where they are something else.
    """
    layers = sorted({row["layer"] for row in rows})
    labelled = layers[:: 1 + len(layers) // LAYER_LABELS]
    base = alt.Chart(data(rows)).encode(
        x=alt.X(
            "layer:Q",
            title=axis,
            axis=alt.Axis(format="d", values=labelled, grid=False, labelFlush=False),
            scale=alt.Scale(nice=False),
        ),
        y=alt.Y("value:Q", title=unit),
        color=alt.Color(
            "series:N",
            title=None,
            sort=list(dict.fromkeys(row["series"] for row in rows)),
            legend=alt.Legend(orient="top", columns=1),
        ),
        tooltip=[
            "series:N",
            alt.Tooltip("layer:O", title=axis),
            alt.Tooltip("value:Q", format=".4~g", title=unit),
        ],
    )
    chart = base.mark_line(point=alt.OverlayMarkDef(size=36, filled=True))
    return finish(chart.properties(width=LINE_WIDTH, height=LINE_HEIGHT), title=title, says=says)
