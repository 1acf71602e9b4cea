"""The lens heat map: tokens down, layers across, one example at a time.

The reader picks the example, what the colour means and, of many layers, which to see; text in a
cell is the top token there.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from residuum.report.charts import (
    Chart,
    Drawing,
    cell_axis,
    contrast,
    data,
    finish,
    largest,
    within,
)

COLUMNS = 14  # that fit without scrolling; of more layers, some are left out at first
MAP_WIDTH = 840  # pixels, shared by the columns
CELL_WIDTH = (60, 110)  # least and largest
CELL_HEIGHT = 22
GAP = OUTLINE = 1.8
LETTERS = 14
PREVIEW_LETTERS = 60
LEGEND = 240  # pixels

# What the colour can mean: field -> its name.
MEASURES = {
    "top_probability": "probability of the top token",
    "entropy": "entropy (nats)",
    "kl_to_final": "KL from the model's output (nats)",
}


def lens_map(rows: Sequence[Mapping[str, Any]], *, title: str, says: str) -> Chart:
    """The map, for rows of the table `trajectory` (one per token and layer)."""
    layers = sorted({row["layer"] for row in rows})
    cells = [_cell(row, len(layers) - 1 - layers.index(row["layer"])) for row in rows]
    numbers = dict.fromkeys(cell["example"] for cell in cells)
    examples = {number: _preview(number, cells) for number in numbers}
    steps = _steps(len(layers))
    step = max(steps)
    width = within(CELL_WIDTH, MAP_WIDTH * step // len(layers))
    base = (
        alt.Chart(data(cells))
        .transform_filter("datum.example == example && datum.layers_after % step == 0")
        .transform_calculate(shown="datum[measure]", strength=f"datum[measure] / {_limit(cells)}")
        .encode(
            x=alt.X(
                "layer:O",
                title="layer",
                scale=alt.Scale(paddingInner=GAP / width),
                axis=cell_axis(orient="top", titleAnchor="start"),
            ),
            y=alt.Y(
                "label:N",
                sort=alt.EncodingSortField("token", op="min"),
                title="token → next token",
                scale=alt.Scale(paddingInner=GAP / CELL_HEIGHT),
                axis=cell_axis(
                    labelFontSize=11, titleAngle=0, titleAlign="right", titleX=-8, titleY=-8
                ),
            ),
        )
    )
    chart = alt.layer(_rectangles(base, cells), _tokens(base, width)).add_params(
        _menu("example", examples, label="Example", start=next(iter(examples))),
        _menu("measure", MEASURES, label="Colour", start="top_probability"),
        _menu("step", steps, label="Layers", start=step),
    )
    shaped = chart.properties(
        width=alt.Step(width),
        height=alt.Step(CELL_HEIGHT),
        title=alt.TitleParams(
            alt.ExprRef(f"{json.dumps(MEASURES)}[measure]"), fontSize=12, frame="group"
        ),
    )
    return finish(shaped, title=title, says=says)


def _menu(name: str, options: Mapping[Any, str], *, label: str, start: object) -> alt.Parameter:
    """A parameter that the reader chooses; without a choice there is no menu."""
    bind: Any = alt.Undefined
    if len(options) > 1:
        bind = alt.binding_select(
            options=list(options), labels=list(options.values()), name=f"{label} "
        )
    return alt.param(name=name, value=start, bind=bind)


def _steps(n_layer: int) -> dict[int, str]:
    """Choices of layers: all, every second, … up to one that needs no scrolling."""
    steps = {1: "all"}
    while n_layer > COLUMNS * max(steps):
        step = 2 * max(steps)
        steps[step] = f"every {step}{'nd' if step == 2 else 'th'}, up to the last"
    return steps


def _rectangles(base: alt.Chart, cells: Sequence[Mapping[str, Any]]) -> Drawing:
    drawn: alt.Chart = base.mark_rect(cornerRadius=2).encode(
        color=alt.Color(
            "shown:Q",
            title=None,
            scale=alt.Scale(
                domainMin=0,
                domainMax=alt.ExprRef(_limit(cells)),
                clamp=True,
                nice=False,
                interpolate="lab",
            ),
            legend=alt.Legend(format=".2~g", orient="top", gradientLength=LEGEND),
        ),
        stroke=alt.condition(
            "datum.top_id === datum.target_id", alt.value("#e07b00"), alt.value("transparent")
        ),
        strokeWidth=alt.value(OUTLINE),
        tooltip=[
            alt.Tooltip("label:N", title="token → next"),
            alt.Tooltip("layer:O"),
            alt.Tooltip("top_text:N", title="top token"),
            alt.Tooltip("top_probability:Q", title="its probability", format=".3f"),
            alt.Tooltip("entropy:Q", title="entropy (nats)", format=".3f"),
            alt.Tooltip("kl_to_final:Q", title="KL from output (nats)", format=".3f"),
            alt.Tooltip("target_rank:Q", title="rank of the true next token"),
            alt.Tooltip("target_logprob:Q", title="its log-probability (nats)", format=".3f"),
        ],
    )
    return drawn


def _tokens(base: alt.Chart, width: int) -> Drawing:
    words: alt.Chart = base.mark_text(fontSize=11, limit=width - 6).encode(
        text="cell:N", color=contrast("datum.strength")
    )
    return words


def _limit(cells: Sequence[Mapping[str, Any]]) -> str:
    """An expression: the largest value of the measure, the end of the colour scale."""
    ends = ["measure == 'top_probability' ? 1"]
    for name in ("entropy", "kl_to_final"):
        high = largest(cell[name] for cell in cells)
        ends.append(f"measure == '{name}' ? {high:.6g}")
    return "(" + " : ".join([*ends, "1"]) + ")"


def _cell(row: Mapping[str, Any], layers_after: int) -> dict[str, Any]:
    after = "" if row["target_text"] is None else f" → {printable(row['target_text'])}"
    label = f"{row['token']}  {printable(row['text'])}{after}"
    keep = ("example", "token", "layer", "top_id", "target_id", "target_rank", "target_logprob")
    return {
        **{name: row[name] for name in (*keep, *MEASURES)},
        "layers_after": layers_after,
        "label": label,
        "cell": printable(row["top_text"]),
        "top_text": printable(row["top_text"], PREVIEW_LETTERS),
    }


def _preview(example: int, cells: Sequence[Mapping[str, Any]]) -> str:
    labels = {c["token"]: c["label"] for c in cells if c["example"] == example}
    words = [label.split("  ", 1)[1].split(" → ")[0] for _, label in sorted(labels.items())]
    return f"{example}: " + clip(" ".join(words), PREVIEW_LETTERS)


def printable(text: str | None, letters: int = LETTERS) -> str:
    """A token as one visible word: line breaks and tabs as arrows, a leading blank as a dot."""
    if text is None:
        return ""
    shown = text.replace("\n", "⏎").replace("\t", "⇥").replace("\r", "␍")
    if shown.startswith(" "):
        shown = "·" + shown[1:]
    return clip(shown.strip() or "·", letters)


def clip(text: str, letters: int) -> str:
    """At most `letters` letters, with an ellipsis for what is left out."""
    return text if len(text) <= letters else text[: letters - 1] + "…"
