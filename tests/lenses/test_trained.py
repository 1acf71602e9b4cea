"""The paper's claims on trained models, and the controls that must not show them (minutes)."""

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import binding_ids
import residuum
import tuned_lens_study as study
from demo import choose
from docstring_corpus import build_corpus
from residuum.prompts.demonstrations import build
from train_binding_models import binding_model
from train_causal_model import trained_model as causal_model
from train_overthinking_models import trained_model, world_of
from tuned_lens_study import ADAM, HELD_OUT, N_PAIR, N_PROMPT, SETTINGS, SGD, TOKENS, TOKENS_SMALL

pytestmark = pytest.mark.slow


def run(store, **params):
    return residuum.analyses.run("tuned_lens", store, **params)


def by_layer(result, lens, column="kl_nats"):
    rows = result["quality"].filter(pc.field("lens") == lens).to_pylist()
    return [row[column] for row in sorted(rows, key=lambda row: row["layer"])]


def check_quality(result, lens):
    """Tuned below logit on every layer, falling with depth, nothing at the end."""
    tuned, logit = by_layer(result, lens), by_layer(result, "logit")
    assert all(ours < theirs for ours, theirs in zip(tuned[:-1], logit[:-1], strict=True))
    assert tuned == sorted(tuned, reverse=True)
    assert tuned[-1] == pytest.approx(0, abs=1e-6)


def entering(result, loss):
    """What blocks add, by the gradient at the state that enters."""
    rows = result["gradient"].filter(pc.field("loss") == loss).to_pylist()
    return [row for row in rows if row["layer"] == row["block"]]


@pytest.fixture(scope="module")
def texts():
    return build_corpus()


@pytest.fixture(scope="module")
def causal(texts, tmp_path_factory):
    """The demo's model."""
    chosen = [row["text"] for row in choose(texts)]
    return study.captured(causal_model(texts), chosen, tmp_path_factory.mktemp("causal") / "s")


def test_the_lens_of_a_language_model(causal):
    """Adam, with causal directions; SGD as the paper has it."""
    result = run(causal, **ADAM, tokens_per_step=TOKENS, basis_examples=64)
    check_quality(result, "adam")
    biases = [by_layer(result, lens, "marginal_kl")[:-1] for lens in ("adam", "logit")]
    assert all(ours < theirs / 10 for ours, theirs in zip(*biases, strict=True))
    for row in result["fidelity"].to_pylist():
        assert row["top_over_random"] > 30, row  # 64, 74, 79, 97
        assert row["spearman"] > 0.8, row  # 0.90 to 0.96
    aligned = result["alignment"].filter(pc.field("kind") == "basis").to_pylist()
    tuned = [r for r in aligned if (r["lens"], r["weights"]) == ("adam", "marginal")]
    for layer in range(4):
        mine = [row["alignment"] for row in tuned if row["layer"] == layer]
        assert sum(mine) / len(mine) > 0.3  # 0.44 to 0.78
    # Without any one block but the first it says nearly the same.
    blocks = {
        r["block"]: r["kl_nats"] for r in result["ablation"].to_pylist() if r["method"] == "mean"
    }
    assert blocks[0] > 10 * max(blocks[1], blocks[2], blocks[3])
    for row in entering(result, "logit"):
        assert row["example_negative_share"] >= 0.95, row  # 0.98 to 1
        assert row["negative_share"] > 0.7, row  # 0.94, 0.79, 0.81, 0.81
    # By the model's own loss it is not so.
    assert all(abs(row["cosine"]) < 0.02 for row in entering(result, "model"))
    check_quality(run(causal, **SGD, tokens_per_step=TOKENS, experiments=["quality"]), "sgd")


def test_shuffled_states_tell_nothing(causal):
    """It comes down to what the model says on the whole, and not below."""
    asked = {**ADAM, "save_as": "shuffled", "shuffled": True, "tokens_per_step": TOKENS}
    result = run(causal, **asked, experiments=["quality"])
    (constant,) = set(by_layer(result, "shuffled", "constant_kl_nats"))
    found = by_layer(result, "shuffled")[:-1]
    assert min(found) > 0.98 * constant
    assert max(found[1:]) < 1.3 * constant


def test_a_model_that_was_not_trained_has_nothing_to_refine(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    chosen = [row["text"] for row in choose(texts)][:300]
    store = study.captured(study.started(causal_model(texts)), chosen, tmp_path / "start.residuum")
    result = run(
        store, **ADAM, tokens_per_step=TOKENS, steps=50, experiments=["quality", "gradient"]
    )
    # Nor is there much to say: all tokens are about as likely, whatever came before.
    assert by_layer(result, "logit", "constant_kl_nats")[0] < 0.5
    # Nor do its blocks step down.
    for row in entering(result, "logit"):
        assert 0.2 < row["example_negative_share"] < 0.8, row
        assert abs(row["cosine"]) < 0.02, row


def small_inputs(name, tmp_path):
    """Prompts of a small model's world."""
    if name == "id_par_0":
        model = binding_model(name)
        made = binding_ids.world_prompts(name, binding_ids.tokeniser(model), n_train=60, n_test=60)
        return model, binding_ids.written(made, tmp_path / "prompts.jsonl")
    world = world_of(name)
    rows = build(
        world.datasets[0], n_prompt=N_PAIR, n_demo=world.n_demo, settings=["permuted"], seed=5
    )
    return trained_model(name), pa.Table.from_pylist(rows)


@pytest.mark.parametrize("name", ["curve", "curve_truthful", "model_a_shared", "id_par_0"])
def test_the_lens_of_the_small_models(name, tmp_path):
    model, inputs = small_inputs(name, tmp_path)
    store = study.captured(model, inputs, tmp_path / "run")
    asked = {**ADAM, "tokens_per_step": TOKENS_SMALL, "held_out": HELD_OUT}
    check_quality(run(store, **asked, experiments=["quality"]), "adam")


def test_wrong_demonstrations_give_themselves_away(tmp_path):
    """By a lens of other prompts; clean prompts are told from clean ones by chance."""
    lens = study.captured(
        trained_model("curve"), study.prompts(N_PAIR, ["permuted"], seed=5), tmp_path / "lens"
    )
    run(lens, **ADAM, tokens_per_step=TOKENS_SMALL, held_out=HELD_OUT, experiments=["quality"])
    odd = study.captured(
        trained_model("curve"), study.prompts(N_PROMPT, SETTINGS, seed=1), tmp_path / "odd"
    )
    file = lens.path / "lenses" / "adam.safetensors"
    found = run(odd, lens=str(file), experiments=["anomaly"])["anomaly"].to_pylist()
    assert len(found) == 3 * 5 * 2
    for row in found:
        if row["against"] == "clean":
            assert row["auroc"] == pytest.approx(0.5, abs=0.06), row
        elif row["detector"] == "lof" and row["task"].endswith(" permuted"):
            assert row["auroc"] >= 0.95, row
        else:
            assert row["auroc"] >= 0.9, row


def test_the_lens_of_the_past(tmp_path):
    """A lens of the model before it was trained further, on what it became: further off."""
    settings = {**ADAM, "tokens_per_step": TOKENS_SMALL, "held_out": HELD_OUT}
    of_lens = study.prompts(N_PAIR, ["permuted"], seed=5)
    base, now = (
        study.captured(trained_model(name), of_lens, tmp_path / name)
        for name in ("curve_truthful", "curve")
    )
    run(base, **settings, experiments=["quality"])
    theirs = str(base.path / "lenses" / "adam.safetensors")
    result = run(now, **settings, beside=theirs, experiments=["quality"])
    rows = result["lens_transfer"].to_pylist()
    assert [row["layer"] for row in rows] == [0, 1, 2, 3]
    assert all(row["penalty_nats"] > 0 for row in rows)
    assert {row["lens"] for row in rows} == {"adam_beside"}
