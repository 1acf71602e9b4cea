"""The study on models that overthink, trained here: what it has to show.

Slow: about a minute of training on one core for each model that is not in `.cache/models/` yet.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

import residuum
from residuum.analyses.overthinking import run
from residuum.prompts.demonstrations import SETTINGS, build
from train_overthinking_models import RECIPES, new_model, tokenizer_of, trained_model, world_of

SITES = ["embed", "resid_post", "z", "pattern"]
N_PROMPT = 500


def captured(name, folder, out, *, settings=("permuted",), n_prompt=N_PROMPT):
    world = world_of(name)
    rows = [
        row
        for dataset in world.datasets
        for row in build(dataset, n_prompt=n_prompt, n_demo=world.n_demo, settings=settings, seed=1)
    ]
    return residuum.capture(str(folder), pa.Table.from_pylist(rows), out, sites=SITES, device="cpu")


def by_state(result, dataset="set0", setting="permuted", prefix="false", metric="calibrated"):
    """A measure at the last demonstration, by state."""
    wanted = (dataset, setting, prefix, metric)
    names = ("dataset", "setting", "prefix", "metric")
    rows = [
        row
        for row in result["accuracy"].to_pylist()
        if tuple(row[name] for name in names) == wanted
    ]
    last = max(row["demo"] for row in rows)
    rows = sorted((r for r in rows if r["demo"] == last), key=lambda r: r["state_index"])
    return np.array([row["mean"] for row in rows])


@pytest.mark.slow
def test_the_curve(tmp_path):
    store = captured("curve", trained_model("curve"), tmp_path / "run", settings=SETTINGS)
    result = run(store, experiments=["accuracy", "critical_layers", "early_exit"])
    true, false = by_state(result, prefix="true"), by_state(result)
    gap = true - false
    assert gap[1] < 0.1
    assert gap[-1] > 0.8
    (critical,) = (
        row for row in result["critical_layers"].to_pylist() if row["setting"] == "permuted"
    )
    assert critical["state_index"] in (2, 3)
    (early,) = (row for row in result["early_exit"].to_pylist() if row["setting"] == "permuted")
    assert early["state_index"] < 4
    assert early["acc_false"] > 0.6
    assert false[-1] < 0.1
    assert by_state(result, metric="permuted_score")[-1] > 0.8
    # Labels that are wrong half of the time mislead less.
    assert by_state(result, setting="half_permuted")[-1] > false[-1] + 0.1


@pytest.mark.slow
def test_a_model_that_saw_no_lie_does_not_overthink(tmp_path):
    store = captured("curve_truthful", trained_model("curve_truthful"), tmp_path / "run")
    result = run(store, experiments=["accuracy", "critical_layers"])
    gap = by_state(result, prefix="true") - by_state(result)
    # Block 0 alone mixes what it sees: at state 1 true labels around the query help a little.
    assert abs(gap[1]) < 0.15
    assert np.abs(gap[2:]).max() < 0.036
    assert by_state(result)[-1] > 0.9
    assert result["critical_layers"]["state_index"].to_pylist() == [None]


def test_random_weights_do_nothing(tmp_path):
    """Every measure is within 3 standard errors of chance, no layer is critical, no head looks."""
    world = world_of("curve")
    torch.manual_seed(0)
    # Weights so small that attention is even.
    new_model(replace(RECIPES["curve"], init=0.02), world).save_pretrained(tmp_path / "model")
    tokenizer_of(world).save_pretrained(tmp_path / "model")
    store = captured("curve", tmp_path / "model", tmp_path / "run", n_prompt=200)
    result = run(store, experiments=["accuracy", "critical_layers", "prefix_matching"])
    # What random weights say of an item is the same in all prompts that end with it: what is
    # independent are the 96 items, not the prompts.
    error = (0.25 * 0.75 / 96) ** 0.5
    for metric in ("calibrated", "permuted_score", "uncalibrated"):
        for prefix in ("true", "false"):
            found = by_state(result, prefix=prefix, metric=metric)
            assert np.abs(found - 0.25).max() < 3 * error
    assert result["critical_layers"]["state_index"].to_pylist() == [None]
    scores = np.array(result["prefix_matching"]["pm_label"].to_pylist())
    assert np.abs(scores).max() < 0.02
    # Even attention: seven labels among the 31 tokens that the query sees.
    on_labels = np.array(result["prefix_matching"]["on_labels"].to_pylist())
    np.testing.assert_allclose(on_labels, 7 / 31, atol=0.02)


def ablated(result, name, prefix="false", **wanted):
    """Rows of one ablation by data set."""
    return {
        (row["dataset"], row["n_heads"], row["seed"]): row
        for row in result["ablations"].to_pylist()
        if row["ablation"] == name
        and row["prefix"] == prefix
        and all(row[key] == value for key, value in wanted.items())
    }


def check_overthinking(result, datasets=("set0", "set1", "set2")):
    """True labels win until the critical state, shown ones from there on, in every data set."""
    for dataset in datasets:
        true, false = (by_state(result, dataset, prefix=prefix) for prefix in ("true", "false"))
        assert true[1:].min() > 0.9
        assert false[1] > 0.9
        assert false[-1] < 0.1
        assert by_state(result, dataset, metric="permuted_score")[-1] > 0.9
        assert by_state(result, dataset, prefix="true", metric="top_1")[-1] > 0.98
    critical = {row["dataset"]: row for row in result["critical_layers"].to_pylist()}
    assert all(critical[dataset]["state_index"] in (2, 3) for dataset in datasets)
    exits = {row["dataset"]: row for row in result["early_exit"].to_pylist()}
    assert all(exits[dataset]["delta_false"] > 0.8 for dataset in datasets)
    assert all(exits[dataset]["delta_true"] > -0.05 for dataset in datasets)


def best(result, dataset):
    """The heads of a data set, the highest score first."""
    rows = [
        row
        for row in result["prefix_matching"].to_pylist()
        if (row["dataset"], row["prefix"]) == (dataset, "false")
    ]
    return sorted(rows, key=lambda row: row["rank"])


@pytest.mark.slow
def test_false_induction_heads_of_model_a(tmp_path):
    """Label words of its own in each data set: so may be the heads (docs/analyses.md)."""
    store = captured("model_a", trained_model("model_a"), tmp_path / "run", n_prompt=250)
    result = run(store, n_heads=[1, 4], seeds=[0, 1])
    check_overthinking(result)
    for dataset in ("set0", "set1", "set2"):
        first = best(result, dataset)[0]
        assert first["pm_label"] > 0.7
        assert first["layer"] in (1, 2)
    chosen = ablated(result, "pm_heads")["set0", 4, None]
    assert chosen["gap_reduction"] > 0.7
    assert abs(chosen["delta_true"]) < 0.02
    for rows in (ablated(result, name, n_heads=1) for name in ("random_matched", "random_any")):
        assert max(row["gap_reduction"] for row in rows.values()) < 0.15


@pytest.mark.slow
def test_heads_serve_all_data_sets_that_share_label_words(tmp_path):
    """Chosen on one item set, they close the gap of the others, and true accuracy stays."""
    model = trained_model("model_a_shared")
    store = captured("model_a_shared", model, tmp_path / "run", n_prompt=250)
    result = run(store, n_heads=[2, 4], seeds=[0, 1, 2])
    check_overthinking(result)
    heads = {
        dataset: {(row["layer"], row["head"]) for row in best(result, dataset)[:4]}
        for dataset in ("set0", "set1", "set2")
    }
    assert heads["set1"] == heads["set2"] == heads["set0"]
    chosen = ablated(result, "pm_heads")
    for dataset in ("set1", "set2"):
        assert chosen[dataset, 4, None]["gap_reduction"] > 0.95
        assert abs(chosen[dataset, 4, None]["delta_true"]) < 0.02
    for row in ablated(result, "random_matched", n_heads=2).values():
        assert row["gap_reduction"] < 0.15
    copying = {
        (row["layer"], row["head"]): row["shown_logit_minus_mean"]
        for row in result["label_copying"].to_pylist()
        if row["dataset"] == "set0"
    }
    # Those that look at labels of the same class also add to what they look at, all others less.
    least = min(copying[head] for head in heads["set0"])
    assert least > max(value for head, value in copying.items() if head not in heads["set0"])


# The last state that lies do not reach, and the sets that share heads with set 0, on which they are
# chosen: of seed 3 set 1 has heads of its own, of seed 6 sets 1 and 2 (docs). These seeds learn
# with the kernels of AVX2, which `make test-slow` sets.
MODEL_B = {3: (2, ("set0", "set2")), 6: (2, ("set0",))}


@pytest.mark.slow
@pytest.mark.parametrize("seed", list(MODEL_B))
def test_late_heads_of_model_b(tmp_path, seed):
    """A class of two words takes more blocks to tell: the heads are in the last two blocks of 4.

    Training takes three to seven minutes on one core.
    """
    store = captured("model_b", trained_model("model_b", seed), tmp_path / "run", n_prompt=250)
    result = run(store, n_heads=[1, 3], seeds=[0, 1])
    critical = {row["dataset"]: row for row in result["critical_layers"].to_pylist()}
    chosen = ablated(result, "pm_heads")
    for dataset in ("set0", "set1", "set2"):
        assert critical[dataset]["state_index"] >= 3
        assert best(result, dataset)[0]["layer"] >= 2
        assert by_state(result, dataset, metric="permuted_score")[-1] > 0.7
    state, datasets = MODEL_B[seed]
    for dataset in datasets:
        assert by_state(result, dataset)[state] > by_state(result, dataset)[-1] + 0.5
        assert chosen[dataset, 3, None]["gap_reduction"] > 0.7
        assert chosen[dataset, 3, None]["delta_true"] > -0.05
    for (dataset, *_), row in ablated(result, "random_matched", n_heads=1).items():
        assert dataset not in datasets or row["gap_reduction"] < 0.15
