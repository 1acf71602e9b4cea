"""Sections of the CLIP decomposition on components: direct effects, and what goes without them."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from residuum.analyses.result import Result
from residuum.report.charts import Chart, count, head_map, layer_lines
from residuum.report.layer_bars import layer_bars
from residuum.report.named_bars import named_bars
from residuum.report.sections import Section, fold

Rows = list[dict[str, Any]]
ATTENTION, NONE = "attention", "none"
MARGIN = "along the class text"
VARIANCE = "% of variance"


def sections(result: Result) -> list[Section]:
    """What there is of both."""
    made = []
    if result["effect"].num_rows:
        made.append(_effect(result["effect"], result["exactness"]))
    if result["ablation"].num_rows:
        made.append(_ablation(result["ablation"], worst(result)))
    return made


def worst(result: Result) -> str:
    """What the worst group is: a class alone, where no column was named that should not matter."""
    return "worst group" if result.parameters.get("group") else "worst class"


def _effect(table: pa.Table, exactness: pa.Table) -> Section:
    rows = table.to_pylist()
    for row in rows:
        row["variance"] = None if row["var_share"] is None else 100 * row["var_share"]
    charts = [
        *_pair(
            rows,
            "variance",
            unit=VARIANCE,
            title="Variance",
            says="Variance of what it adds, in % of that of the whole vector; they need not sum "
            "to 100, as components vary together.",
        ),
        *_pair(
            rows,
            "class_margin",
            unit=MARGIN,
            title="Class margin",
            says="What it adds along the text of the image's class less the mean along the "
            "others: orange is for the right class, blue against it.",
            signed=True,
        ),
    ]
    text = (
        "What each component adds, by itself, to the vectors of images; later components that "
        f"read it are not counted. {count(rows[0]['n'], 'image')} of {rows[0]['model']}, table "
        "effect." + "".join(f" {_sum(row)}" for row in exactness.to_pylist())
    )
    return Section("Direct effect", text, charts, fold(table, "All components"))


def _sum(row: dict[str, Any]) -> str:
    """How far a sum is from what it should be."""
    if row["what"] == "components":
        said = "The shares of all components sum to the image's vector"
    else:
        said = "The vector of the final stream is the captured one"
    return f"{said} to {row['relative']:.1g} of its largest value."


def _pair(
    rows: Rows, value: str, *, unit: str, title: str, says: str, signed: bool = False
) -> list[Chart]:
    """The map of heads and the bars of the rest, of one measure, if there is any."""
    there = [row for row in rows if row[value] is not None]
    heads = [row for row in there if row["kind"] == "head"]
    others = [row for row in there if row["kind"] != "head"]
    charts = []
    if heads:
        shown = [{name: row[name] for name in ("layer", "head", value)} for row in heads]
        charts.append(
            head_map(
                shown, value=value, title=f"{title} of heads", says=says, unit=unit, signed=signed
            )
        )
    if others:
        charts.append(
            layer_bars(
                others,
                value=value,
                unit=unit,
                title=f"{title} of other components",
                says="The same of what is no head, in the order of the stream.",
            )
        )
    return charts


def _ablation(table: pa.Table, worst_name: str) -> Section:
    measures = {"accuracy": "accuracy", "worst_group": worst_name}
    rows = table.to_pylist()
    lines = [
        {"layer": row["upto_layer"], "series": series, "value": row[field]}
        for field, series in measures.items()
        for row in rows
        if row["what"] == ATTENTION
    ]
    bars = [
        {"name": row["what"], "series": series, "value": row[field]}
        for row in rows
        if row["what"] != ATTENTION
        for field, series in measures.items()
    ]
    whole = next((row["accuracy"] for row in rows if row["what"] == NONE), None)
    charts = []
    if lines:
        charts.append(
            layer_lines(
                lines,
                title="Attention, layer by layer",
                unit="share of images",
                says="Attention of layers 0 to this one is replaced; where lines stay up, it "
                "does not matter directly.",
                axis="layers 0 to",
                level=None if whole is None else ("accuracy, nothing replaced", whole),
            )
        )
    if bars:
        charts.append(
            named_bars(
                bars,
                series=list(measures.values()),
                unit="share of images",
                title="Other sets",
                says="none is the model as it is; everything leaves no image told from another.",
            )
        )
    text = (
        "Zero-shot accuracy where what components add is replaced by its mean over the images; "
        "later components still see the stream as it was. "
        f"{count(rows[0]['n'], 'image')}, table ablation."
    )
    shown = table.drop_columns(["model", "dataset"])
    return Section(
        "Sets of components replaced by their means", text, charts, fold(shown, "All sets")
    )


def accuracy_of_all(table: pa.Table) -> float | None:
    """The accuracy where nothing is replaced, from the table `ablation`."""
    found = table.filter(pc.equal(table["what"], NONE))["accuracy"].to_pylist()
    return found[0] if found else None
