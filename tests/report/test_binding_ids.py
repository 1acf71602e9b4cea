"""Sections of binding IDs, on what the hand-made readers give."""

import pyarrow as pa
import pytest

import binding_fixture
from residuum.analyses.binding_ids.experiments import Study, run
from residuum.analyses.binding_ids.params import Params
from residuum.analyses.binding_ids.tables import TABLES
from residuum.analyses.result import Result
from residuum.report import sections
from residuum.report.binding_charts import position_lines, width_line


def drawn(spec, layer=0):
    """The rows that a layer of a chart draws."""
    data = spec["layer"][layer].get("data", spec.get("data"))
    return spec["datasets"][data["name"]] if "name" in data else data["values"]


@pytest.fixture(scope="module")
def result():
    subject, prompts = binding_fixture.made("id", 30)
    made = run(Study(subject, [prompts], Params()))
    tables = {
        table.name: pa.Table.from_pylist(made.get(table.name, []), table.schema) for table in TABLES
    }
    return Result("binding_ids", {}, tables, {})


def test_a_section_for_each_experiment_that_was_run(result):
    titles = [section.title for section in sections(result)]
    assert titles == [
        "Swaps: id, 2 entities",
        "Mean differences: id, 2 entities",
        "Column scan: id, 2 entities",
        "Position: id, 2 entities",
        "Transfer: id, 2 entities",
        "Not run",
    ]


def test_maps_of_swaps_are_2n_by_2n(result):
    swaps = sections(result)[0]
    assert len(swaps.charts) == 8  # two slots, four swaps
    for chart in swaps.charts:
        values = drawn(chart.spec)
        assert {(row["query"], row["answer"]) for row in values} == {
            (q, a) for q in range(4) for a in range(4)
        }
    assert "the removed entity" in swaps.html


def test_bars_have_a_line_at_chance(result):
    (bars,) = sections(result)[1].charts
    assert drawn(bars.spec, 1) == [{"value": 0.5, "name": "chance"}]
    first = bars.spec["layer"][0]["encoding"]
    assert first["y"]["title"] == "accuracy (share)"
    assert first["x"]["sort"] == ["nothing", "attribute", "entity", "both"]


def test_lines_have_marks_at_no_move_and_at_a_full_one():
    rows = [
        {"offset": x, "distance": 3, "query": 0, "answer": 0, "mean_logprob": -1.0, "chosen": 1.0}
        for x in range(-10, 14)
    ]
    spec = position_lines(rows, title="t").spec
    marks = [drawn(spec, layer)[0] for layer in (1, 3)]
    assert marks == [{"at": 0, "name": "control"}, {"at": 3, "name": "exchanged"}]
    ticks = spec["layer"][0]["encoding"]["x"]["axis"]["values"]
    assert ticks == [*range(-10, 14, 3)]


def test_all_draw(result):
    charts = [chart for section in sections(result) for chart in section.charts]
    line = [{"width": w, "cal_accuracy": 0.5, "n": 3} for w in range(3)]
    for chart in (charts[0], charts[8], charts[9], charts[10], width_line(line)):
        assert chart.png().startswith(b"\x89PNG")
