"""Sections of the CLIP decomposition on repair: what should not matter, removed in several ways."""

import json
from typing import Any

import pyarrow as pa

from residuum.analyses.result import Result
from residuum.report.charts import Chart, count
from residuum.report.clip_effect import NONE
from residuum.report.interval_dots import interval_dots
from residuum.report.sections import Section, fold, scroll

WAYS = {
    "none": "nothing",
    "mlps": "all MLPs",
    "ranked": "{heads} that texts rank first",
    "mlps and ranked": "all MLPs and {heads} ranked first",
    "projection": "the cue's direction: the rival",
    "sql": "{heads} of the query",
    "greedy": "{heads}, greedy by labels",
    "random": "{heads} at random: the control",
}
GROUPS = 60  # in the table
LOW = 0.5  # the axis of accuracies starts here, or lower


def sections(result: Result) -> list[Section]:
    """What there is of both."""
    made = []
    if result["repair"].num_rows:
        made.append(_repair(result))
    if result["groups"].num_rows:
        made.append(_groups(result))
    return made


def _repair(result: Result) -> Section:
    rows = result["repair"].to_pylist()
    charts = [
        _dots(
            rows,
            ("worst_group", "worst_lo", "worst_hi"),
            title="Worst group",
            says="Lines are 95 % (Wilson); of random heads 90 % of draws, around their mean.",
        ),
        _dots(
            rows,
            ("balanced", "balanced", "balanced"),
            title="Mean over groups",
            says="All groups weigh the same, however many images they have.",
        ),
    ]
    of = result.parameters
    text = (
        f"Accuracy where what says {of.get('group') or 'the cue'} is removed: components are "
        "replaced by their means over one half of the images, by which they are chosen too; "
        f"accuracies are of the other half, {count(rows[0]['n'], 'image')}. Groups are classes "
        f"({of.get('label') or 'label'}) by {of.get('group') or 'cue'}; the dashed line is the "
        "model as it is. The rival changes the whole vector and takes no head apart. Table repair."
    )
    return Section("Repair", text, charts, scroll(_summary(rows), len(rows)))


def _dots(
    rows: list[dict[str, Any]], fields: tuple[str, str, str], *, title: str, says: str
) -> Chart:
    """Each way's value and interval; the model as it is as a rule across."""
    dots = [
        {"name": named(row), "series": title}
        | {end: row[field] for end, field in zip(("value", "lo", "hi"), fields, strict=True)}
        for row in rows
        if row["how"] != NONE
    ]
    level = next((row[fields[0]] for row in rows if row["how"] == NONE), 0.0)
    return interval_dots(
        dots,
        series=(title,),
        level=("nothing removed", level),
        low=min([LOW, level, *(dot["lo"] for dot in dots)]),
        unit="accuracy (share)",
        title=title,
        says=says,
    )


def named(row: dict[str, Any]) -> str:
    """What is removed, in words, from a row of `repair`."""
    words: str = WAYS.get(row["how"], row["how"])
    return words.format(heads=count(row["n_head"], "head"))


def _summary(rows: list[dict[str, Any]]) -> pa.Table:
    names = ("worst_group", "worst_lo", "worst_hi", "balanced", "accuracy")
    return pa.Table.from_pylist(
        [
            {"how": row["how"], "removed": named(row), **{name: row[name] for name in names}}
            | {"which": which(row["removed"])}
            for row in rows
        ]
    )


def which(removed: str) -> str:
    """The components in a JSON of `removed`: `L0H7, L1 MLP`."""
    of = json.loads(removed)
    heads = [f"L{layer}H{head}" for layer, head in of.get("heads", ())]
    draws = [count(of["draws"], "draw")] if "draws" in of else []
    return ", ".join([*heads, *of.get("others", ()), *draws])


def _groups(result: Result) -> Section:
    table = result["groups"]
    rows = table.to_pylist()
    lines: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        place = (row["group_y"], row["group_b"])
        start = {"class": row["group_y"], "group": row["group_b"], "n": row["n"]}
        lines.setdefault(place, start)[row["how"]] = row["accuracy"]
    wide = pa.Table.from_pylist(list(lines.values()))
    text = (
        f"Accuracy (share) of each of {count(len(lines), 'group')}, by the way of repair "
        "above; n is images of the judged half. Table groups, with intervals (Wilson, 95 %) below."
    )
    if len(lines) > GROUPS:
        text += f" Shown: {GROUPS}."
    long = table.drop_columns(["model", "removed"])
    body = f"<div>{scroll(wide, GROUPS)}</div>{fold(long, 'With intervals')}"
    return Section("Groups", text, html=body)
