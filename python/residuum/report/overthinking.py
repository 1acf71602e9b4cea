"""Sections of the overthinking study: curves, critical layers, heads, ablations."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from residuum.analyses.result import Result, column
from residuum.report.accuracy_lines import accuracy_lines
from residuum.report.charts import Chart, count, head_map, largest
from residuum.report.sections import Section, fold, scroll

ALL = "all"
ZERO_SHOT = "no demonstration"
PREFIX = {"true": "true demonstrations", "false": "false demonstrations"}
ABLATIONS = pa.schema(
    [
        column("data set", pa.string(), "data set"),
        column("ablation", pa.string(), "what is cut out"),
        column("parts", pa.string(), "heads or blocks; of random heads the number of draws"),
        column("true", pa.float64(), "calibrated accuracy, true demonstrations"),
        column("false", pa.float64(), "calibrated accuracy, false demonstrations"),
        column("gap closed", pa.float64(), "share of the gap; of random heads the mean"),
        column("most", pa.float64(), "largest share that a random draw closes"),
    ]
)
TITLES = {
    "none": "none",
    "late_attention": "late attention",
    "late_mlp": "late MLPs",
    "late_layers": "late layers (early exit)",
    "pm_heads": "prefix-matching heads",
    "random_matched": "random heads, same blocks",
    "random_any": "random heads, any block",
}


def sections(result: Result) -> list[Section]:
    """What there is of the study's parts, setting by setting."""
    made = [_curves(result, setting) for setting in _settings(result, "accuracy")]
    if result["critical_layers"].num_rows:
        made.append(_turning(result))
    made += [_heads(result, setting) for setting in _settings(result, "prefix_matching")]
    made += [_ablations(result, setting) for setting in _settings(result, "ablations")]
    if result["skipped"].num_rows:
        made.append(Section("Left out", "What the store lacks.", html=scroll(result["skipped"])))
    return made


def _settings(result: Result, table: str) -> list[str]:
    found: list[str] = pc.unique(result[table]["setting"]).to_pylist()
    return found


def _words(setting: str) -> str:
    return setting.replace("_", " ")


def _curves(result: Result, setting: str) -> Section:
    """Accuracy over states: a chart for each data set, the average first."""
    table = _where(result["accuracy"], setting=setting)
    names = pc.unique(table["dataset"]).to_pylist()
    names = [name for name in (ALL, *names) if name in names]
    charts = []
    for name in dict.fromkeys(names):
        mine = _where(table, dataset=name)
        # The average of formats where there are several.
        formats = pc.unique(mine["format"]).to_pylist()
        mine = _where(mine, format=ALL if ALL in formats else formats[0])
        charts.append(_curve(mine.to_pylist(), name))
    text = (
        "The stream after each block, read through the final norm and the unembedding at the last "
        "token before the last label; state 0 is the embedding, state l what leaves block l - 1. "
        "Calibrated: a label counts where its share is above that label's own threshold. The "
        "dashed line is chance, bands are 95 %. Both prefixes have the same inputs in the same "
        "order."
    )
    return Section(f"Overthinking: {_words(setting)} labels", text, charts)


def _curve(rows: list[dict[str, Any]], dataset: str) -> Chart:
    last = max(row["demo"] for row in rows)
    points = [
        {
            "state": row["state_index"],
            "series": PREFIX[row["prefix"]] if row["demo"] == last else ZERO_SHOT,
            **{name: row[name] for name in ("mean", "lo", "hi")},
        }
        for row in rows
        if row["metric"] == "calibrated"
        and (row["demo"] == last or (row["demo"] == 0 and row["prefix"] == "true"))
    ]
    first = rows[0]
    title = "Average of data sets" if dataset == ALL else dataset
    return accuracy_lines(
        points,
        series=(PREFIX["true"], PREFIX["false"], ZERO_SHOT),
        chance=first["chance"],
        title=title,
        says=f"{count(first['n'], 'pair')} of prompts, {last + 1} demonstrations.",
    )


def _turning(result: Result) -> Section:
    text = (
        "Critical: the first state with half of the final gap between the prefixes; empty where "
        "that gap is not above two standard errors. Early exit reads one state for all data sets, "
        "where false prefixes gain most."
    )
    both = scroll(result["critical_layers"]) + fold(result["early_exit"], "Early exit")
    return Section("Where the prefixes part", text, html=both)


def _heads(result: Result, setting: str) -> Section:
    """A map of heads for each data set, false prefix, with the sum over each block."""
    table = _where(result["prefix_matching"], setting=setting, prefix="false")
    high = largest(table["pm_label"].to_pylist())
    n_block = len(pc.unique(table["layer"]))
    charts = []
    for name in pc.unique(table["dataset"]).to_pylist():
        mine = _where(table, dataset=name)
        rows = mine.select(["layer", "head", "pm_label", "pm_prelabel", "on_labels"])
        charts.append(
            head_map(
                rows.to_pylist(),
                value="pm_label",
                title=name,
                says=f"{_strongest(mine, n_block)} {_by_block(mine)}",
                unit="score",
                signed=True,
                high=high,
            )
        )
    text = (
        "Prefix matching on false demonstrations: attention from the last token before the label "
        "on earlier labels of the same shown class, minus that on other labels divided by their "
        f"number of classes. 1 is all on the same, 0 is even. Blocks count from 0 of {n_block}."
    )
    return Section(f"Prefix-matching heads: {_words(setting)} labels", text, charts)


def _strongest(table: pa.Table, n_block: int) -> str:
    best = table.sort_by([("rank", "ascending")]).slice(0, 1).to_pylist()[0]
    return (
        f"Highest: head {best['head']} of block {best['layer']} of {n_block}, "
        f"{best['pm_label']:.2f}."
    )


def _by_block(table: pa.Table) -> str:
    sums = table.group_by("layer").aggregate([("pm_label", "sum")]).sort_by("layer")
    parts = [f"{row['layer']}: {row['pm_label_sum']:.2f}" for row in sums.to_pylist()]
    return f"Sums by block: {', '.join(parts)}." if len(parts) <= 12 else ""


def _ablations(result: Result, setting: str) -> Section:
    rows = _where(result["ablations"], setting=setting).to_pylist()
    groups: dict[tuple[str, str, int | None], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["dataset"], row["ablation"], row["n_heads"]), []).append(row)
    kinds = {row["kind"] for row in rows if row["kind"] is not None}
    chosen = next((row["dataset"] for row in rows if row["selected_on"]), None)
    text = (
        f"Cut out at the last token before the last label ({', '.join(sorted(kinds))} ablation), "
        "the rest replayed. Calibrated accuracy of the last state. "
        + (f"Heads are chosen on {chosen}; `all` is the average of the others." if chosen else "")
    )
    table = pa.Table.from_pylist([_ablation(key, of) for key, of in groups.items()], ABLATIONS)
    return Section(f"Ablations: {_words(setting)} labels", text, html=scroll(table, table.num_rows))


def _ablation(key: tuple[str, str, int | None], rows: list[dict[str, Any]]) -> dict[str, Any]:
    dataset, name, n = key
    by = {prefix: [row for row in rows if row["prefix"] == prefix] for prefix in PREFIX}
    closed = [row["gap_reduction"] for row in by["false"] if row["gap_reduction"] is not None]
    draws = len(by["true"])
    random = rows[0]["seed"] is not None
    return {
        "data set": dataset,
        "ablation": TITLES[name] + (f" ({n})" if n is not None else ""),
        "parts": count(draws, "draw") if random else rows[0]["parts"],
        **{prefix: _mean([row["cal_acc"] for row in of]) for prefix, of in by.items()},
        "gap closed": _mean(closed) if closed else None,
        "most": max(closed) if random and closed else None,
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _where(table: pa.Table, **values: str) -> pa.Table:
    for name, value in values.items():
        table = table.filter(pc.equal(table[name], value))
    return table
