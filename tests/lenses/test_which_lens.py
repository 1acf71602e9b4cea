"""Which lens a study is of: trained, kept, named, published, or beside another."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow.compute as pc
import pytest
import tiny_models
import torch
from lenses.conftest import ASKED, run, texts

import residuum
from residuum.cli import run_command
from residuum.errors import ArgumentError, StoreError
from residuum.lenses import TunedLens, names, publish, published, save, stored
from residuum.lenses.examples import split, stored_examples
from residuum.replay.readout import readout
from residuum.report import sections


def test_a_lens_that_is_there_is_judged(store, result, tmp_path):
    """By name, or published: the same numbers, and nothing is trained."""
    again = run(store, lens="tuned")
    assert again["losses"].num_rows == 0
    assert again["quality"].equals(result["quality"])
    publish(stored(store, "tuned"), tmp_path / "lens", readout(store, analysis="test").w_u)
    theirs = run(store, lens=str(tmp_path / "lens"), experiments=["quality"])
    # It does not say what it was trained on: all examples are judged.
    assert theirs["quality"]["n_tokens"].to_pylist() == [store.n_row] * 8
    trained_on = {row["lens"]: row["trained_on"] for row in theirs["quality"].to_pylist()}
    assert trained_on == {"logit": False, "lens": None}
    assert theirs["transfer"].num_rows == 0
    save(store, published(tmp_path / "lens"), "theirs")
    kept = run(store, lens="theirs", experiments=["quality"])
    columns = ["layer", "kl_nats"]
    assert kept["quality"].select(columns).equals(theirs["quality"].select(columns))
    # A name stands for one training; another lens under the same name is another question.
    with pytest.raises(ArgumentError, match="trained otherwise \\(optimizer=None\\): give the new"):
        run(store, save_as="theirs")
    for more, says in (
        ({"steps": 1}, "steps=60"),
        ({"executor": "torch"}, "executor='rust'"),
        ({"precision": "bfloat16"}, "executor='rust'"),
    ):
        with pytest.raises(ArgumentError, match=f"trained otherwise \\({says}\\)"):
            run(store, **more)
    save(store, TunedLens.untrained(4, store.model["d_model"]), "theirs")
    changed = run(store, lens="theirs", experiments=["quality"])
    assert not changed["quality"].select(columns).equals(kept["quality"].select(columns))
    assert names(store) == ["theirs", "tuned"]
    assert not list((store.path / "lenses").glob(".*"))


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_the_logit_lens_has_its_name_for_itself(store, result, tmp_path):
    publish(stored(store, "tuned"), tmp_path / "logit")
    found = run(store, lens=str(tmp_path / "logit"), experiments=["quality"])["quality"]
    assert set(found["lens"].to_pylist()) == {"logit", "logit_tuned"}


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_a_lens_that_is_gone_is_trained_again(store, result):
    asked = {"save_as": "gone", "steps": 3, "experiments": ["quality"]}
    first = run(store, **asked)
    file = store.path / "lenses" / "gone.safetensors"
    file.unlink()
    again = run(store, **asked)
    assert file.exists()
    assert again["quality"].equals(first["quality"])
    assert again.provenance["time"] > first.provenance["time"]
    assert run(store, **asked).provenance == again.provenance
    file.unlink()


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_a_report_draws_what_is_kept(store, result, tmp_path, monkeypatch, capsys):
    """Its defaults would train, or are in the way of a lens that was trained otherwise."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets it
    run(store, lens="tuned", experiments=["ablation"], seed=5)
    drawn = []
    monkeypatch.setattr("residuum.report.build", lambda _card, results: drawn.extend(results) or "")
    command = ["report", str(store.path), "tuned_lens", "-o", str(tmp_path / "a.html")]
    assert run_command(command) == 0
    assert drawn[-1].parameters["seed"] == 5
    settings = [f"{name}={value}" for name, value in ASKED.items()]
    more = [part for setting in settings for part in ("--set", setting)]
    assert run_command([*command, *more]) == 0
    assert drawn[-1].tables == result.tables
    assert run_command(["report", str(store.path), "--set", "k=1", "-o", "a.html"]) == 2
    assert "name it, and no other" in capsys.readouterr().err


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_lenses_go_in_and_out_by_a_command(store, result, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    command, folder = ["lens", str(store.path)], tmp_path / "lens"
    assert run_command([*command, "tuned", "--to", str(folder)]) == 0
    assert run_command([*command, "copy", "--from", str(folder)]) == 0
    ours, theirs = stored(store, "tuned"), stored(store, "copy")
    np.testing.assert_array_equal(ours.translators[1].weight, theirs.translators[1].weight)
    file = store.path / "lenses" / "copy.safetensors"
    assert run_command([*command, "again", "--from", str(file)]) == 0
    assert names(store) == ["again", "copy", *names(store)[2:]]
    assert run_command([*command, "copy", "--from", str(folder)]) == 1
    assert "has a lens 'copy'" in capsys.readouterr().err
    assert run_command([*command, "copy"]) == 2
    file.unlink()
    file.with_name("again.safetensors").unlink()


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_a_name_is_the_stores_before_it_is_a_folders(store, result, tmp_path, monkeypatch):
    publish(TunedLens.untrained(4, store.model["d_model"]), tmp_path / "tuned")
    monkeypatch.chdir(tmp_path)
    rows = {}
    for lens in ("tuned", "./tuned"):
        found = run(store, lens=lens, experiments=["quality"])["quality"]
        rows[lens] = found.filter(pc.field("lens") == "tuned")["kl_nats"].to_pylist()
    assert (
        rows["tuned"]
        == result["quality"].filter(pc.field("lens") == "tuned")["kl_nats"].to_pylist()
    )
    assert rows["./tuned"] != rows["tuned"]


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_what_is_judged_on_its_own_training_says_so(store, result):
    asked = {"save_as": "every", "steps": 2, "held_out": 0.0, "experiments": ["quality"]}
    found = run(store, **asked)
    trained_on = {row["lens"]: row["trained_on"] for row in found["quality"].to_pylist()}
    assert trained_on == {"logit": False, "every": True}
    assert "it flatters the lens" in sections(found)[0].text
    (store.path / "lenses" / "every.safetensors").unlink()


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_a_lens_of_other_weights_is_warned_of(store, result):
    """Beside another it is meant: what a lens loses on a fine-tuned model."""
    own = stored(store, "tuned")
    other = replace(own, about={**own.about, "weights_hash": "0123", "model": "another"})
    with pytest.warns(UserWarning, match="trained on other weights .* its model is another"):
        save(store, other, "other")
    with pytest.warns(UserWarning, match="trained on other weights"):
        run(store, lens="other", experiments=["quality"])
    run(store, lens="tuned", beside="other", experiments=["quality"])
    (store.path / "lenses" / "other.safetensors").unlink()


def test_what_comes_later_is_judged_too(tmp_path):
    """A store that has grown: the examples that were trained on stay out."""
    tiny_models.save("gpt2", tmp_path / "model", torch.float32)
    capture = partial(
        residuum.capture, tmp_path / "model", sites=["resid_pre", "resid_final"], device="cpu"
    )
    store = capture(texts(30), tmp_path / "run")
    run(store, steps=2, experiments=["quality"])
    old = set(split(stored_examples(store), 0.2, 0)[0].rows().tolist())
    n_row = store.n_row
    grown = capture(texts(40), tmp_path / "run", append=True)
    result = run(grown, lens="tuned", experiments=["depth"])
    judged = set(result["depth"]["row"].to_pylist())
    assert judged == set(range(grown.n_row)) - old
    assert max(judged) >= n_row


def test_a_second_lens_is_judged_beside(store, result, tmp_path):
    save(store, TunedLens.untrained(4, store.model["d_model"]), "plain")
    file = store.path / "lenses" / "plain.safetensors"
    for beside in ("plain", str(file)):
        found = run(store, lens="tuned", beside=beside, experiments=["quality"])
        rows = {(row["lens"], row["layer"]): row for row in found["quality"].to_pylist()}
        for row in found["lens_transfer"].to_pylist():
            logit, tuned = (rows[name, row["layer"]]["kl_nats"] for name in ("logit", "tuned"))
            assert row["kl_nats"] == pytest.approx(logit)
            assert row["penalty_nats"] == pytest.approx(logit - tuned)
        assert found["lens_transfer"].num_rows == 3
    assert not result["lens_transfer"].num_rows
    with pytest.raises(StoreError, match="has no lens 'nothing'"):
        run(store, lens="tuned", beside="nothing")
    file.unlink()


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_a_checkpoint_of_another_model_is_refused_or_warned_of(store, result, tmp_path):
    d_model = store.model["d_model"]
    w_u = readout(store, analysis="test").w_u
    asked = {"lens": str(tmp_path), "experiments": ["quality"]}
    for n_state, wide in ((3, d_model), (7, d_model), (4, d_model + 1)):
        publish(TunedLens.untrained(n_state, wide), tmp_path, w_u)
        for which in (asked, asked | {"lens": "tuned", "beside": str(tmp_path)}):
            with pytest.raises(ArgumentError, match="the lens is of"):
                run(store, **which)
    publish(TunedLens.untrained(4, d_model), tmp_path, w_u + 1)
    with pytest.warns(UserWarning, match="made for another unembedding"):
        run(store, **asked)
    for gone in ("/nowhere/lens", "x/nope.safetensors"):
        with pytest.raises(ArgumentError, match="there is no folder and no file"):
            run(store, lens=gone)
