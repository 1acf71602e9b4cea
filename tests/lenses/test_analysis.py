"""`residuum run tuned_lens` on tiny models against the definitions in numpy and float64."""

import json
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import scipy.special
import scipy.stats
import tiny_models
import tokenizers
import torch
from lenses.conftest import SITES, run, texts
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import residuum
from residuum.analyses.rows import token_rows
from residuum.analyses.tuned_lens import study
from residuum.analyses.tuned_lens.depth import settles
from residuum.analyses.tuned_lens.quality import divergence
from residuum.analyses.tuned_lens.ranks import spearman
from residuum.analyses.tuned_lens.text_bytes import text_bytes
from residuum.errors import ArgumentError, InputError, ModelError, SelectionError, StoreError
from residuum.lenses import TunedLens, causal_basis, save, stored
from residuum.lenses.examples import split, stored_examples
from residuum.lenses.states import States
from residuum.replay import Add, Patch, ProjectOut
from residuum.replay.readout import readout
from residuum.report import StoreCard, build, sections

BYTES = {
    token: i for i, token in enumerate([*tokenizers.pre_tokenizers.ByteLevel.alphabet(), "<eos>"])
}


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
        # Repeated texts share their rows; the spaces between words are bytes too.
        examples = store.examples.to_table(columns=["first_row", "text"]).to_pylist()
        by_row = {one["first_row"]: one["text"] for one in examples}
        n_byte = sum(len(by_row[row].encode()) for row in rows.tolist() if row in by_row)
        assert row["trained_on"] is False
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
    apart = result["trajectory"].filter(pc.field("lens") == "logit").to_pylist()
    lens = stored(store, "tuned")
    for row in apart[:5]:
        at = np.array([row["row"]])
        p, q = (np.exp(believed(store, of, row["layer"], at)[0]) for of in (None, lens))
        m = (p + q) / 2
        js = ((p * np.log(p / m)).sum() + (q * np.log(q / m)).sum()) / 2
        assert row["js_to_lens"] == pytest.approx(js, rel=1e-3, abs=1e-6)
        assert row["tv_to_lens"] == pytest.approx(np.abs(p - q).sum() / 2, rel=1e-3, abs=1e-6)
    assert mine["js_to_lens"].null_count == mine.num_rows
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
        "Causal basis",
        "Alignment",
        "Blocks taken out",
        "Steps down the loss",
        "Training",
        "Left out",
    ]
    assert "say which are odd" in sections(result)[-1].html
    page = build(StoreCard.of(store.info()), [result])
    assert "Translators on other layers" in page
    again = run(store, lens="tuned", experiments=["quality"])
    assert [section.title for section in sections(again)] == titles[:1]
    # A view is of the newest result that was asked for its table.
    n_row = [
        store.sql(f"SELECT count(*) FROM tuned_lens_{name}").fetchall()[0][0]
        for name in ("trajectory", "losses", "fidelity", "skipped")
    ]
    want = ("trajectory", "losses", "fidelity", "skipped")
    assert n_row == [result[name].num_rows for name in want]
    assert set(again.provenance["unasked"]) >= {"depth", "difficulty", "losses", "skipped"}


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_bad_input(store):
    for more, says in (
        ({"experiments": ["speed"]}, "no part 'speed'; there are: quality"),
        ({"optimizer": "lion"}, "optimizer is sgd or adam"),
        ({"lens": "nothing"}, "has no lens 'nothing'"),
        ({"save_as": "a/b"}, "letters, digits"),
        ({"save_as": "logit"}, "what the logit lens is called"),
        ({"held_out": float("nan"), "save_as": "new"}, "held_out is a share"),
        ({"starts": 0}, "below 1"),
        ({"memory": "0", "save_as": "new"}, "memory '0': it is one byte at least"),
    ):
        with pytest.raises((ArgumentError, StoreError, InputError), match=says):
            run(store, **more)
    with pytest.raises(ArgumentError, match="what the logit lens is called"):
        save(store, TunedLens.untrained(4, store.model["d_model"]), "logit")


def test_bytes_are_those_of_the_texts(tmp_path):
    """Tokens that are bytes: parts of a character have no text of their own."""
    raw = tokenizers.Tokenizer(tokenizers.models.BPE(BYTES, []))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<eos>")
    tokenizer.save_pretrained(tmp_path / "model")
    config = GPT2Config(vocab_size=len(BYTES), n_positions=64, n_embd=10, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    inputs = [f"{i} é 星 naïve" for i in range(6)]
    store = residuum.capture(
        tmp_path / "model", inputs, tmp_path / "run", sites=SITES, device="cpu"
    )
    found = residuum.analyses.run("tuned_lens", store, steps=1, experiments=["quality"])
    for row in found["quality"].to_pylist():
        assert row["ce_bpb"] == pytest.approx(row["ce_nats"] / np.log(2))
        assert row["kl_bpb"] == pytest.approx(row["kl_nats"] / np.log(2))
    # Half of a character stands for all of it, once; a gap between tokens for nothing.
    tokens = token_rows(store)
    for rows, want in (([0, 2], 3), ([0, 3], 3), ([2, 3], 2), ([0, 1, 2, 3], 4)):
        assert text_bytes(store, tokens, np.array(rows)) == want


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_it_is_asked_by_its_name_alone(store):
    described = {one["name"]: one for one in map(dict, _described())}
    assert "arXiv 2303.08112" in described["tuned_lens"]["source"]
    assert "tuned_lens" not in [a.name for a in residuum.analyses.registry.answerable(store)]


def _described():
    found = [a.describe() for a in residuum.analyses.registry.registered().values()]
    return json.loads(json.dumps(found))


def test_blocks_of_rows_change_nothing(store, result, monkeypatch):
    """Chunks of one row, of seven, and all."""
    n_lens, d_model = 2 * 4 + 2, store.model["d_model"]
    for seed, n_row in enumerate((1, 7), start=1):
        monkeypatch.setattr(study, "BLOCK_BYTES", 4 * d_model * n_lens * n_row)
        again = run(store, lens="tuned", experiments=["quality"], examples=seed)["quality"]
        for name in ("kl_nats", "ce_nats", "entropy", "marginal_kl"):
            got, want = (table[name].to_numpy() for table in (again, result["quality"]))
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


def divergence_by_replay(store, examples, patches_of):
    """Mean KL over tokens of the model's output, by public patches of each example."""
    replay, total, n_token = residuum.replay(store), 0.0, 0
    for first, n in examples:
        rows = np.arange(first, first + n)
        (found,) = replay.run([patches_of(rows)])
        log_q = scipy.special.log_softmax(found["logits"].astype(np.float64), axis=-1)
        log_p = believed(store, None, 3, rows)
        total += (np.exp(log_p) * (log_p - log_q)).sum()
        n_token += n
    return total / n_token


def replayed_examples(store):
    held = split(stored_examples(store), 0.2, 0)[1]
    return list(zip(held.first.tolist(), held.n.tolist(), strict=True))


def test_directions_are_taken_out_of_the_model_too(store, result):
    states = States(store, analysis="test")
    examples = replayed_examples(store)
    rows = np.concatenate([np.arange(first, first + n) for first, n in examples])
    table = result["causal_basis"]
    assert table.num_rows == 3 * 16
    for row in table.to_pylist()[::7]:
        v = np.array(row["vector"])
        assert np.linalg.norm(v) == pytest.approx(1, abs=1e-5)
        mean = states.read(row["layer"], rows).mean(0)

        def without(rows, layer=row["layer"], v=v, mean=mean):
            site = {"site": "resid_pre", "rows": rows, "layers": layer}
            return [Patch(**site, value=ProjectOut(v)), Patch(**site, value=Add(v * (mean @ v)))]

        assert row["n_tokens"] == len(rows)
        want = divergence_by_replay(store, examples, without)
        assert row["model_kl"] == pytest.approx(want, rel=2e-3, abs=1e-5)
    for row in result["fidelity"].to_pylist():
        mine = [r for r in table.to_pylist() if r["layer"] == row["layer"]]
        pairs = [(r["energy"], r["model_kl"]) for r in mine]
        assert row["spearman"] == pytest.approx(scipy.stats.spearmanr(pairs).statistic)
        drawn = np.mean([r["model_kl"] for r in mine if r["kind"] == "random"])
        assert row["top_over_random"] == pytest.approx(mine[0]["model_kl"] / drawn)


def test_blocks_are_taken_out(store, result):
    states, examples = States(store, analysis="test"), replayed_examples(store)
    for row in result["ablation"].to_pylist():
        if row["method"] != "zero":
            continue

        def skipped(rows, block=row["block"]):
            return [Patch("resid_post", rows, block, value=states.read(block, rows))]

        want = divergence_by_replay(store, examples, skipped)
        assert row["kl_nats"] == pytest.approx(want, rel=2e-3, abs=1e-5)
    assert result["ablation"].num_rows == 3 * 3


def test_alignment_is_by_lens_and_weights(result):
    table = result["alignment"]
    assert table.num_rows == 3 * 16 * 2 * 2
    assert set(table["weights"].to_pylist()) == {"uniform", "marginal"}
    assert all(-1 <= value <= 1 for value in table["alignment"].to_pylist())
    # At the last layer that is replayed, the tuned lens moves much as the model does.
    last = table.filter((pc.field("layer") == 2) & (pc.field("lens") == "tuned"))
    assert pc.mean(last.filter(pc.field("kind") == "basis")["alignment"]).as_py() > 0.3


def test_alignment_is_the_cosine_of_both_responses(store, result):
    """Of the definition in float64, for the first direction of a layer; mean of examples' means."""
    of, states = readout(store, analysis="test"), States(store, analysis="test")
    lens, layer, examples = stored(store, "tuned"), 1, replayed_examples(store)
    rows = np.concatenate([np.arange(first, first + n) for first, n in examples])
    (basis,) = [
        row["vector"]
        for row in result["causal_basis"].to_pylist()
        if (row["layer"], row["kind"], row["rank"]) == (layer, "basis", 0)
    ]
    v, h = np.array(basis), states.read(layer, rows)
    mean, replay = h.mean(0), residuum.replay(store)
    said = np.exp(believed(store, None, 3, rows)).sum(0)
    weights = {"uniform": np.full(len(said), 1 / len(said)), "marginal": said / said.sum()}
    found = {name: [] for name in weights}
    for first, n in examples:
        mine = np.arange(first, first + n)
        site = {"site": "resid_pre", "rows": mine, "layers": layer}
        patches = [Patch(**site, value=ProjectOut(v)), Patch(**site, value=Add(v * (mean @ v)))]
        (after,) = replay.run([patches])
        model = scipy.special.log_softmax(after["logits"].astype(np.float64), -1)
        model -= believed(store, None, 3, mine)
        before = states.read(layer, mine)
        without = (before + (mean - before) @ np.outer(v, v)).astype(np.float32)
        own = log_softmax(of, of.norm.apply(lens.translated(layer, without)))
        own -= believed(store, lens, layer, mine)
        for name, weight in weights.items():
            a, b = (x - (x @ weight)[:, None] for x in (own, model))
            cosine = (a * b) @ weight / np.sqrt((a * a) @ weight * ((b * b) @ weight))
            found[name].append(cosine.mean())
    for row in result["alignment"].to_pylist():
        at = (row["layer"], row["lens"], row["kind"], row["rank"])
        if at == (layer, "tuned", "basis", 0):
            assert row["alignment"] == pytest.approx(np.mean(found[row["weights"]]), abs=2e-3)


def test_what_cannot_be_done_is_left_out(store, tmp_path):
    """Without the model's folder nothing is replayed; by its name a part is an error."""
    more = {"lens": "tuned", "model": str(tmp_path / "gone")}
    result = run(store, **more)
    skipped = {row["experiment"]: row["reason"] for row in result["skipped"].to_pylist()}
    assert set(skipped) == {"causal_basis", "alignment", "ablation", "gradient", "anomaly"}
    assert "there is no model folder" in skipped["ablation"]
    assert result["quality"].num_rows
    assert not result["fidelity"].num_rows
    with pytest.raises(ModelError, match="there is no model folder"):
        run(store, **more, experiments=["ablation"])


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_a_lens_of_shuffled_states_is_judged_so(store, result):
    asked = {"save_as": "shuffled", "shuffled": True, "experiments": ["quality"]}
    found = run(store, **asked)["quality"].to_pylist()
    rows = {(row["lens"], row["layer"]): row for row in found}
    tuned = {row["layer"]: row for row in result["quality"].to_pylist() if row["lens"] == "tuned"}
    for layer in range(3):
        assert rows["shuffled", layer]["kl_nats"] > tuned[layer]["kl_nats"]
        # States of other tokens are what both lenses get.
        assert rows["logit", layer]["kl_nats"] > rows["shuffled", layer]["kl_nats"]
    assert 0 <= rows["shuffled", 3]["kl_nats"] < 1e-6
    # Other parts would put a token's own states through it.
    left = run(store, **asked | {"experiments": None, "model": "/nowhere"})
    skipped = {row["experiment"]: row["reason"] for row in left["skipped"].to_pylist()}
    for part in ("trajectory", "transfer", "causal_basis", "alignment", "anomaly"):
        assert "trained on shuffled states" in skipped[part]
        assert not left[part].num_rows
    assert left["depth"].num_rows
    with pytest.raises(InputError, match="trained on shuffled states"):
        run(store, lens="shuffled", experiments=["transfer"])
    (store.path / "lenses" / "shuffled.safetensors").unlink()


@pytest.mark.parametrize("positions", ["last", "column:keep"])
def test_examples_that_are_stored_in_part_are_not_replayed(tmp_path, positions):
    """What their tokens look at is not there; what needs no replay is done."""
    tiny_models.save("gpt2", tmp_path / "model", torch.float32)
    inputs = [{"text": text, "keep": [len(text.split()) - 1]} for text in texts(30) if " " in text]
    store = residuum.capture(
        tmp_path / "model",
        pa.Table.from_pylist(inputs),
        tmp_path / "run",
        sites=["resid_pre", "resid_final"],
        device="cpu",
        positions=positions,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = run(store, steps=2)
    skipped = {row["experiment"]: row["reason"] for row in result["skipped"].to_pylist()}
    for part in ("causal_basis", "alignment", "ablation", "gradient"):
        assert "capture with positions='all'" in skipped[part]
    assert result["quality"].num_rows == 8
    assert result["quality"]["ce_nats"].null_count == 8  # no token that comes next is stored
    with pytest.raises(SelectionError, match="1 of the"):
        run(store, lens="tuned", experiments=["ablation"])


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_numbers_that_are_none_are_named(store, result, monkeypatch):
    read, row = States.read, int(judged(store)[0])

    def broken(self, state, rows):
        values = read(self, state, rows).copy()
        values[np.arange(self.store.n_row)[rows] == row] = np.nan if state == 1 else 0
        return values

    monkeypatch.setattr(States, "read", broken)
    for part in (
        "quality",
        "depth",
        "trajectory",
        "transfer",
        "causal_basis",
        "ablation",
        "gradient",
    ):
        with pytest.raises(StoreError, match=f"row {row} of state 1 in .* is not finite"):
            run(store, lens="tuned", experiments=[part], seed=1)
    with pytest.raises(StoreError, match=f"row {row} of state 1"):
        causal_basis(store, None, 1)
