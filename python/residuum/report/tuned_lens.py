"""Sections of the tuned lens: how far it is from the output, the map of tokens, transfer, depth.

What removals and odd inputs tell is in `lens_effects.py`.
"""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from residuum.analyses.result import Result
from residuum.report import lens_effects
from residuum.report.charts import Chart, count, head_map, layer_lines
from residuum.report.lens_map import lens_map
from residuum.report.sections import Section, scroll

EXAMPLES = 12  # in the menu of the map
TOKENS = 40  # of one example
LOGIT = "logit"
TRAINED_ON = {
    False: "that the lens was not trained on",
    True: "that the lens was trained on, as none were held out: it flatters the lens",
    None: "of which it is not known whether the lens was trained on them",
}
LINES, STEPS = 8, 100  # of the training's losses


def sections(result: Result) -> list[Section]:
    """What there is of the parts."""
    made = []
    if result["quality"].num_rows:
        made.append(_quality(result["quality"]))
    if result["trajectory"].num_rows:
        made.append(_map(result["trajectory"]))
    if result["transfer"].num_rows:
        made.append(_transfer(result["transfer"], result["covariance"]))
    if result["difficulty"].num_rows:
        made.append(_depth(result["difficulty"]))
    made += lens_effects.sections(result)
    if result["lens_transfer"].num_rows:
        made.append(_second(result["lens_transfer"]))
    if result["losses"].num_rows:
        made.append(_losses(result["losses"]))
    if result["skipped"].num_rows:
        made.append(Section("Left out", "What the store lacks.", html=scroll(result["skipped"])))
    return made


def _quality(table: pa.Table) -> Section:
    rows = table.to_pylist()
    constant = rows[0]["constant_kl_nats"]
    charts = [
        *_lines(
            rows,
            "kl_nats",
            "KL from the model's output",
            "nats per token",
            "How far each lens is from what the model says in the end. The best constant says the "
            "same everywhere.",
            level=None if constant is None else ("best constant", constant),
        ),
        *_lines(
            rows,
            "ce_nats",
            "Cross-entropy with the next token",
            "nats per token",
            "How well each lens predicts what comes next.",
        ),
        *_lines(
            rows,
            "marginal_kl",
            "Bias",
            "nats",
            "KL between the mean distributions of model and lens.",
        ),
    ]
    known = {row["lens"]: row["trained_on"] for row in rows}
    own = next((trained for lens, trained in known.items() if lens != LOGIT), None)
    text = (
        f"Over {count(rows[0]['n_tokens'], 'token')} of examples {TRAINED_ON[own]}. "
        "Layer 0 is the embedding, layer l enters block l, the last is the model's own output."
    )
    return Section("Tuned lens and logit lens", text, charts, scroll(table, table.num_rows))


def _lines(
    rows: list[Any],
    field: str,
    title: str,
    unit: str,
    says: str,
    *,
    level: tuple[str, float] | None = None,
) -> list[Chart]:
    """The chart, if there is anything to draw."""
    points = [
        # Rounding can leave a KL of 0 a little below.
        {"layer": row["layer"], "series": row["lens"], "value": max(0.0, row[field])}
        for row in rows
        if row[field] is not None
    ]
    if not points:
        return []
    return [layer_lines(points, title=title, unit=unit, says=says, level=level)]


def _map(table: pa.Table) -> Section:
    lenses = pc.unique(table["lens"]).to_pylist()
    own = next(lens for lens in lenses if lens != LOGIT)
    tuned = table.filter(pc.equal(table["lens"], own))
    examples = pc.unique(tuned["seq_id"]).slice(0, EXAMPLES)
    tuned = tuned.filter(pc.is_in(tuned["seq_id"], value_set=examples))
    tuned = tuned.filter(pc.less(tuned["pos"], TOKENS))
    renamed = {
        "seq_id": "example",
        "pos": "token",
        "top1_id": "top_id",
        "top1_text": "top_text",
        "top1_prob": "top_probability",
    }
    tuned = tuned.rename_columns([renamed.get(name, name) for name in tuned.column_names])
    says = (
        "Each row is a token of the text, each column a layer; the word in a cell is the token "
        "that the tuned lens ranks first. An orange outline marks the true next token."
    )
    text = f"Shown: {count(len(examples), 'example')}, the first {TOKENS} tokens of each."
    chart = lens_map(tuned.to_pylist(), title="Tuned lens", says=says)
    return Section("What the model believes at each layer", text, (chart,))


def _transfer(table: pa.Table, covariance: pa.Table) -> Section:
    rows = [
        {name: row[name] for name in ("translator_layer", "state_layer", "kl_penalty", "kl_nats")}
        for row in table.to_pylist()
    ]
    charts = [
        head_map(
            rows,
            value="kl_penalty",
            title="Translators on other layers",
            says="KL above that of the layer's own translator; the diagonal is 0.",
            unit="nats",
            axes=("state_layer", "translator_layer"),
        )
    ]
    if covariance.num_rows:
        alike = [
            {name: row[name] for name in ("layer", "other_layer", "cosine")}
            for row in covariance.to_pylist()
            if row["cosine"] is not None
        ]
        charts.append(
            head_map(
                alike,
                value="cosine",
                title="Covariances",
                says="Frobenius cosine of the covariance matrices of two layers.",
                unit="cosine",
                high=1.0,
                axes=("other_layer", "layer"),
            )
        )
    text = "A translator fits layers whose states are spread alike."
    return Section("Layer transfer", text, tuple(charts))


def _depth(table: pa.Table) -> Section:
    text = (
        "The first layer from which on every layer's top token is the model's own: late for what "
        "is hard. The correlation (Spearman) is with the surprise of the true next token; its "
        "interval is a bootstrap over examples."
    )
    return Section("Prediction depth", text, html=scroll(table))


def _second(table: pa.Table) -> Section:
    rows = table.to_pylist()
    first = rows[0]
    fields = {"the first lens": "own_kl_nats", f"{first['lens']}": "kl_nats"}
    points = [
        {"layer": row["layer"], "series": series, "value": row[field]}
        for series, field in fields.items()
        for row in rows
    ]
    chart = layer_lines(
        points,
        title="KL from the model's output",
        unit="nats per token",
        says="The gap is what the other lens costs.",
    )
    text = (
        f"The lens {first['lens']} was trained on {first['lens_model'] or 'a model not named'}; "
        f"the states are of {first['state_model']}, over {count(first['n_tokens'], 'token')}."
    )
    same = first["lens_model"] == first["state_model"]
    title = "A second lens" if same else "A lens of another model"
    return Section(title, text, (chart,), scroll(table, table.num_rows))


def _losses(table: pa.Table) -> Section:
    rows, last = table.to_pylist(), pc.max(table["step"]).as_py()
    layers = sorted({row["layer"] for row in rows})
    some = layers[:: 1 + len(layers) // LINES]
    points = [
        {"layer": row["step"], "series": f"layer {row['layer']}", "value": row["loss"]}
        for row in rows
        if row["layer"] in some and row["step"] % max(1, last // STEPS) == 0
    ]
    chart = layer_lines(
        points,
        title="Losses while training",
        unit="nats per token",
        says="Mean loss of a layer's lens at a step, before it.",
        axis="step",
    )
    return Section("Training", f"{count(last + 1, 'step')}.", (chart,))
