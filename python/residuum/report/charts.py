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

CELL = 34  # pixels of a cell that holds a number
SMALL_CELL = 20
TEXT_CELLS = 16  # a map wider than this has no room for numbers
LINE_WIDTH, LINE_HEIGHT = 420, 240
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

    """
    if high is None:
        high = largest(row[value] for row in rows)
    n_head = 1 + max((row["head"] for row in rows), default=0)
    roomy = n_head <= TEXT_CELLS
    if signed:
        scale = alt.Scale(domain=[-high, high], domainMid=0, interpolate="lab")
    else:
        scale = alt.Scale(domain=[0, high], interpolate="lab")
    base = alt.Chart(data(rows)).encode(
        x=alt.X("head:O", title="head", axis=alt.Axis(labelAngle=0, orient="top")),
        y=alt.Y("layer:O", title="layer"),
        tooltip=[
            alt.Tooltip("layer:O"),
            alt.Tooltip("head:O"),
            *(
                alt.Tooltip(f"{name}:Q", format=".4~g")
                for name in rows[0]
                if name not in ("layer", "head")
            ),
        ]
        if rows
        else [],
    )
    cells = base.mark_rect(cornerRadius=2).encode(
        color=alt.Color(f"{value}:Q", title=unit, scale=scale, legend=alt.Legend(format=".2~g"))
    )
    layers = [cells]
    if roomy:
        strength = f"abs(datum['{value}']) / {high}"
        numbers = base.mark_text(fontSize=10).encode(
            text=alt.Text(f"{value}:Q", format=".2f"), color=contrast(strength)
        )
        layers.append(numbers)
    step = alt.Step(CELL if roomy else SMALL_CELL)
    chart = alt.layer(*layers).properties(
        width=step, height=alt.Step(CELL * 0.75 if roomy else SMALL_CELL)
    )
    return finish(chart, title=title, says=says)


def layer_lines(rows: Rows, *, title: str, says: str, unit: str) -> Chart:
    """Lines over layers: mappings with `layer`, `value` and `series`, the name of the line."""
    base = alt.Chart(data(rows)).encode(
        x=alt.X(
            "layer:Q",
            title="layer",
            axis=alt.Axis(format="d", tickMinStep=1, grid=False, labelFlush=False),
            scale=alt.Scale(nice=False),
        ),
        y=alt.Y("value:Q", title=unit),
        color=alt.Color("series:N", title=None, legend=alt.Legend(orient="top", columns=1)),
        tooltip=["series:N", "layer:O", alt.Tooltip("value:Q", format=".4~g", title=unit)],
    )
    chart = base.mark_line(point=alt.OverlayMarkDef(size=45, filled=True))
    return finish(chart.properties(width=LINE_WIDTH, height=LINE_HEIGHT), title=title, says=says)
