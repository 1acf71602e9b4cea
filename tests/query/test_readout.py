"""`residuum_logit_lens`, `residuum_head_logits` and `residuum_nearest` against numpy in float64."""

import numpy as np
import pytest
from query.tiny_store import D_VOCAB, EPS, N_LAYER, N_ROW, Array, TinyStore

# Sums of 35 float32 products of size about 10, rounded at every step.
TOLERANCE = {"rtol": 1e-5, "atol": 5e-5}


def array(store: TinyStore, name: str) -> Array:
    return store.arrays[name].astype(np.float64)


def norm(store: TinyStore, rows: Array) -> tuple[Array, Array]:
    """The final norm of residual rows, and its divisors."""
    centred = rows - rows.mean(-1, keepdims=True)
    scale = np.sqrt((centred**2).mean(-1) + EPS)
    weights = store.weights
    return centred / scale[..., None] * weights["ln_final.w"] + weights["ln_final.b"], scale


@pytest.fixture(scope="module")
def logprobs(tiny) -> tuple[Array, Array]:
    """Logits and log-probabilities of the lens: [row, layer, token]."""
    normed, _ = norm(tiny, array(tiny, "activations/resid_post"))
    logits = normed @ tiny.weights["W_U"].astype(np.float64) + tiny.weights["b_U"]
    top = logits.max(-1, keepdims=True)
    return logits, logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


def test_lens_lists_the_most_likely_tokens(sql, tiny, logprobs):
    logits, logprob = logprobs
    got = sql.execute(
        f"FROM residuum_logit_lens('{tiny.path}', k := 3) ORDER BY row, layer, rank"
    ).fetchnumpy()
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :3]
    np.testing.assert_array_equal(got["token_id"].reshape(order.shape), order)
    for name, values in (("logit", logits), ("logprob", logprob)):
        want = np.take_along_axis(values, order, -1)
        np.testing.assert_allclose(got[name].reshape(order.shape), want, **TOLERANCE)
    assert got["token"].tolist() == [f"w{i}é" for i in order.ravel()]
    np.testing.assert_array_equal(got["rank"][:6], [0, 1, 2, 0, 1, 2])


def test_lens_measures_each_distribution(sql, tiny, logprobs):
    _, logprob = logprobs
    got = sql.execute(
        "SELECT entropy, kl_to_final, target_rank, target_logprob "
        f"FROM residuum_logit_lens('{tiny.path}', k := 1) ORDER BY row, layer"
    ).fetchnumpy()
    got = {name: values.reshape(N_ROW, N_LAYER) for name, values in got.items()}
    probability = np.exp(logprob)
    np.testing.assert_allclose(got["entropy"], -(probability * logprob).sum(-1), **TOLERANCE)
    final = logprob[:, -1:]
    np.testing.assert_allclose(
        got["kl_to_final"], (np.exp(final) * (final - logprob)).sum(-1), **TOLERANCE
    )
    target = tiny.arrays["index/target"]
    without = target < 0
    assert without.any()
    of_target = np.take_along_axis(logprob, np.maximum(target, 0)[:, None, None], -1)
    rank = (logprob > of_target).sum(-1)
    for name in ("target_rank", "target_logprob"):
        np.testing.assert_array_equal(np.ma.getmaskarray(got[name])[:, 0], without)
    np.testing.assert_array_equal(got["target_rank"][~without], rank[~without])
    np.testing.assert_allclose(
        got["target_logprob"][~without], of_target[~without, :, 0], **TOLERANCE
    )


def test_lens_of_selected_rows_and_layers(sql, tiny, logprobs):
    logits, _ = logprobs
    got = sql.execute(
        "SELECT row, layer, token_id FROM residuum_logit_lens("
        f"'{tiny.path}', k := 1, rows := [650, 2], layers := [1]) ORDER BY row"
    ).fetchall()
    assert got == [(row, 1, int(logits[row, 1].argmax())) for row in (2, 650)]


def test_lens_gives_no_more_tokens_than_there_are(sql, tiny):
    call = f"residuum_logit_lens('{tiny.path}', k := 1000, rows := [0], layers := [0])"
    got = sql.execute(f"SELECT count(*), count(DISTINCT token_id) FROM {call}").fetchone()
    assert got == (D_VOCAB, D_VOCAB)


def test_head_logits_are_the_heads_shares_of_the_logit(sql, tiny):
    tokens = [41, 5]
    got = sql.execute(
        f"FROM residuum_head_logits('{tiny.path}', tokens := {tokens}) "
        "ORDER BY row, layer, head, token_id DESC"
    ).fetchnumpy()
    _, scale = norm(tiny, array(tiny, "activations/resid_final"))
    direction = tiny.weights["W_U"][:, tokens].astype(np.float64)
    direction = direction * tiny.weights["ln_final.w"][:, None]
    head_out = np.einsum(
        "rlhd,lhdm->rlhm",
        array(tiny, "activations/z"),
        tiny.weights["W_O"].astype(np.float64),
    )
    # The norm takes the mean out of the sum, and so out of every part of it.
    head_out -= head_out.mean(-1, keepdims=True)
    want = head_out @ direction / scale[:, None, None, None]
    np.testing.assert_allclose(got["logit"].reshape(want.shape), want, **TOLERANCE)
    assert got["token_id"][:2].tolist() == tokens


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_nearest_rows_are_those_of_a_full_comparison(sql, tiny, metric):
    rows = array(tiny, "activations/resid_post")[:, 1]
    query = rows[17]
    scores = {
        "cosine": rows @ query / np.linalg.norm(rows, axis=1) / np.linalg.norm(query),
        "dot": rows @ query,
        "l2": np.linalg.norm(rows - query, axis=1),
    }[metric]
    order = np.argsort(scores if metric == "l2" else -scores)[:9]
    got = sql.execute(
        "FROM residuum_nearest("
        f"'{tiny.path}', 'resid_post', 1, of := 17, k := 9, metric := '{metric}') ORDER BY rank"
    ).fetchnumpy()
    assert list(got) == ["row", "layer", "rank", "distance" if metric == "l2" else "similarity"]
    np.testing.assert_array_equal(got["row"], order)
    np.testing.assert_allclose(got[list(got)[-1]], scores[order], **TOLERANCE)


def test_rows_are_ranked_by_a_feature(sql, tiny):
    values = array(tiny, "activations/z")[:, 1].reshape(N_ROW, -1)[:, 18]
    query = f"FROM residuum_nearest('{tiny.path}', 'z', 1, feature := 18, k := 6)"
    got = sql.execute(query).fetchnumpy()
    np.testing.assert_array_equal(got["row"], np.argsort(-values, kind="stable")[:6])
    np.testing.assert_array_equal(got["similarity"], values[got["row"]].astype(np.float32))


@pytest.mark.parametrize("cast", ["", "::FLOAT[9]", "::DOUBLE[]"])
def test_nearest_takes_a_vector_of_any_type(sql, tiny, cast):
    vector = tiny.arrays["activations/pooled"][3].tolist()
    got = sql.execute(
        f"FROM residuum_nearest('{tiny.path}', 'pooled', NULL, of := {vector}{cast}, k := 1)"
    ).fetchall()
    assert [(row, rank) for row, rank, _ in got] == [(3, 0)]


def test_nearest_compares_rows_of_heads_whole(sql, tiny):
    z = array(tiny, "activations/z")[:, 2].reshape(N_ROW, -1)
    want = np.argsort(-(z @ z[5]))[:4]
    got = sql.execute(
        f"FROM residuum_nearest('{tiny.path}', 'z', 2, \"to\" := 5, k := 4, metric := 'dot')"
    ).fetchnumpy()
    np.testing.assert_array_equal(got["row"], want)
