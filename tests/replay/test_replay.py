"""`residuum.replay(store)` from end to end: patches of every kind, reads, sweeps, refusals."""

import numpy as np
import pyarrow.compute as pc
import pytest
import tiny_models
import torch
from replay.conftest import TEXTS
from replay.oracle import Captured

import residuum
from residuum.errors import ArgumentError, ModelError, SelectionError, SiteError
from residuum.replay import (
    Add,
    Donor,
    Freeze,
    Mean,
    Mix,
    Patch,
    ProjectOut,
    Resample,
    RotateKeys,
    Scale,
    Set,
    Zero,
    accuracy,
    expression,
    kl,
    log_prob,
    logit_diff,
    prob,
    rank,
)
from residuum.replay.edit import Edit
from residuum.replay.engine import Replay
from residuum.replay.metrics import Beside
from residuum.sites import Site

CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def logits(oracle: Captured, example: int, edits: list[Edit]) -> np.ndarray:
    """Of a full pass of the model with hooks."""
    return oracle.with_edits(example, edits, [(Site.LOGITS, None)])[Site.LOGITS, None]


def stored(oracle: Captured, site: str, layer: int, example: int) -> np.ndarray:
    return oracle.at(Site(site), layer, example)


def at(layer: int, tokens: list[int], site: str = "z", **more) -> Edit:
    heads = more.pop("heads", None)
    heads = None if heads is None else np.array(heads)
    return Edit(Site(site), layer, np.array(tokens), heads, **more)


def test_the_first_rows_are_where_they_should_be(opened):
    store, replay, oracle = opened
    assert [replay.resolver.example_of(i).first_row for i in range(4)] == [0, 5, 10, 15]
    np.testing.assert_allclose(
        store["z"].read(slice(5, 10), 1), stored(oracle, "z", 1, 1), rtol=1e-4, atol=1e-5
    )


def mean_z(oracle):
    """Of head 1 in layer 1 over the store's rows, for two rows."""
    mean = np.concatenate([stored(oracle, "z", 1, i) for i in range(4)]).mean(0)[1]
    return np.broadcast_to(mean, (2, 1, oracle.of.d_head))


CASES = {
    "donor": (Donor([5, 7]), lambda o: {"shift": stored(o, "z", 1, 1)[[0, 2]][:, [1]]}),
    "one for all": (Donor(6), lambda o: {"shift": stored(o, "z", 1, 1)[[1, 1]][:, [1]]}),
    "zero": (Zero(), lambda _: {}),
    "scale": (Scale(-2.0), lambda _: {"scale": -2.0}),
    "add": (Add(0.5), lambda o: {"scale": 1.0, "shift": np.full((2, 1, o.of.d_head), 0.5)}),
    "mix": (
        Mix(Donor([5, 7]), 0.25),
        lambda o: {"scale": 0.75, "shift": 0.25 * stored(o, "z", 1, 1)[[0, 2]][:, [1]]},
    ),
    "mean": (Mean(range(17)), lambda o: {"shift": mean_z(o)}),
    "mix with the mean": (
        Mix(Mean(), 0.25),
        lambda o: {"scale": 0.75, "shift": 0.25 * mean_z(o)},
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_kinds_are_what_they_say(opened, case):
    _, replay, oracle = opened
    value, expected = CASES[case]
    patch = Patch("z", rows=[0, 2], layers=1, heads=[1], value=value)
    got = replay.run([patch])[0]["logits"]
    more = expected(oracle)
    want = logits(oracle, 0, [at(1, [0, 2], heads=[1], **more)])
    np.testing.assert_allclose(got, want, **CLOSE)


def test_heads_and_layers_come_in_any_order(opened):
    _, replay, oracle = opened
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 2, 2, replay.of.d_head)).astype(np.float32)
    patch = Patch("z", rows=[3, 1], layers=np.array([2, 0]), heads=[4, 1], value=values)
    edits = [
        at(layer, [1, 3], heads=[1, 4], shift=values[::-1, place, ::-1])
        for place, layer in ((1, 0), (0, 2))
    ]
    np.testing.assert_allclose(replay.run([patch])[0]["logits"], logits(oracle, 0, edits), **CLOSE)


def test_directions_are_taken_out(opened):
    _, replay, oracle = opened
    d = replay.of.d_model
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, d))
    patch = Patch("resid_pre", [1, 4], layers=1, value=ProjectOut([one, two, one + two]))
    out = np.linalg.qr(np.stack([one, two]).T)[0].T
    edit = at(1, [1, 4], "resid_pre", scale=1.0, off=out.astype(np.float32))
    np.testing.assert_allclose(replay.run([patch])[0]["logits"], logits(oracle, 0, [edit]), **CLOSE)


def test_resampled_rows_are_never_their_own(opened):
    _, replay, _ = opened
    for seed in range(20):
        patch = Patch("z", [5, 6, 7], layers=0, value=Resample([5, 6, 7], seed))
        _, (edit,) = replay.resolver.edits(patch)
        own = replay.source.read(Site.Z, 0, np.array([5, 6, 7]))
        assert not (np.asarray(edit.shift) == own).all((1, 2)).any()


def test_several_patches_at_once_and_reads(opened):
    _, replay, oracle = opened
    donor = stored(oracle, "resid_pre", 1, 1)
    together = [
        Patch("resid_pre", [10, 12], layers=1, value=Donor([5, 7])),
        Patch("mlp_out", [13], layers=2, value=Zero()),
    ]
    edits = [at(1, [0, 2], "resid_pre", shift=donor[[0, 2]]), at(2, [3], "mlp_out")]
    reads = [("resid_post", 2), ("z", 2), ("attn_out", 1)]
    (got,) = replay.run([together], read=["logits", *reads])
    want = oracle.with_edits(2, edits, [(Site(s), n) for s, n in reads])
    for site, layer in reads:
        np.testing.assert_allclose(got[site, layer], want[Site(site), layer], **CLOSE)
    np.testing.assert_allclose(got["logits"], logits(oracle, 2, edits), **CLOSE)
    (last,) = replay.run([together], tokens=[-1])
    np.testing.assert_allclose(last["logits"][0], got["logits"][-1], rtol=1e-5, atol=1e-6)


def test_frozen_is_as_stored_whatever_comes_before(opened):
    _, replay, oracle = opened
    put = Patch("resid_pre", [0], layers=0, value=Donor([5]))
    frozen = Patch("attn_out", range(5), value=Freeze())
    donor = stored(oracle, "resid_pre", 0, 1)
    edits = [at(0, [0], "resid_pre", shift=donor[[0]])]
    edits += [
        at(layer, list(range(5)), "attn_out", shift=stored(oracle, "attn_out", layer, 0))
        for layer in range(3)
    ]
    (got,) = replay.run([[put, frozen]])
    np.testing.assert_allclose(got["logits"], logits(oracle, 0, edits), **CLOSE)
    everything = Patch("resid_post", range(5), layers=0, value=Freeze())
    (same,) = replay.run([[put, everything]])
    np.testing.assert_allclose(same["logits"], logits(oracle, 0, []), **CLOSE)


def test_what_is_there_already_is_not_computed(opened, monkeypatch):
    _, replay, oracle = opened
    monkeypatch.setattr(replay.executor.kit, "block", None)  # computing would fail
    got = replay.run(
        [
            Patch("resid_pre", [0], layers=1, value=Donor([0])),
            Patch("z", [16], layers=2, value=Donor([16])),
        ]
    )
    np.testing.assert_allclose(got[0]["logits"], logits(oracle, 0, []), **CLOSE)
    np.testing.assert_allclose(got[1]["logits"], logits(oracle, 3, []), **CLOSE)


@pytest.mark.parametrize(
    ("over", "site"),
    [
        (("layer", "token"), "resid_pre"),
        (("layer", "token"), "resid_post"),
        (("layer", "head"), "z"),
        (("layer", "head"), "v"),
        (("layer",), "mlp_out"),
        (("layer", "token", "head"), "q"),
    ],
)
def test_a_sweep_is_a_pass_for_each_cell(opened, over, site):
    _, replay, oracle = opened
    table = replay.sweep(site, clean=0, corrupted=2, over=over, metric=logit_diff(4, 9))
    for row in table.to_pylist():
        tokens = [row["token"]] if "token" in over else list(range(5))
        heads = [row["head"]] if "head" in over else None
        donor = stored(oracle, site, row["layer"], 0)[tokens]
        donor = donor if heads is None else donor[:, heads]
        want = logits(oracle, 2, [at(row["layer"], tokens, site, heads=heads, shift=donor)])[-1]
        np.testing.assert_allclose(row["logit_diff"], want[4] - want[9], rtol=1e-4, atol=5e-5)
    clean, corrupted = logits(oracle, 0, [])[-1], logits(oracle, 2, [])[-1]
    assert row["logit_diff_clean"] == pytest.approx(clean[4] - clean[9], abs=5e-5)
    assert row["logit_diff_corrupted"] == pytest.approx(corrupted[4] - corrupted[9], abs=5e-5)


def test_many_pairs_are_as_one_by_one(opened):
    _, replay, _ = opened
    settings = {"over": ("layer", "head"), "metric": logit_diff(4, 9)}
    both = replay.sweep("z", clean=[0, 1], corrupted=[2, 0], **settings)
    one = replay.sweep("z", clean=0, corrupted=2, **settings)
    two = replay.sweep("z", clean=1, corrupted=0, **settings)
    whole = np.concatenate([one["logit_diff"].to_numpy(), two["logit_diff"].to_numpy()])
    np.testing.assert_allclose(both["logit_diff"].to_numpy(), whole, rtol=1e-4, atol=1e-5)
    assert both["clean"].to_pylist() == one["clean"].to_pylist() + two["clean"].to_pylist()


def test_pairs_with_answers_of_their_own(opened):
    _, replay, _ = opened
    pairs = {"clean": [0, 1], "corrupted": [2, 0]}
    metrics = [logit_diff(4, 9), logit_diff(3, 7)]
    both = replay.sweep("resid_pre", **pairs, metric=metrics)["logit_diff"].to_numpy()
    for number, metric in enumerate(metrics):
        alone = replay.sweep("resid_pre", **pairs, metric=metric)["logit_diff"].to_numpy()
        mine = slice(0, len(both) // 2) if number == 0 else slice(len(both) // 2, None)
        np.testing.assert_allclose(both[mine], alone[mine], rtol=1e-5, atol=1e-6)
    sent = replay.paths(**pairs, metric=metrics)
    alone = replay.paths(clean=1, corrupted=0, metric=metrics[1])
    np.testing.assert_allclose(
        sent.filter(pc.field("clean") == 1)["logit_diff"], alone["logit_diff"], atol=1e-5
    )
    by_layer = replay.sweep("mlp_out", 0, 2, "layer", metric=metrics[0])
    assert by_layer.equals(replay.sweep("mlp_out", 0, 2, ["layer"], metric=metrics[0]))
    with pytest.raises(ArgumentError, match=r"not over \['layer', 'layer'\]"):
        replay.sweep("z", 0, 2, ("layer", "layer"), metric=metrics[0])
    with pytest.raises(ArgumentError, match="3 metrics for 2 pairs: give one, or one for each"):
        replay.sweep("z", **pairs, metric=[*metrics, metrics[0]])
    with pytest.raises(ArgumentError, match="have one name, not logit_diff, prob"):
        replay.sweep("z", **pairs, metric=[metrics[0], prob(3)])


@pytest.mark.parametrize(
    ("value", "edit"),
    [(None, {}), (Scale(0.5), {"scale": 0.5}), (Add(2.0), {"scale": 1.0, "shift": 2.0})],
)
def test_ablations_are_a_pass_for_each_cell(opened, value, edit):
    _, replay, oracle = opened
    table = replay.ablate("z", [2, 0], value=value, metric=logit_diff(4, 9))
    assert table.column_names == ["example", "layer", "head", "logit_diff", "logit_diff_unpatched"]
    shape = stored(oracle, "z", 0, 0)[:, [0]].shape
    for row in table.to_pylist():
        more = dict(edit)
        if "shift" in more:
            more["shift"] = np.full(shape, more["shift"])
        put = at(row["layer"], list(range(5)), heads=[row["head"]], **more)
        want = logits(oracle, row["example"], [put])[-1]
        np.testing.assert_allclose(row["logit_diff"], want[4] - want[9], rtol=1e-4, atol=5e-5)
        plain = logits(oracle, row["example"], [])[-1]
        assert row["logit_diff_unpatched"] == pytest.approx(plain[4] - plain[9], abs=5e-5)


def test_ablations_of_tokens_by_their_mean(opened):
    _, replay, _ = opened
    over = ("layer", "token")
    replay.resolver.means.clear()
    table = replay.ablate("mlp_out", 2, over, value=Mean(), tokens=[1, 3], metric=logit_diff(4, 9))
    place = replay.resolver.example_of(2).first_row
    for row in table.to_pylist():
        patch = Patch("mlp_out", [place + row["token"]], row["layer"], value=Mean())
        (got,) = replay.run([patch], tokens=[-1])
        want = got["logits"][0, 4] - got["logits"][0, 9]
        assert row["logit_diff"] == pytest.approx(want, abs=2e-5)
    assert set(table["token"].to_pylist()) == {1, 3}
    # One mean for each layer, whatever the number of cells.
    assert len(replay.resolver.means) == replay.of.n_layer
    if replay.of.rotary is not None:
        with pytest.raises(ArgumentError, match="at all heads together"):
            replay.ablate("k", 2, value=RotateKeys(1), metric=logit_diff(4, 9))


def test_a_small_budget_changes_nothing(opened):
    store, replay, _ = opened
    settings = {"clean": 0, "corrupted": 2, "metric": logit_diff(4, 9)}
    want = replay.sweep("resid_pre", **settings)["logit_diff"].to_numpy()
    small = Replay(store, replay.executor, memory_bytes=10 * replay.row_bytes(5))
    got = small.sweep("resid_pre", **settings)
    np.testing.assert_allclose(got["logit_diff"].to_numpy(), want, rtol=1e-4, atol=1e-5)
    tiny = Replay(store, replay.executor, memory_bytes=4 * replay.row_bytes(5))
    with pytest.raises(ArgumentError, match="too little for one replay of 5 tokens"):
        tiny.sweep("resid_pre", **settings)


def test_metrics(opened):
    _, replay, oracle = opened
    x = logits(oracle, 2, [at(1, [0, 1, 2, 3, 4], "mlp_out")])[-1].astype(np.float64)
    clean = logits(oracle, 2, [])[-1].astype(np.float64)
    p, q = (np.exp(v) / np.exp(v).sum() for v in (x, clean))
    wanted = {
        log_prob(3): np.log(p[3]),
        prob(3): p[3],
        kl(): (q * np.log(q / p)).sum(),
        rank(3): (x > x[3]).sum(),
        accuracy(int(x[[3, 5, 7]].argmax()) * 2 + 3, [3, 5, 7]): 1.0,
        expression(pc.field("logit_3") - pc.field("unpatched_3"), [3], "moved"): x[3] - clean[3],
    }
    patch = Patch("mlp_out", range(10, 15), layers=1)
    (stream,) = replay.streams([replay._run(patch, [replay._wanted("logits")], [-1])])
    for metric, want in wanted.items():
        base = replay.logits(replay.final(np.array([14])), metric)
        got = metric.of(replay.logits(stream, metric), Beside(base, base))
        np.testing.assert_allclose(got, [want], rtol=1e-3, atol=1e-4, err_msg=metric.name)


def test_patterns_of_other_rows(tmp_path):
    tiny_models.save("gpt2", tmp_path / "model", torch.float32)
    sites = ["resid_pre", "resid_final", "pattern"]
    store = residuum.capture(tmp_path / "model", TEXTS, tmp_path / "run", sites=sites, device="cpu")
    replay = residuum.replay(store)
    ids = [[int(word[1:]) for word in text.split()] for text in TEXTS]
    oracle = Captured("gpt2", torch.float32, ids)
    (got,) = replay.run([Patch("pattern", [12, 14], layers=1, heads=[3], value=Donor([2, 4]))])
    donor = stored(oracle, "pattern", 1, 0)[[2, 4]][:, [3]]
    want = logits(oracle, 2, [at(1, [2, 4], "pattern", heads=[3], shift=donor)])
    np.testing.assert_allclose(got["logits"], want, **CLOSE)
    # From a shorter example, whose keys end sooner.
    (got,) = replay.run([Patch("pattern", [1], layers=0, value=Donor([16]))])
    donor = np.pad(stored(oracle, "pattern", 0, 3)[[1]], ((0, 0), (0, 0), (0, 3)))
    want = logits(oracle, 0, [at(0, [1], "pattern", shift=donor)])
    np.testing.assert_allclose(got["logits"], want, **CLOSE)
    with pytest.raises(ArgumentError, match="behind its query, or behind the example"):
        replay.run([Patch("pattern", [2], layers=1, value=Donor([4]))])


def test_examples_that_are_not_stored_whole_are_refused(tmp_path):
    tiny_models.save("gpt2", tmp_path / "model", torch.float32)
    store = residuum.capture(
        tmp_path / "model",
        TEXTS,
        tmp_path / "run",
        sites=["resid_pre", "resid_final"],
        positions="last",
        device="cpu",
    )
    with pytest.raises(SelectionError, match="holds 1 of the 5 tokens of example 0"):
        residuum.replay(store).run([Patch("resid_pre", [0])])


def test_repeated_inputs_have_the_same_rows(tmp_path):
    tiny_models.save("gpt2", tmp_path / "model", torch.float32)
    texts = [TEXTS[0], TEXTS[1], TEXTS[0], TEXTS[3]]
    store = residuum.capture(
        tmp_path / "model",
        texts,
        tmp_path / "run",
        sites=["resid_pre", "resid_final"],
        device="cpu",
    )
    resolver = residuum.replay(store).resolver
    assert resolver.example_of(2) == resolver.example_of(0)
    assert resolver.example(np.array([11])) == resolver.example_of(3)


def test_it_says_what_it_would_compute(opened):
    _, replay, _ = opened
    text = replay.explain([Patch("resid_pre", [3], layers=2, value=Donor([8]))])
    assert "layer   0:        0 rows" in text
    assert "layer   2:        1 rows" in text
    assert "1 replay of 5 tokens" in text


def test_a_plan_is_of_what_is_asked(opened):
    _, replay, _ = opened
    patch = Patch("resid_pre", [0], layers=1, value=Donor([8]))
    last = replay.explain([patch])
    assert replay.explain([patch], tokens=None) != last
    assert "layer   2:        0 rows" in replay.explain([patch], read=[("resid_post", 1)])
    text = replay.explain_sweep("z", 0, 2, ("layer", "head"))
    assert f"{replay.of.n_layer * replay.of.n_head} replays of" in text
    # What stands there already has no run.
    assert "0 replays of 0 tokens" in replay.explain_sweep("z", 0, 0)


NOTHING = {
    "a donor is itself": [Patch("k", [0, 2], value=Donor([0, 2]))],
    "frozen": [Patch("k", [0, 2], value=Freeze())],
    "once": [Patch("resid_pre", [1], value=Scale(1.0))],
    "plus nothing": [Patch("z", [1], value=Add(0.0))],
    "no share": [Patch("mlp_out", [1], value=Mix(Donor([7]), 0.0))],
    "two of them": [Patch("z", [1], 0, value=Donor([1])), Patch("mlp_out", [2], value=Scale(1.0))],
}


@pytest.mark.parametrize("what", list(NOTHING))
def test_what_changes_nothing_is_not_computed(opened, what):
    _, replay, oracle = opened
    assert "0 FLOP in place of" in replay.explain([NOTHING[what]])
    (got,) = replay.run([NOTHING[what]])
    np.testing.assert_allclose(got["logits"], logits(oracle, 0, []), **CLOSE)


def test_what_comes_after_a_change_is_computed(opened):
    """A donor's values that stood there before, but do no more."""
    _, replay, oracle = opened
    same = stored(oracle, "z", 1, 0)[[3]]
    patches = [Patch("z", [3], 1, value=Donor([3])), Patch("resid_pre", [3], 0, value=Zero())]
    (got,) = replay.run([patches])
    want = logits(oracle, 0, [at(0, [3], "resid_pre"), at(1, [3], shift=same)])
    np.testing.assert_allclose(got["logits"], want, **CLOSE)


@pytest.mark.parametrize("opened", ["llama"], indirect=True)
def test_frozen_keys_are_not_rotated(opened):
    _, replay, oracle = opened
    turn, freeze = Patch("k", [0, 1], value=RotateKeys(7)), Patch("k", [0, 1], value=Freeze())
    heads = Patch("k", [0, 1], heads=[0, 1], value=Freeze())
    # Own values are computed, so that own keys are.
    values = Patch("v", [0, 1], value=Set(stored(oracle, "v", 0, 0)[[0, 1]] + 1), layers=0)
    for patches in ([turn, freeze], [freeze, turn], [turn, heads], [heads, turn]):
        (got,) = replay.run([patches])
        np.testing.assert_allclose(got["logits"], logits(oracle, 0, []), **CLOSE)
    here = [Patch("k", [0, 1], 0, value=value) for value in (RotateKeys(7), Freeze())]
    alone, turned = replay.run([[values], [*here, values]])
    np.testing.assert_allclose(turned["logits"], alone["logits"], **CLOSE)
    # Three query heads share a key head; those of the frozen one see what they saw.
    one = Patch("k", [0, 1], heads=[0], value=Freeze())
    read = [("z", 0)]
    whole, part = (run["z", 0] for run in replay.run([[turn], [turn, one]], read=read))
    np.testing.assert_allclose(part[:, :3], stored(oracle, "z", 0, 0)[:, :3], **CLOSE)
    np.testing.assert_allclose(part[:, 3:], whole[:, 3:], **CLOSE)
    assert np.abs(whole[:, :3] - part[:, :3]).max() > 0.01


def test_q_is_read_where_the_pattern_is_frozen(tmp_path):
    tiny_models.save("gpt2", tmp_path / "model", torch.float32)
    sites = ["resid_pre", "resid_final", "z", "pattern"]
    store = residuum.capture(tmp_path / "model", TEXTS, tmp_path / "run", sites=sites, device="cpu")
    replay = residuum.replay(store)
    patches = [Patch("q", [4], 1, value=Set(5.0)), Patch("pattern", [4], 1, value=Freeze())]
    asked = [("q", 1), ("resid_post", 1)]
    (got,) = replay.run([patches], read=asked, tokens=[4])
    np.testing.assert_array_equal(got["q", 1], 5.0)
    unpatched = store["resid_pre"].read(rows=[4], layers=2)[0]
    np.testing.assert_allclose(got["resid_post", 1][0], unpatched, rtol=1e-4, atol=1e-4)


def test_a_row_is_resampled_by_itself(opened):
    _, replay, _ = opened

    def donors(rows, seed=0):
        (edit,) = replay.resolver.edits(Patch("z", rows, layers=0, value=Resample(seed=seed)))[1]
        every = replay.source.read(Site.Z, 0, np.arange(replay.store.rows["token"]))
        same = (np.asarray(edit.shift)[:, None] == every).all((2, 3))
        return same.argmax(1).tolist()

    both = donors([0, 3])
    assert donors([3]) == both[1:]
    many = {tuple(donors([0, 1, 2, 3, 4], seed)) for seed in range(10)}
    assert len(many) == 10
    assert donors([0, 1, 2]) != donors([5, 6, 7])
    with pytest.raises(ArgumentError, match="a seed is a whole number from 0, not -3"):
        donors([0], seed=-3)


def test_a_sweep_compares_with_the_clean_run_too(opened):
    _, replay, oracle = opened
    top, base = (logits(oracle, example, [])[-1].astype(np.float64) for example in (0, 2))
    p, q = (np.exp(v) / np.exp(v).sum() for v in (top, base))
    found = replay.sweep("z", 0, 2, metric=kl("clean"))
    np.testing.assert_allclose(found["kl_clean"][0].as_py(), 0, atol=1e-6)
    want = (p * np.log(p / q)).sum()
    np.testing.assert_allclose(found["kl_corrupted"][0].as_py(), want, rtol=1e-3, atol=1e-5)
    share = (pc.field("logit_3") - pc.field("unpatched_3")) / (
        pc.field("clean_3") - pc.field("unpatched_3")
    )
    found = replay.sweep("resid_pre", 0, 2, metric=expression(share, [3], "recovered"))
    assert found["recovered_clean"][0].as_py() == pytest.approx(1)
    assert found["recovered_corrupted"][0].as_py() == pytest.approx(0)


def test_tensors_of_16_bits_are_numbers(opened):
    _, replay, _ = opened
    values = torch.ones((1, 1, replay.of.d_head), dtype=torch.bfloat16)
    half, whole = replay.run([Patch("z", [0], 0, [1], value=v) for v in (values, values.float())])
    np.testing.assert_allclose(half["logits"], whole["logits"], **CLOSE)


def test_refusals(opened, tmp_path):
    store, replay, _ = opened
    refused = [
        (Patch("zz", [0]), SiteError, "no site called"),
        (Patch("logits", [0]), SiteError, "cannot be patched"),
        (Patch("z", [99]), SelectionError, "row 99 is not in"),
        (Patch("z", [0, 6]), SelectionError, "several examples"),
        (Patch("z", [0, 0]), SelectionError, "row 0 twice"),
        (Patch("z", []), ArgumentError, "the list of rows is empty"),
        (Patch("z", [0], layers=7), SiteError, "layer 7"),
        (Patch("z", [0], heads=[9]), SiteError, "head 9"),
        (Patch("z", [0], heads=[1, 1]), SelectionError, "twice"),
        (Patch("mlp_out", [0], heads=[0]), SiteError, "has no heads"),
        (Patch("pattern", [0], value=np.ones(5)), ArgumentError, "behind its query"),
        (Patch("z", [0], value=np.zeros(3)), ArgumentError, "the numbers for z are"),
        (Patch("z", [0, 1], value=Donor([1, 2, 3])), ArgumentError, "a donor of 3 rows"),
        (Patch("resid_pre", [0], value=ProjectOut([1.0])), ArgumentError, "directions"),
        (Patch("z", [0], value=RotateKeys(1)), SiteError, "(?i)rotate"),
        (Patch("resid_mid", [0], value=Donor([1])), None, ""),
    ]
    for patch, error, text in refused:
        if error is None:
            replay.run([patch])
            continue
        with pytest.raises(error, match=text):
            replay.run([patch])
    with pytest.raises(SelectionError, match="token 5 is not in the example, which has 5"):
        replay.run([Patch("z", [0])], tokens=[5])
    with pytest.raises(SelectionError, match="token -6 is not in"):
        replay.sweep("z", clean=0, corrupted=2, metric=logit_diff(1, 2), at=-6)
    for asked, error, text in (
        (("resid_mid", 3), SiteError, "layer 3"),
        (("pattern", 0), ArgumentError, "read z"),
        (("nothing", 0), SiteError, "no site called"),
        ("z", ArgumentError, "a site and a layer"),
    ):
        with pytest.raises(error, match=text):
            replay.run([Patch("z", [0])], read=[asked])
    with pytest.raises(ArgumentError, match="equally long"):
        replay.sweep("z", clean=0, corrupted=3, metric=logit_diff(1, 2))
    with pytest.raises(ModelError, match="no model folder"):
        residuum.replay(store, tmp_path / "nowhere")
    tiny_models.save("phi", tmp_path / "phi", torch.float32)
    with pytest.raises(ModelError, match="are not those of the model"):
        residuum.replay(store, tmp_path / "phi")


@pytest.mark.parametrize(
    ("dtype", "least", "most"), [("float32", 0, 3e-6), ("float16", 1e-5, 1e-2)]
)
def test_the_error_of_a_store_is_told(tmp_path, dtype, least, most):
    tiny_models.save("llama", tmp_path / "model", torch.float32)
    sites = ["resid_pre", "resid_final"]
    store = residuum.capture(tmp_path / "model", TEXTS, tmp_path / "run", sites=sites, dtype=dtype)
    table = residuum.replay(store).check()
    assert table.num_rows == 4 * 3
    off = max(row["max_difference"] / row["max_size"] for row in table.to_pylist())
    assert least < off < most
    assert residuum.replay(store).check([2])["example"].to_pylist() == [2, 2, 2]


def test_a_long_sweep_shows_how_far_it_is(opened, capsys):
    store, _, _ = opened
    replay = residuum.replay(store, progress=True)
    replay.sweep("resid_pre", 0, 2, metric=logit_diff(3, 5))
    assert "replay" in capsys.readouterr().err
    residuum.replay(store).sweep("resid_pre", 0, 2, metric=logit_diff(3, 5))
    assert capsys.readouterr().err == ""


def test_what_is_put_behind_a_block_needs_nothing_of_it(tmp_path):
    """Nor the stream that enters it, which this store does not have."""
    tiny_models.save("gpt2", tmp_path / "model", torch.float32)
    sites = ["resid_post"]
    store = residuum.capture(tmp_path / "model", TEXTS, tmp_path / "run", sites=sites, device="cpu")
    oracle = Captured("gpt2", torch.float32, [[int(w[1:]) for w in t.split()] for t in TEXTS])
    replay = residuum.replay(store)
    (got,) = replay.run([Patch("resid_post", [1], layers=0)])
    want = logits(oracle, 0, [at(0, [1], "resid_post")])
    np.testing.assert_allclose(got["logits"], want, **CLOSE)
    with pytest.raises(SiteError, match="does not hold resid_pre of layer 0"):
        replay.run([Patch("mlp_out", [1], layers=0)])
    with pytest.raises(SiteError, match="does not hold resid_pre of layer 0"):
        replay.explain([Patch("mlp_out", [1], layers=0)])
