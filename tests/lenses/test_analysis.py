"""`residuum run tuned_lens` on tiny models against the definitions in numpy and float64."""

import json
from functools import partial

import numpy as np
import pyarrow.compute as pc
import pytest
import scipy.stats
import tiny_models
import torch
from lenses.conftest import texts

import residuum
from residuum.analyses.tuned_lens.depth import settles, spearman
from residuum.analyses.tuned_lens.quality import divergence
from residuum.errors import ArgumentError, StoreError
from residuum.lenses import TunedLens, names, publish, published, save, stored
from residuum.lenses.examples import split, stored_examples
from residuum.lenses.states import States
from residuum.replay.readout import readout
from residuum.report import StoreCard, build, sections

ASKED = {"optimizer": "adam", "rate_scale": 5.0, "steps": 60}


def run(store, **more):
    return residuum.analyses.run("tuned_lens", store, **{**ASKED, **more})


@pytest.fixture(scope="module")
def result(store):
    yield run(store)
    for file in (store.path / "lenses").glob("*"):
        file.unlink()


def log_softmax(of, normed):
    """Float64."""
    logits = of.unembed(normed.astype(np.float64))
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def believed(store, lens, layer, rows):
    """log q of a lens, float64 `[row, token]`."""
    of, states = readout(store, analysis="test"), States(store, analysis="test")
    h = states.read(layer, rows)
    return log_softmax(of, of.norm.apply(h if lens is None else lens.translated(layer, h)))


def judged(store):
    return split(stored_examples(store), 0.2, 0)[1].rows()


def test_quality_is_what_it_says(store, result):
    rows, lens = judged(store), stored(store, "tuned")
    targets = store.target.read(rows=rows)
    has = targets >= 0
    log_p = believed(store, None, 3, rows)
    assert result["quality"].num_rows == 8
    for row in result["quality"].to_pylist():
        log_q = believed(store, None if row["lens"] == "logit" else lens, row["layer"], rows)
        kl = (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()
        ce = -log_q[np.flatnonzero(has), targets[has]].mean()
        bias = divergence(np.exp(log_p).sum(0), np.exp(log_q).sum(0))
        got = [row[name] for name in ("kl_nats", "ce_nats", "entropy", "marginal_kl")]
        entropy = -(np.exp(log_q) * log_q).sum(-1).mean()
        np.testing.assert_allclose(got, [kl, ce, entropy, bias], rtol=2e-4, atol=1e-5)
        agree = (log_q.argmax(-1) == log_p.argmax(-1)).mean()
        assert row["top1_is_final"] == pytest.approx(agree)
        assert (row["n_tokens"], row["n_targets"]) == (len(rows), has.sum())
        assert row["block"] == (row["layer"] - 1 if row["layer"] else None)
        # Repeated texts share their rows.
        tokens = store.tokens.to_table(columns=["row", "text"]).to_pylist()
        texts = {one["row"]: one["text"] for one in tokens}
        n_byte = sum(len(texts[row].encode()) for row in rows.tolist())
        assert row["ce_bpb"] == pytest.approx(row["ce_nats"] * len(rows) / n_byte / np.log(2))


def test_the_trajectory_is_that_of_sql(store, result):
    mine = result["trajectory"].filter(pc.field("lens") == "tuned")
    mine = mine.filter(pc.field("layer") > 0)
    theirs = {
        (row["row"], row["layer"] + 1): row
        for row in store.sql("FROM tuned_lens(k := 1)").to_arrow_table().to_pylist()
    }
    assert mine.num_rows
    for row in mine.to_pylist():
        want = theirs[row["row"], row["layer"]]
        assert row["top1_id"] == want["token_id"]
        assert row["target_rank"] == want["target_rank"]
        assert row["kl_to_final"] == pytest.approx(want["kl_to_final"], rel=1e-4, abs=1e-6)
    assert set(mine["seq_id"].to_pylist()) <= set(store.examples.to_table()["example"].to_pylist())


def test_transfer_has_its_own_loss_on_the_diagonal(store, result):
    rows, lens = judged(store), stored(store, "tuned")
    log_p = believed(store, None, 3, rows)
    of, states = readout(store, analysis="test"), States(store, analysis="test")
    quality = {
        row["layer"]: row["kl_nats"]
        for row in result["quality"].to_pylist()
        if row["lens"] == "tuned"
    }
    for row in result["transfer"].to_pylist():
        h = states.read(row["state_layer"], rows)
        log_q = log_softmax(of, of.norm.apply(lens.translated(row["translator_layer"], h)))
        kl = (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()
        assert row["kl_nats"] == pytest.approx(kl, rel=2e-4, abs=1e-5)
        if row["state_layer"] == row["translator_layer"]:
            assert row["kl_penalty"] == 0
            assert row["kl_nats"] == pytest.approx(quality[row["state_layer"]], rel=1e-5)


def test_covariances_are_compared(store, result):
    states = States(store, analysis="test")
    found = {
        layer: np.cov(states.read(layer, slice(None)).astype(np.float64).T, bias=True)
        for layer in range(4)
    }
    for row in result["covariance"].to_pylist():
        a, b = found[row["layer"]], found[row["other_layer"]]
        want = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
        assert row["cosine"] == pytest.approx(want, rel=1e-5)


def test_depth_is_the_first_layer_that_stays(store, result):
    rows, lens = judged(store), stored(store, "tuned")
    for name, of in (("logit", None), ("tuned", lens)):
        tops = np.stack([believed(store, of, layer, rows).argmax(-1) for layer in range(4)])
        mine = result["depth"].filter(pc.field("lens") == name)
        for top, depth in zip(tops.T, mine["prediction_depth"].to_pylist(), strict=True):
            stays = [layer for layer in range(4) if (top[layer:] == top[-1]).all()]
            assert depth == stays[0]
    for row in result["difficulty"].to_pylist():
        mine = result["depth"].filter(pc.field("lens") == row["lens"])
        mine = mine.filter(pc.is_valid(mine["target_logprob"]))
        want = scipy.stats.spearmanr(
            mine["prediction_depth"].to_numpy(), -mine["target_logprob"].to_numpy()
        ).statistic
        assert row["spearman"] == pytest.approx(want)
        assert row["lo"] <= row["spearman"] <= row["hi"]


def test_a_model_that_never_changes_its_mind_has_depth_zero():
    assert settles(np.array([[1, 2], [1, 2], [1, 2]], np.uint32), [0, 1, 2]).tolist() == [0, 0]
    assert settles(np.array([[1, 3], [2, 2], [1, 2]], np.uint32), [0, 2, 3]).tolist() == [3, 2]
    assert spearman(np.array([1, 1, 1]), np.array([1, 2, 3])) is None


def test_the_report_shows_every_part(store, result):
    titles = [section.title for section in sections(result)]
    assert titles == [
        "Tuned lens and logit lens",
        "What the model believes at each layer",
        "Layer transfer",
        "Prediction depth",
        "Training",
    ]
    page = build(StoreCard.of(store.info()), [result])
    assert "Translators on other layers" in page
    again = run(store, lens="tuned", experiments=["quality"])
    assert [section.title for section in sections(again)] == titles[:1]


def test_a_lens_that_is_there_is_judged(store, result, tmp_path):
    """By name, or published: the same numbers, and nothing is trained."""
    again = run(store, lens="tuned")
    assert again["losses"].num_rows == 0
    assert again["quality"].equals(result["quality"])
    publish(stored(store, "tuned"), tmp_path / "lens", readout(store, analysis="test").w_u)
    theirs = run(store, lens=str(tmp_path / "lens"), experiments=["quality"])
    # It does not say what it was trained on: all examples are judged.
    assert theirs["quality"]["n_tokens"].to_pylist() == [store.n_row] * 8
    assert theirs["transfer"].num_rows == 0
    save(store, published(tmp_path / "lens"), "theirs")
    kept = run(store, lens="theirs", experiments=["quality"])
    columns = ["layer", "kl_nats"]
    assert kept["quality"].select(columns).equals(theirs["quality"].select(columns))
    # A name stands for one training; another lens under the same name is another question.
    with pytest.raises(ArgumentError, match="trained otherwise \\(optimizer=None\\): give the new"):
        run(store, save_as="theirs")
    with pytest.raises(ArgumentError, match="trained otherwise \\(steps=60\\)"):
        run(store, steps=1)
    save(store, TunedLens.untrained(4, store.model["d_model"]), "theirs")
    changed = run(store, lens="theirs", experiments=["quality"])
    assert not changed["quality"].select(columns).equals(kept["quality"].select(columns))
    assert names(store) == ["theirs", "tuned"]
    assert not list((store.path / "lenses").glob(".*"))


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_bad_input(store):
    for more, says in (
        ({"experiments": ["speed"]}, "no part 'speed'; there are: quality"),
        ({"optimizer": "lion"}, "optimizer is sgd or adam"),
        ({"lens": "nothing"}, "has no lens 'nothing'"),
        ({"save_as": "a/b"}, "letters, digits"),
        ({"save_as": "logit"}, "what the logit lens is called"),
    ):
        with pytest.raises((ArgumentError, StoreError), match=says):
            run(store, **more)


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_it_is_asked_by_its_name_alone(store):
    described = {one["name"]: one for one in map(dict, _described())}
    assert "arXiv 2303.08112" in described["tuned_lens"]["source"]
    assert "tuned_lens" not in [a.name for a in residuum.analyses.registry.answerable(store)]


def _described():
    found = [a.describe() for a in residuum.analyses.registry.registered().values()]
    return json.loads(json.dumps(found))


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
