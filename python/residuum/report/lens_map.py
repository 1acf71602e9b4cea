"""The lens heat map: tokens down, layers across, one example at a time.

The reader picks the example and what the colour means; text in a cell is the top token there.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from residuum.report.charts import Chart, Drawing, contrast, data, finish, largest

CELL_WIDTH, CELL_HEIGHT = 72, 22
CELL_LETTERS = 9
LABEL_LETTERS = 14
PREVIEW_LETTERS = 60
LEGEND = 240  # pixels

# What the colour can mean: field -> (name in the menu, format of the legend).
MEASURES = {
    "top_probability": "probability of the top token",
    "entropy": "entropy (nats)",
    "kl_to_final": "KL from the model's output (nats)",
}


def lens_map(rows: Sequence[Mapping[str, Any]], *, title: str, says: str) -> Chart:
    """The map, for rows of the table `trajectory` (one per token and layer)."""
    cells = [_cell(row) for row in rows]
    examples = list(dict.fromkeys(cell["example"] for cell in cells))
    names = [_preview(example, cells) for example in examples]
    example = alt.param(
        name="example",
        value=examples[0],
        bind=alt.binding_select(options=examples, labels=names, name="Example "),
    )
    measure = alt.param(
        name="measure",
        value="top_probability",
        bind=alt.binding_select(
            options=list(MEASURES), labels=list(MEASURES.values()), name="Colour "
        ),
    )
    base = (
        alt.Chart(data(cells))
        .transform_filter("datum.example == example")
        .transform_calculate(shown="datum[measure]", strength=f"datum[measure] / {_limit(cells)}")
        .encode(
            x=alt.X(
                "layer:O",
                title="layer",
                axis=alt.Axis(labelAngle=0, orient="top", titleAnchor="start"),
            ),
            y=alt.Y(
                "label:N",
                sort=alt.EncodingSortField("token", op="min"),
                title="token → next token",
                axis=alt.Axis(
                    labelFontSize=11,
                    ticks=False,
                    domain=False,
                    titleAngle=0,
                    titleAlign="right",
                    titleX=-8,
                    titleY=-8,
                ),
            ),
        )
    )
    chart = alt.layer(_rectangles(base, cells), _tokens(base))
    shaped = chart.add_params(example, measure).properties(
        width=alt.Step(CELL_WIDTH), height=alt.Step(CELL_HEIGHT)
    )
    return finish(shaped, title=title, says=says)


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
        strokeWidth=alt.value(1.8),
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


def _tokens(base: alt.Chart) -> Drawing:
    words: alt.Chart = base.mark_text(fontSize=11, limit=CELL_WIDTH - 6).encode(
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


def _cell(row: Mapping[str, Any]) -> dict[str, Any]:
    after = "" if row["target_text"] is None else f" → {printable(row['target_text'])}"
    label = f"{row['token']}  {printable(row['text'])}{after}"
    keep = ("example", "token", "layer", "top_id", "target_id", "target_rank", "target_logprob")
    return {
        **{name: row[name] for name in (*keep, *MEASURES)},
        "label": label,
        "cell": printable(row["top_text"], CELL_LETTERS),
        "top_text": printable(row["top_text"], PREVIEW_LETTERS),
    }


def _preview(example: int, cells: Sequence[Mapping[str, Any]]) -> str:
    labels = {c["token"]: c["label"] for c in cells if c["example"] == example}
    words = [label.split("  ", 1)[1].split(" → ")[0] for _, label in sorted(labels.items())]
    return f"{example}: " + clip(" ".join(words), PREVIEW_LETTERS)


def printable(text: str | None, letters: int = LABEL_LETTERS) -> str:
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
