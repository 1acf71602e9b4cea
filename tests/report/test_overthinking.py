"""The pages of the overthinking study, from made-up numbers."""

import itertools

import pyarrow as pa
import pytest

from residuum.analyses.overthinking.tables import SPECS
from residuum.analyses.result import Result
from residuum.report import sections
from residuum.report.overthinking import TITLES


def result(n_layer=4, datasets=("set0", "set1"), **left_out):
    """A result of heads and curves; `left_out` names tables that are empty."""
    rows = {spec.name: [] for spec in SPECS}
    names = [*datasets, "all"] if len(datasets) > 1 else list(datasets)
    head = {"model": "m", "setting": "permuted"}
    states = range(n_layer + 1)
    for name, prefix, state, demo in itertools.product(names, ("true", "false"), states, (0, 7)):
        mean = 0.25 + (0.7 if prefix == "true" else 0.2) * state / n_layer
        rows["accuracy"] += [
            {
                **head,
                "dataset": name,
                "format": "all" if name == "all" else "words",
                "prefix": prefix,
                "state_index": state,
                "demo": demo,
                "metric": metric,
                "mean": mean,
                "lo": mean - 0.05,
                "hi": mean + 0.05,
                "n": 500,
                "chance": 0.25,
            }
            for metric in ("calibrated", "top_1")
        ]
    for name in names:
        rows["critical_layers"].append({**head, "dataset": name, "state_index": 2, "block": 1})
        rows["early_exit"].append({**head, "dataset": name, "state_index": 1, "block": 0})
    for name, layer, number in itertools.product(datasets, range(n_layer), range(4)):
        score = 0.9 if (layer, number) == (1, 3) else 0.01 * number
        where = {**head, "dataset": name, "layer": layer, "head": number, "prefix": "false"}
        rank = 0 if score == 0.9 else 1 + layer
        rows["prefix_matching"].append(
            {**where, "pm_label": score, "pm_prelabel": 0.0, "rank": rank}
        )
    for name, ablation, prefix in itertools.product(names, TITLES, ("true", "false")):
        of_heads = ablation in ("pm_heads", "random_matched", "random_any")
        for seed in (0, 1) if ablation.startswith("random") else (None,):
            rows["ablations"].append(
                {
                    **head,
                    "dataset": name,
                    "ablation": ablation,
                    "kind": None if ablation == "none" else "zero",
                    "n_heads": 2 if of_heads else None,
                    "seed": seed,
                    "parts": "L1H3",
                    "prefix": prefix,
                    "cal_acc": 0.5,
                    "gap_reduction": 0.1 * (seed or 0),
                    "selected_on": name == "set0",
                }
            )
    rows["skipped"].append({"experiment": "label_copying", "reason": "no <weights>"})
    made = {
        spec.name: pa.Table.from_pylist(
            [] if spec.name in left_out else rows[spec.name], spec.schema
        )
        for spec in SPECS
    }
    return Result("overthinking", {}, made, {"title": "Overthinking the truth"})


def test_what_a_page_shows():
    made = {section.title: section for section in sections(result())}
    assert list(made) == [
        "Overthinking: permuted labels",
        "Where the prefixes part",
        "Prefix-matching heads: permuted labels",
        "Ablations: permuted labels",
        "Left out",
    ]
    curves = made["Overthinking: permuted labels"].charts
    assert [chart.title for chart in curves] == ["Average of data sets", "set0", "set1"]
    heads = made["Prefix-matching heads: permuted labels"]
    assert "Highest: head 3 of block 1 of 4, 0.90." in heads.charts[0].says
    assert "1: 0.93" in heads.charts[0].says
    html = made["Ablations: permuted labels"].html
    assert all(words in html for words in TITLES.values())
    assert "2 draws" in html
    assert "no &lt;weights&gt;" in made["Left out"].html


def test_a_curve_has_three_colours_a_band_and_the_chance_line():
    (curves, *_) = sections(result())
    band, level, lines = curves.charts[0].spec["layer"]
    colour = lines["encoding"]["color"]["scale"]
    assert colour["domain"] == ["true demonstrations", "false demonstrations", "no demonstration"]
    assert len(set(colour["range"])) == 3
    named = curves.charts[0].spec.get("datasets", {})
    assert values(level["data"], named) == [{"chance": 0.25}]
    assert {"y", "y2"} <= set(band["encoding"])
    points = values(lines.get("data") or curves.charts[0].spec["data"], named)
    assert {point["series"] for point in points} == set(colour["domain"])
    assert lines["encoding"]["x"]["title"] == "state (0 is the embedding)"


def values(data, named):
    """The rows of a chart's data, which Altair may have given a name."""
    return data["values"] if "values" in data else named[data["name"]]


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_charts_are_drawn(mode):
    for section in sections(result()):
        for chart in section.charts:
            assert chart.png(mode)[:4] == b"\x89PNG"


def test_parts_that_are_missing_have_no_section():
    shown = sections(result(prefix_matching=1, ablations=1, critical_layers=1, skipped=1))
    assert [section.title for section in shown] == ["Overthinking: permuted labels"]
    alone = sections(result(datasets=("set0",)))
    assert [chart.title for chart in alone[0].charts] == ["set0"]
