"""Sections of head attribution: the map of heads, the strongest ones, and the other components."""

from typing import Any

import altair as alt
import pyarrow.compute as pc

from residuum.analyses.result import Result
from residuum.report.charts import Chart, count, data, finish, head_map, within
from residuum.report.sections import Section, fold, scroll

TOP = 12
BARS_HEIGHT, BARS_WIDTH = 260, 800
BAR_STEP = (5, 14)  # pixels, least and largest; a layer has one bar for each kind
ENDS = {"embedding": "embed", "output bias": "bias"}  # before the first layer and after the last


def sections(result: Result) -> list[Section]:
    """Heads, then everything that adds to the logit, layer by layer."""
    if not pc.sum(result["heads"]["n"]).as_py():
        return [Section("Heads", "No token has a logit to explain.")]
    return [_heads(result), _components(result)]


def _heads(result: Result) -> Section:
    table = result["heads"]
    rows = table.select(["layer", "head", "mean", "std", "n"]).to_pylist()
    says = "Blue heads lower the logit on average, orange ones raise it."
    chart = head_map(
        rows,
        value="mean",
        title="Mean direct effect of each head",
        says=says,
        unit="logits",
        signed=True,
    )
    order = pc.sort_indices(pc.abs(table["mean"]), sort_keys=[("", "descending")])
    strongest = table.take(order.slice(0, TOP))
    text = (
        f"What each head's output adds, by itself, to {_question(result)}, with the final norm's "
        "scale held at its captured value. A later component that reads the head is not counted."
    )
    listed = f"<div><h4>Strongest heads</h4>{scroll(strongest)}</div>"
    return Section("Heads", text, (chart,), listed)


def _question(result: Result) -> str:
    to, minus = result.parameters.get("to", ()), result.parameters.get("minus", ())
    if not to:
        return "the logit of the true next token"
    named = ", ".join(map(str, to))
    if minus:
        return f"the logit of {named} minus that of {', '.join(map(str, minus))}"
    return f"the logit of {named}"


def _components(result: Result) -> Section:
    table = result["components"]
    title = "Components"
    chart = _bars(table.to_pylist())
    checks = result["logits"]
    complete = checks.filter(pc.is_valid(checks["difference"]))
    if complete.num_rows:
        worst = pc.max(pc.abs(complete["difference"])).as_py()
        text = (
            f"All components were captured: their sum equals the model's logit on "
            f"{count(complete.num_rows, 'token')} to {worst:.2g}."
        )
    else:
        text = (
            "Not every component of the stream was captured (embed and mlp_out are needed "
            "beside z), so the parts need not add up to the logit."
        )
    return Section(title, text, (chart,), fold(table, "All components"))


def _bars(rows: list[dict[str, Any]]) -> Chart:
    """Bars in the order of the stream: one group per layer, one colour per kind."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    slots = [kind for kind in kinds if kind not in ENDS]
    middle = slots[len(slots) // 2]
    bars = [
        {
            **row,
            "place": ENDS.get(row["kind"], str(row["layer"])),
            "slot": middle if row["kind"] in ENDS else row["kind"],
        }
        for row in rows
    ]
    places = list(dict.fromkeys(bar["place"] for bar in bars))
    base = alt.Chart(data(bars)).encode(
        x=alt.X(
            "place:N",
            sort=places,
            title="layer",
            axis=alt.Axis(labelAngle=0, labelOverlap="parity", labelSeparation=4),
        ),
        xOffset=alt.XOffset("slot:N", sort=slots),
        y=alt.Y("mean:Q", title="mean contribution (logits)"),
        color=alt.Color("kind:N", sort=kinds, title=None, legend=alt.Legend(orient="top")),
        tooltip=[
            "component:N",
            alt.Tooltip("mean:Q", format=".4~g"),
            alt.Tooltip("std:Q", format=".4~g"),
            alt.Tooltip("n:Q", format=",d"),
        ],
    )
    zero = alt.Chart(alt.InlineData(values=[{}])).mark_rule().encode(y=alt.datum(0))
    chart = alt.layer(base.mark_bar(), zero)
    step = within(BAR_STEP, BARS_WIDTH // (len(places) * (len(slots) + 1)))
    return finish(
        chart.properties(width=alt.Step(step), height=BARS_HEIGHT),
        title="Mean contribution of each component",
        says="In the order of the residual stream.",
    )
