"""Sections of binding IDs: one for each experiment that was run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from residuum.report.binding_charts import (
    accuracy_bars,
    id_map,
    position_lines,
    scan_map,
    swap_map,
    width_line,
)
from residuum.report.sections import Section, fold, scroll

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from residuum.analyses.result import Result
    from residuum.report.charts import Chart

Rows = list[dict[str, Any]]
SIDES = 2
"""Slots whose swaps are drawn; the table has all."""

NO_SWAP, ATTRIBUTES, ENTITIES, BOTH = "nothing", "attribute", "entity", "both"
SWAP = {
    (False, False): NO_SWAP,
    (False, True): ATTRIBUTES,
    (True, False): ENTITIES,
    (True, True): BOTH,
}
EVIDENCE = (
    "Evidence, not proof: mechanisms can be mixed, most of all where there are many entities. "
)


def sections(result: Result) -> list[Section]:
    """The sections of the tables that are not empty."""
    made = [section for make in _MAKERS for section in make(result)]
    skipped = result["skipped"]
    if skipped.num_rows:
        text = "What these prompts, or this model, do not allow."
        made.append(Section("Not run", text, html=scroll(skipped)))
    return made


def _groups(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """Rows of each task and number of entities, with a name."""
    keys = dict.fromkeys(
        zip(table["task"].to_pylist(), table["n_entities"].to_pylist(), strict=True)
    )
    for task, n in keys:
        mask = pc.and_(pc.equal(table["task"], task), pc.equal(table["n_entities"], n))
        yield f"{task}, {n} entities", table.filter(mask)


def _swaps(result: Result) -> list[Section]:
    out = []
    for name, table in _groups(result["factorizability"]):
        expected = _of(result["swaps"], table)
        charts = []
        for side in range(SIDES):
            rows = table.filter(pc.equal(table["side"], side)).to_pylist()
            charts += [
                swap_map(
                    [row for row in rows if (row["swap_entity"], row["swap_attr"]) == swapped],
                    title=f"Slot {side}: {what} swapped",
                )
                for swapped, what in SWAP.items()
            ]
        text = (
            f"{EVIDENCE}Activations of one slot come from a context with other words; entity and "
            "attribute are swapped apart or together. Queries and answers from the second half on "
            "are those of that context. If an ID binds, an attribute alone put into slot 0 is "
            "answered for entity 0, and an entity alone owns the attribute of slot 0; if the "
            "attribute holds its own entity, single swaps answer by chance, and the entity that "
            "was taken away is still answered."
        )
        out.append(Section(f"Swaps: {name}", text, charts, _swap_summary(expected)))
    return out


def _of(table: pa.Table, like: pa.Table) -> pa.Table:
    """The rows of the same task and size."""
    return table.filter(
        pc.and_(
            pc.equal(table["task"], like["task"][0]),
            pc.equal(table["n_entities"], like["n_entities"][0]),
        )
    )


def _swap_summary(expected: pa.Table) -> str:
    """The queries of the swapped slot, each slot a row."""
    n = expected["n_entities"][0].as_py()
    rows: dict[tuple[str, bool], dict[str, Any]] = {}
    for row in expected.to_pylist():
        if row["slot"] != row["side"]:
            continue
        what = SWAP[row["swap_entity"], row["swap_attr"]]
        line = rows.setdefault(
            (what, row["removed"]),
            {
                "swapped": what,
                "query": "the removed entity" if row["removed"] else "the slot's entity",
            },
        )
        line[f"slot {row['side']}"] = row["accuracy"]
    schema = pa.schema(
        [("swapped", pa.string()), ("query", pa.string())]
        + [(f"slot {slot}", pa.float64()) for slot in range(n)]
    )
    table = pa.Table.from_pylist(list(rows.values()), schema)
    return f"<div><h4>Accuracy of the answer that IDs predict</h4>{scroll(table)}</div>"


def _positions(result: Result) -> list[Section]:
    out = []
    for name, table in _groups(result["position"]):
        moved = table["how"][0].as_py() == "keys"
        charts = []
        for category in dict.fromkeys(table["category"].to_pylist()):
            part = table.filter(pc.equal(table["category"], category))
            charts.append(position_lines(part.to_pylist(), title=f"{category} moved"))
        text = (
            "The keys of slot 0 are rotated to where slot 1 stands and on, those of slot 1 the "
            "other way. Lines that stay flat say that the position of a token is not what binds it."
            if moved
            else "Positions are in the stream of this model: whole columns of slots 0 and 1 are "
            "exchanged. Flat lines are bound to come out, as attention has no other way to tell "
            "where a column stands; they are no evidence for or against IDs."
        )
        out.append(Section(f"Position: {name}", text, charts, fold(table, "All answers")))
    return out


def _means(result: Result) -> list[Section]:
    out = []
    for name, table in _groups(result["mean_intervention"]):
        rows = [
            {
                "group": SWAP[row["swap_entity"], row["swap_attr"]],
                "series": f"{row['delta']}, query {row['query']}",
                "value": row["accuracy"],
            }
            for row in table.to_pylist()
            if row["query"] < SIDES and row["draw"] == _first_draw(table, row["delta"])
        ]
        chart = accuracy_bars(
            rows,
            title="Accuracy of the answer that was right before",
            says="IDs predict 1, 0, 0, 1 for the mean differences; direct binding 1, 1, 1, 1.",
            order=list(SWAP.values()),
            what="IDs of slots 0 and 1 exchanged in",
            chance=1 / table["n_entities"][0].as_py(),
        )
        text = (
            "The mean difference between slots 1 and 0 is added to slot 0 and subtracted from slot "
            "1, in attributes, entities or both; random vectors of the same norm are the control. "
            "Where the difference is about as long as the residual stream itself (norms below), a "
            "random one can destroy the look-up."
        )
        deltas = _of(result["deltas"], table)
        html = fold(table, "All queries, calibrated too") + fold(deltas, "Differences and norms")
        out.append(Section(f"Mean differences: {name}", text, [chart], html))
    return out


def _first_draw(table: pa.Table, delta: str) -> int:
    return int(pc.min(table.filter(pc.equal(table["delta"], delta))["draw"]).as_py())


def _cyclic(result: Result) -> list[Section]:
    table = result["cyclic"]
    if not table.num_rows:
        return []
    charts: list[Chart] = []
    for name, part in _groups(table):
        kinds: dict[tuple[str, int], list[float]] = {}
        for row in part.to_pylist():
            kinds.setdefault((row["intervention"], row["perm"]), []).append(row["cal_accuracy"])
        rows = [
            {
                "group": kind,
                "series": f"by {perm}" if perm else "not moved",
                "value": sum(v) / len(v),
            }
            for (kind, perm), v in kinds.items()
        ]
        charts.append(
            accuracy_bars(
                rows,
                title=name,
                says="Calibrated accuracy of the answer that the moved IDs make right.",
                order=["none", "entity", "attribute"],
                what="IDs moved on in",
                chance=part["chance"][0].as_py(),
            )
        )
    text = "Every slot takes the ID of a later slot, in entities or in attributes alone."
    return [Section("Cyclic order", text, charts, fold(table, "All queries"))]


def _transfer(result: Result) -> list[Section]:
    out = []
    for name, table in _groups(result["transfer"]):
        rows = [
            {"group": row["source_task"], "series": "calibrated", "value": row["cal_accuracy"]}
            for row in table.to_pylist()
        ]
        chart = accuracy_bars(
            rows,
            title="Calibrated accuracy with IDs of another task",
            says="ZEROS has no IDs at all, RANDOM vectors of the same norm.",
            order=[row["group"] for row in rows],
            what="IDs from",
            chance=table["chance"][0].as_py(),
        )
        text = "The task's own IDs are taken off and those of another task are put on."
        out.append(Section(f"Transfer: {name}", text, [chart], scroll(table)))
    return out


def _geometry(result: Result) -> list[Section]:
    out = []
    for name, table in _groups(result["geometry"]):
        plane = _of_task(result["plane"], table).to_pylist()
        fixed = dict.fromkeys(
            zip(table["c0_x"].to_pylist(), table["c0_y"].to_pylist(), strict=True)
        )
        charts = [
            id_map(
                [row for row in table.to_pylist() if (row["c0_x"], row["c0_y"]) == at],
                plane,
            )
            for at in fixed
        ]
        text = (
            "Slot 0's ID is put at the cross, slot 1's at each point; both queries. Accuracy is at "
            "chance (0.5) where the two IDs meet and rises with their distance. Circles are the "
            "IDs that slots really have."
        )
        out.append(Section(f"Map of IDs: {name}", text, charts))
    return out


def _of_task(table: pa.Table, like: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["task"], like["task"][0]))


def _options(result: Result) -> list[Section]:
    out = []
    for name, table in _groups(result["mcq_width"]):
        chart = width_line(table.to_pylist())
        text = (
            "The last tokens of each option line come from the prompt with the options exchanged. "
            "If the line break alone is enough for the exchanged answer, it holds its option: "
            "direct binding."
        )
        out.append(Section(f"Multiple choice: {name}", text, [chart], scroll(table)))
    return out


def _scan(result: Result) -> list[Section]:
    out = []
    for name, table in _groups(result["column_scan"]):
        chart = scan_map(table.to_pylist())
        text = (
            "One column at a time comes from the other context. Where its answer is then given, "
            "the answer is read there, which need not be the attribute's own token."
        )
        out.append(Section(f"Column scan: {name}", text, [chart]))
    return out


_MAKERS: tuple[Callable[[Result], list[Section]], ...] = (
    _swaps,
    _means,
    _scan,
    _positions,
    _cyclic,
    _transfer,
    _geometry,
    _options,
)
