"""Sections of the tuned lens on what it is good for: bases, alignment, blocks, detectors."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from residuum.analyses.result import Result
from residuum.report.charts import count, has_logarithm, layer_lines, scatter
from residuum.report.interval_dots import interval_dots
from residuum.report.sections import Section, scroll

WEIGHTS = "marginal"
KINDS = {"basis": "causal basis", "random": "random directions"}
DETECTORS = {
    "lof": "local outlier factor",
    "isolation_forest": "isolation forest",
    "mahalanobis": "Mahalanobis distance",
}
AGAINST = {"odd": "odd inputs", "clean": "other clean inputs: the control"}
LAST_STATE = "last state"
ADDED = {
    "cosine": "what the block adds",
    "cosine_other": "what it adds at another token",
    "cosine_random": "random directions",
}
LOSSES = {"model": "Updates and the model's loss", "logit": "Updates and the logit lens' loss"}


def sections(result: Result) -> list[Section]:
    """What there is of the parts."""
    made = []
    if result["causal_basis"].num_rows:
        made.append(_basis(result["causal_basis"], result["fidelity"]))
    if result["alignment"].num_rows:
        made.append(_alignment(result["alignment"]))
    if result["ablation"].num_rows:
        made.append(_blocks(result["ablation"]))
    if result["gradient"].num_rows:
        made.append(_steps(result["gradient"]))
    if result["anomaly"].num_rows:
        made.append(_odd(result["anomaly"]))
    return made


def _basis(table: pa.Table, fidelity: pa.Table) -> Section:
    shown = ["layer", "kind", "rank", "energy", "model_kl"]
    rows = [{**row, "kind": KINDS[row["kind"]]} for row in table.select(shown).to_pylist()]
    placed = [r for r in rows if has_logarithm(r["energy"]) and has_logarithm(r["model_kl"])]
    still = len(rows) - len(placed)
    charts = []
    if placed:
        charts.append(
            scatter(
                placed,
                x=("energy", "KL of the lens (nats)"),
                y=("model_kl", "KL of the model (nats)"),
                shape="kind",
                tooltip=("layer:O", "kind:N", "rank:O"),
                title="What moves the lens and what moves the model",
                says=f"A point is a direction taken out of a layer. {_found(fidelity)}",
            )
        )
    text = (
        "The directions that the tuned lens of a layer depends on most, orthogonal to each other, "
        "and random ones. Each is taken out of the states of that layer, once for the lens and "
        "once for the model, which is replayed from there: "
        f"{count(table['n_tokens'][0].as_py(), 'token')}."
    )
    if still:
        text += f" Without a place on these axes: {count(still, 'direction')}."
    return Section("Causal basis", text, charts, scroll(fidelity, fidelity.num_rows))


def _found(fidelity: pa.Table) -> str:
    """The fidelity in words: ranges over layers."""
    parts = []
    for name, words in (
        ("spearman", "Spearman correlation by layer: {}."),
        ("top_over_random", "The model's KL of the first direction over the random mean: {}."),
        ("basis_over_random", "The mean of the basis over it: {}."),
    ):
        ends = pc.min_max(fidelity[name]).as_py()
        if ends["min"] is not None:
            low, high = (_short(ends[end]) for end in ("min", "max"))
            parts.append(words.format(low if low == high else f"{low} to {high}"))
    return " ".join(parts)


def _short(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:,.0f}"


def _alignment(table: pa.Table) -> Section:
    mine = table.filter(pc.equal(table["weights"], WEIGHTS))
    means = mine.group_by(["lens", "layer", "kind"], use_threads=False).aggregate(
        [("alignment", "mean")]
    )
    points = [
        {
            "layer": row["layer"],
            "series": row["lens"],
            "value": row["alignment_mean"],
            "directions": KINDS[row["kind"]],
        }
        for row in means.to_pylist()
    ]
    chart = layer_lines(
        points,
        title="Alignment of responses",
        unit="Aitchison cosine",
        says="1: lens and model move the same way; 0: what one does says nothing of the other.",
        dash="directions",
    )
    text = (
        "When a direction is taken out of a layer, do the predictions of lens and model change the "
        "same way? Means over directions; tokens weigh as much as the model says them."
    )
    return Section("Alignment", text, (chart,), scroll(mine, mine.num_rows))


def _blocks(table: pa.Table) -> Section:
    points = [
        {"layer": row["block"], "series": row["method"], "value": row["kl_nats"]}
        for row in table.to_pylist()
    ]
    chart = layer_lines(
        points,
        title="Without one block",
        unit="nats per token",
        says="KL from the model's output to that of the model without the block.",
        axis="block",
    )
    text = (
        "What a block adds is replaced at every token: by nothing (zero), by its mean, or by what "
        "it adds at another token (resample). The rest is replayed: "
        f"{count(table['n_tokens'][0].as_py(), 'token')}."
    )
    return Section("Blocks taken out", text, (chart,), scroll(table, table.num_rows))


def _steps(table: pa.Table) -> Section:
    rows = [row for row in table.to_pylist() if row["cosine"] is not None]
    charts = [
        layer_lines(
            _cosines(mine),
            title=title,
            unit="cosine",
            says=f"Cosine with the gradient; below 0 is down. {_down(mine)}",
            axis="block",
            dash="gradient",
            level=("orthogonal", 0.0),
        )
        for loss, title in LOSSES.items()
        if (mine := [row for row in rows if row["loss"] == loss])
    ]
    text = (
        "Does what a block adds to the stream lower the cross-entropy with the next token? The "
        "gradient of the model's loss is brought back through the later blocks, that of the logit "
        "lens is of the state itself. What a block adds at another token is what it has in common "
        "for all. By the state that leaves, the model's loss tells little of a trained model: it "
        "has learnt how long its updates should be."
    )
    return Section("Steps down the loss", text, charts, scroll(table, table.num_rows))


def _cosines(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "layer": row["block"],
            "series": series,
            "value": row[field],
            "gradient": f"by the state that {'enters' if _enters(row) else 'leaves'} the block",
        }
        for field, series in ADDED.items()
        for row in rows
    ]


def _enters(row: dict[str, Any]) -> bool:
    return bool(row["layer"] == row["block"])


def _down(rows: Sequence[dict[str, Any]]) -> str:
    """How many go down, by the state that enters: ranges over blocks."""
    mine = [row for row in rows if _enters(row)]
    if not mine:
        return ""
    shares = []
    for field in ("negative_share", "example_negative_share"):
        low, high = (f"{of(row[field] for row in mine):.0%}" for of in (min, max))
        shares.append(low if low == high else f"{low} to {high}")
    return (
        f"By the state that enters, {shares[0]} of {count(mine[0]['n_tokens'], 'token')} and "
        f"{shares[1]} of {count(mine[0]['n_examples'], 'example')} go down."
    )


def _odd(table: pa.Table) -> Section:
    rows = table.to_pylist()
    tasks = dict.fromkeys(row["task"] for row in rows)
    low = min(0.5, *(row["auroc_lo"] for row in rows))
    charts = [
        interval_dots(
            [_dot(row) for row in rows if row["task"] == task],
            series=tuple(AGAINST.values()),
            level=("chance", 0.5),
            low=low,
            unit="AUROC",
            title=task,
            says=_inputs([row for row in rows if row["task"] == task]),
        )
        for task in tasks
    ]
    text = (
        "Detectors learn from the trajectories of clean inputs and rank others by how odd they "
        "are. 1 is all odd ones first; the control should be at chance. Lines are 95 % of draws "
        f"of inputs, dots means over {count(rows[0]['n_splits'], 'split')}."
    )
    return Section("Odd inputs", text, charts, scroll(table, table.num_rows))


def _dot(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"{row['lens'] or LAST_STATE}, {DETECTORS.get(row['detector'], row['detector'])}",
        "series": AGAINST[row["against"]],
        "value": row["auroc"],
        "lo": row["auroc_lo"],
        "hi": row["auroc_hi"],
    }


def _inputs(rows: Sequence[dict[str, Any]]) -> str:
    told = {row["against"]: row["n_test"] for row in rows}
    parts = [
        f"{told[name]:,} {words}"
        for name, words in (("odd", "told apart"), ("clean", "in the control"))
        if name in told
    ]
    return f"{count(rows[0]['n_train'], 'clean input')} learnt from, {', '.join(parts)}."
