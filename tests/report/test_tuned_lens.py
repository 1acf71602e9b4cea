"""The pages of the tuned lens, from made-up numbers."""

import itertools

import pyarrow as pa
import pytest

from residuum.analyses.result import Result
from residuum.analyses.tuned_lens.params import EXPERIMENTS
from residuum.analyses.tuned_lens.tables import SCHEMAS
from residuum.report import sections
from residuum.report.charts import scatter

TITLES = {
    "quality": "Tuned lens and logit lens",
    "trajectory": "What the model believes at each layer",
    "transfer": "Layer transfer",
    "difficulty": "Prediction depth",
    "causal_basis": "Causal basis",
    "alignment": "Alignment",
    "ablation": "Blocks taken out",
    "gradient": "Steps down the loss",
    "anomaly": "Odd inputs",
    "lens_transfer": "A lens of another model",
    "losses": "Training",
    "skipped": "Left out",
}
LENSES = ("logit", "tuned", "base")
N_TASK = 2


def result(n_layer=3, *, empty=(), **changed):
    """A result of every table but the empty ones; `changed` replaces the rows of a table."""
    rows = {**numbers(n_layer), **effects(n_layer), **changed}
    tables = {
        name: pa.Table.from_pylist([] if name in empty else rows.get(name, []), schema)
        for name, schema in SCHEMAS.items()
    }
    return Result("tuned_lens", {}, tables, {"title": "Tuned lens"})


def numbers(n_layer):
    """The rows of what looks at states as they are."""
    states = range(n_layer + 1)
    return {
        "quality": [
            {
                "lens": lens,
                "layer": layer,
                "kl_nats": (n_layer - layer) / (1 + at) - 1e-9,
                "constant_kl_nats": 1.25,
                "ce_nats": 1.0,
                "n_tokens": 9,
                "trained_on": False,
            }
            for (at, lens), layer in itertools.product(enumerate(LENSES), states)
        ],
        "trajectory": [
            {
                "lens": lens,
                "seq_id": 0,
                "pos": 0,
                "layer": layer,
                "text": " a",
                "top1_id": 1,
                "top1_text": lens,
                "top1_prob": 0.5,
                "entropy": 1.0,
                "kl_to_final": 0.5,
            }
            for lens, layer in itertools.product(LENSES, states)
        ],
        "transfer": [
            {"translator_layer": i, "state_layer": j, "kl_penalty": 0.1, "kl_nats": 0.2}
            for i, j in itertools.product(range(n_layer), repeat=2)
        ],
        "difficulty": [{"lens": lens, "mean_depth": 1.0, "spearman": 0.1} for lens in LENSES],
        "lens_transfer": [
            {
                "lens": "base",
                "lens_model": "before",
                "state_model": "after",
                "layer": layer,
                "kl_nats": 0.5,
                "own_kl_nats": 0.25,
                "n_tokens": 9,
            }
            for layer in range(n_layer)
        ],
        "losses": [{"step": 0, "layer": layer, "loss": 1.0, "n": 9} for layer in range(n_layer)],
        "skipped": [{"experiment": "covariance", "reason": "no <rows>"}],
    }


def effects(n_layer):
    """The rows of what removes something, or tells inputs apart."""
    layers = range(n_layer)
    directions = [("basis", rank) for rank in range(3)] + [("random", rank) for rank in range(4)]
    moved = {"basis": 0.5, "random": 0.004}
    return {
        "causal_basis": [
            {
                "layer": layer,
                "kind": kind,
                "rank": rank,
                "energy": moved[kind] / (1 + rank),
                "model_kl": moved[kind] / (1 + layer),
                "n_tokens": 9,
                "vector": [0.6, 0.8],
            }
            for layer, (kind, rank) in itertools.product(layers, directions)
        ],
        "fidelity": [
            {"layer": layer, "spearman": 0.5 + layer / 10, "top_over_random": 100.0 + layer}
            for layer in layers
        ],
        "alignment": [
            {
                "lens": lens,
                "layer": layer,
                "kind": kind,
                "rank": rank,
                "weights": weights,
                "alignment": (rank if kind == "basis" else -rank)
                / (10 if weights == "marginal" else 1),
                "n_examples": 2,
            }
            for lens, layer, (kind, rank), weights in itertools.product(
                LENSES, layers, directions, ("uniform", "marginal")
            )
        ],
        "ablation": [
            {"block": block, "method": method, "kl_nats": 0.5, "n_tokens": 9}
            for block, method in itertools.product(layers, ("mean", "zero", "resample"))
        ],
        "gradient": [
            {
                "block": block,
                "layer": block + after,
                "loss": loss,
                "cosine": -0.1 * (1 + block),
                "negative_share": 0.5 if after else 0.9 + 0.01 * block,
                "example_negative_share": 1.0,
                "cosine_random": 0.001,
                "cosine_other": -0.05,
                "n_tokens": 1200,
                "n_examples": 2,
            }
            for loss, block, after in itertools.product(("model", "logit"), layers, (0, 1))
        ],
        "anomaly": [
            {
                "task": f"task {task}",
                "lens": lens,
                "detector": detector,
                "against": against,
                "auroc": 0.9 if against == "odd" else 0.5,
                "auroc_lo": 0.85 if against == "odd" else 0.38,
                "auroc_hi": 0.95 if against == "odd" else 0.57,
                "n_splits": 10,
                "n_train": 60,
                "n_test": 140 if against == "odd" else 40,
            }
            for task in range(N_TASK)
            for lens, detector in [
                *itertools.product(LENSES, ("lof", "isolation_forest")),
                (None, "mahalanobis"),
            ]
            for against in ("odd", "clean")
        ],
    }


def section(of, name):
    """The section of a table."""
    return next(one for one in sections(of) if one.title == TITLES[name])


def drawn(spec, layer=None):
    """The rows that a chart, or a layer of it, draws."""
    data = spec["data"] if layer is None else spec["layer"][layer].get("data", spec.get("data"))
    return spec["datasets"][data["name"]] if "name" in data else data["values"]


def test_what_a_page_shows():
    made = sections(result())
    assert [one.title for one in made] == list(TITLES.values())
    assert "no &lt;rows&gt;" in made[-1].html
    assert set(EXPERIMENTS) - set(TITLES) == {"depth", "covariance"}


@pytest.mark.parametrize("name", TITLES)
def test_a_part_without_rows_has_no_section_and_breaks_no_other(name):
    shown = [one.title for one in sections(result(empty=[name]))]
    assert shown == [title for part, title in TITLES.items() if part != name]
    (alone,) = sections(result(empty=set(SCHEMAS) - {name}))
    assert alone.title == TITLES[name]
    for chart in alone.charts:
        assert chart.png()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("n_layer", "mode"), [(1, "light"), (40, "dark")])
def test_charts_are_drawn(n_layer, mode):
    of = result(n_layer)
    names = ("quality", "causal_basis", "alignment", "ablation", "gradient", "anomaly")
    for name in (*names, "lens_transfer"):
        for chart in section(of, name).charts:
            assert chart.png(mode)[:4] == b"\x89PNG"


def test_the_best_constant_is_a_rule_and_no_kl_is_below_zero():
    kl, *others = section(result(), "quality").charts
    assert [chart.title for chart in others] == ["Cross-entropy with the next token"]  # no biases
    assert drawn(kl.spec, 1) == [{"name": "best constant", "value": 1.25}]
    assert {row["series"] for row in drawn(kl.spec, 0)} == set(LENSES)
    assert min(row["value"] for row in drawn(kl.spec, 0)) == 0
    assert all("layer" not in chart.spec for chart in others)
    unknown = [{**row, "constant_kl_nats": None} for row in numbers(3)["quality"]]
    assert "layer" not in section(result(quality=unknown), "quality").charts[0].spec


def test_the_map_is_of_the_first_tuned_lens_alone():
    (chart,) = section(result(), "trajectory").charts
    (cells,) = chart.spec["datasets"].values()
    assert [cell["cell"] for cell in cells] == ["tuned"] * 4


def test_a_basis_is_a_scatter_and_the_fidelity_in_words():
    shown = section(result(), "causal_basis")
    (chart,) = shown.charts
    points = drawn(chart.spec)
    assert len(points) == 3 * 7
    assert not any("vector" in point for point in points)
    encoding = chart.spec["encoding"]
    assert {encoding[axis]["scale"]["type"] for axis in "xy"} == {"log"}
    assert encoding["y"]["axis"]["values"] == pytest.approx([1e-3, 1e-2, 1e-1, 1])
    assert {tip["field"] for tip in encoding["tooltip"]} >= {"layer", "kind", "rank"}
    assert "Spearman correlation by layer: 0.50 to 0.70." in chart.says
    assert "over the random mean: 100 to 102." in chart.says
    assert "mean of the basis" not in chart.says  # the table does not say
    assert "Without a place" not in shown.text
    assert shown.html.count("<tr>") == 1 + 3


def test_directions_that_move_nothing_are_counted():
    rows = effects(2)["causal_basis"]
    rows[0]["energy"], rows[1]["model_kl"] = 0.0, -1e-12
    shown = section(result(2, causal_basis=rows), "causal_basis")
    assert "Without a place on these axes: 2 directions." in shown.text
    assert len(drawn(shown.charts[0].spec)) == 12
    still = [{**row, "energy": 0.0} for row in rows]
    assert not section(result(2, causal_basis=still), "causal_basis").charts


def test_axes_have_room_for_one_point():
    row = {"layer": 0, "kind": "basis", "a": 1.0, "b": 1.0}
    axes = {"x": ("a", "a"), "y": ("b", "b")}
    chart = scatter([row], **axes, shape="kind", tooltip=(), title="t", says="s")
    assert chart.spec["encoding"]["x"]["scale"]["domain"] == [1, 10]


def test_alignment_is_the_mean_over_directions():
    shown = section(result(), "alignment")
    (chart,) = shown.charts
    assert "uniform" not in shown.html
    assert shown.html.count("<tr>") == 1 + len(LENSES) * 3 * 7
    points = drawn(chart.spec)
    assert len(points) == len(LENSES) * 3 * 2
    for point in points:
        want = 0.1 if point["directions"] == "causal basis" else -0.15
        assert point["value"] == pytest.approx(want)
    assert chart.spec["encoding"]["strokeDash"]["field"] == "directions"


def test_blocks_have_a_line_for_each_method():
    (chart,) = section(result(), "ablation").charts
    assert chart.spec["encoding"]["x"]["title"] == "block"
    assert {row["series"] for row in drawn(chart.spec)} == {"zero", "mean", "resample"}


def test_steps_have_a_chart_for_each_loss_and_the_shares_in_words():
    shown = section(result(), "gradient")
    assert [chart.title.split()[-2] for chart in shown.charts] == ["model's", "lens'"]
    for chart in shown.charts:
        points = drawn(chart.spec, 0)
        assert [point["series"] for point in points[::6]] == [
            "what the block adds",
            "what it adds at another token",
            "random directions",
        ]
        assert [point["gradient"].split()[4] for point in points[:2]] == ["enters", "leaves"]
        assert drawn(chart.spec, 1) == [{"name": "orthogonal", "value": 0.0}]
        assert "90% to 92% of 1,200 tokens and 100% of 2 examples go down" in chart.says
    leaving = [row for row in effects(2)["gradient"] if row["layer"] > row["block"]]
    shown = section(result(2, gradient=leaving), "gradient")
    assert {chart.says for chart in shown.charts} == {"Cosine with the gradient; below 0 is down. "}
    unknown = [{**row, "cosine": None} for row in leaving]
    assert not section(result(2, gradient=unknown), "gradient").charts


def test_odd_inputs_have_a_chart_for_each_task_beside_chance():
    charts = section(result(), "anomaly").charts
    assert [chart.title for chart in charts] == ["task 0", "task 1"]
    spec = charts[0].spec
    assert drawn(spec, 0) == [{"name": "chance", "value": 0.5}]
    dots = drawn(spec, 3)
    assert len(dots) == 7 * 2
    assert dots[-1]["name"] == "last state, Mahalanobis distance"
    assert spec["layer"][3]["encoding"]["x"]["scale"]["domain"] == [0.38, 1]
    assert charts[0].says == "60 clean inputs learnt from, 140 told apart, 40 in the control."


def test_a_lens_of_another_model_is_beside_the_first():
    shown = section(result(), "lens_transfer")
    assert "trained on before; the states are of after" in shown.text
    assert {row["series"] for row in drawn(shown.charts[0].spec)} == {
        "the first lens",
        "base",
    }
    same = [{**row, "lens_model": "after"} for row in numbers(3)["lens_transfer"]]
    assert "A second lens" in [one.title for one in sections(result(lens_transfer=same))]
