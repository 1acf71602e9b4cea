"""The lens against its definition, and against torch's log-softmax."""

import dataclasses

import numpy as np
import pytest
from analyses import naive, tiny

from residuum.analyses import logit_lens
from residuum.errors import SiteError

# Sums over 11 or 13 float32 products of size about 1.
CLOSE = {"rtol": 2e-5, "atol": 2e-5}


def by_definition(made):
    """Log-probabilities, [row, layer, vocabulary]."""
    states = made.sites["resid_post"]
    return np.array([[naive.log_softmax(naive.logits(made, x)) for x in row] for row in states])


def column(table, name):
    return np.array(table[name].to_pylist(), float).reshape(tiny.N_ROW, tiny.N_LAYER)


def test_trajectory(made, store):
    table = logit_lens.run(store)["trajectory"]
    p = by_definition(made)
    final = p[:, -1:]
    assert table["row"].to_pylist() == np.repeat(np.arange(tiny.N_ROW), tiny.N_LAYER).tolist()
    assert table["layer"].to_pylist() == list(range(tiny.N_LAYER)) * tiny.N_ROW
    assert column(table, "top_id").tolist() == p.argmax(-1).tolist()
    np.testing.assert_allclose(column(table, "top_probability"), np.exp(p.max(-1)), **CLOSE)
    np.testing.assert_allclose(column(table, "entropy"), -(np.exp(p) * p).sum(-1), **CLOSE)
    kl = (np.exp(final) * (final - p)).sum(-1)
    np.testing.assert_allclose(column(table, "kl_to_final"), kl, **CLOSE)
    for row, target in enumerate(naive.targets()):
        part = table.slice(row * tiny.N_LAYER, tiny.N_LAYER).to_pydict()
        assert part["target_id"] == [target] * tiny.N_LAYER
        if target is None:
            assert part["target_rank"] == part["target_logprob"] == [None] * tiny.N_LAYER
            continue
        np.testing.assert_allclose(part["target_logprob"], p[row, :, target], **CLOSE)
        ranks = (p[row] > p[row, :, [target]].T).sum(-1)
        assert part["target_rank"] == ranks.tolist()
        assert part["target_text"] == [tiny.VOCABULARY[target]] * tiny.N_LAYER


def test_top(made, store):
    table = logit_lens.run(store, k=4)["top"]
    p = by_definition(made)
    ids = np.argsort(-p, axis=-1, kind="stable")[..., :4]
    assert np.array(table["token_id"]).reshape(ids.shape).tolist() == ids.tolist()
    want = np.take_along_axis(p, ids, -1)
    np.testing.assert_allclose(np.array(table["logprob"]).reshape(ids.shape), want, **CLOSE)
    assert table["text"][0].as_py() == tiny.VOCABULARY[ids[0, 0, 0]]
    assert table["rank"].to_pylist() == list(range(4)) * (tiny.N_ROW * tiny.N_LAYER)


def test_summary(made, store):
    table = logit_lens.run(store)["summary"]
    p = by_definition(made)
    pairs = [(row, t) for row, t in enumerate(naive.targets()) if t is not None]
    assert table["n"].to_pylist() == [tiny.N_ROW] * tiny.N_LAYER
    assert table["n_target"].to_pylist() == [len(pairs)] * tiny.N_LAYER
    entropy = -(np.exp(p) * p).sum(-1).mean(0)
    np.testing.assert_allclose(table["entropy"].to_pylist(), entropy, **CLOSE)
    cross = -np.mean([p[row, :, t] for row, t in pairs], axis=0)
    np.testing.assert_allclose(table["cross_entropy"].to_pylist(), cross, **CLOSE)
    same = (p.argmax(-1) == p[:, -1:].argmax(-1)).mean(0)
    np.testing.assert_allclose(table["top_is_final"].to_pylist(), same)
    right = np.mean([p[row].argmax(-1) == t for row, t in pairs], axis=0)
    np.testing.assert_allclose(table["top_is_target"].to_pylist(), right)
    ranks = np.median([(p[row] > p[row, :, [t]].T).sum(-1) for row, t in pairs], axis=0)
    np.testing.assert_allclose(table["target_rank_median"].to_pylist(), ranks)
    assert table["kl_to_final"][tiny.N_LAYER - 1].as_py() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("budget", [1, 300, 1 << 20])
def test_blocks_do_not_matter(store, monkeypatch, budget):
    whole = logit_lens.ANALYSIS.compute(store, logit_lens.Params())
    monkeypatch.setattr(logit_lens, "BUDGET", budget)
    cut = logit_lens.ANALYSIS.compute(store, logit_lens.Params())
    assert cut["top"]["token_id"] == whole["top"]["token_id"]
    for name in ("entropy", "kl_to_final"):
        a, b = (np.array(t["trajectory"][name]) for t in (cut, whole))
        np.testing.assert_allclose(a, b, **CLOSE)


def test_some_layers_and_examples(store):
    tables = logit_lens.run(store, layers="1", examples=1)
    assert tables["summary"]["layer"].to_pylist() == [1]
    assert tables["trajectory"]["row"].to_pylist() == list(range(6))


def test_a_layer_that_is_not_there(store):
    with pytest.raises(SiteError, match="3"):
        logit_lens.run(store, layers=[3])


def test_k_beyond_the_vocabulary_is_the_vocabulary(store):
    table = logit_lens.run(store, k=1000)["top"]
    assert table.num_rows == tiny.N_ROW * tiny.N_LAYER * tiny.D_VOCAB


def test_rows_that_are_not_finite_have_no_token(made, tmp_path):
    """What `--allow-nonfinite` keeps: other rows have their answers, these have nulls."""
    broken = made.sites["resid_post"].copy()
    broken[2, 1, 0] = np.nan
    changed = dataclasses.replace(made, sites={**made.sites, "resid_post": broken})
    result = logit_lens.run(tiny.write(changed, tmp_path / "nan.residuum"), k=2)
    whole = logit_lens.run(tiny.write(made, tmp_path / "whole.residuum"), k=2)
    for name in ("trajectory", "top"):
        rows = zip(result[name].to_pylist(), whole[name].to_pylist(), strict=True)
        for found, expected in rows:
            if (found["row"], found["layer"]) != (2, 1):
                assert found == expected
                continue
            id_name, text_name = (
                ("top_id", "top_text") if name == "trajectory" else ("token_id", "text")
            )
            assert found[id_name] is None
            assert found[text_name] is None
    rows = [dict(row) for row in result["summary"].to_pylist()]
    assert [row["n"] for row in rows] == [tiny.N_ROW, tiny.N_ROW - 1, tiny.N_ROW]
    assert all(np.isfinite(row["entropy"]) for row in rows)
