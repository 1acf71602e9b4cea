"""Detectors, ranks and alignment by their definitions; odd inputs named by a query."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import scipy.stats
import sklearn.metrics
import sklearn.neighbors
import tiny_models
import torch
from lenses.conftest import texts

import residuum
from residuum.analyses.tuned_lens.alignment import similarity
from residuum.analyses.tuned_lens.detectors import relative_distance, scores
from residuum.analyses.tuned_lens.ranks import auroc, spearman
from residuum.errors import ArgumentError, InputError

QUERY = """
SELECT row, n_token > 4 AS clean FROM examples JOIN tokens USING (example)
WHERE token = n_token - 1
"""


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def test_ranks_are_those_of_scipy_and_scikit_learn():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 200), rng.integers(0, 6, 200)
    assert spearman(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    kind = rng.integers(0, 2, 200).astype(bool)
    want = sklearn.metrics.roc_auc_score(kind, x)
    assert auroc(x[~kind], x[kind]) == pytest.approx(want)
    assert auroc(np.array([1, 2]), np.array([3])) == 1
    assert auroc(np.array([1.0]), np.array([1.0])) == 0.5


@pytest.mark.parametrize("detector", ["lof", "isolation_forest", "mahalanobis"])
def test_clean_is_not_told_from_clean_and_odd_is(detector):
    """What is odd is that features are not correlated, and wider."""
    mix = drawn(40, 40, seed=1) * np.linspace(0.05, 2, 40)[:, None]
    clean = drawn(1100, 40, seed=2) @ mix
    odd = drawn(200, 40, seed=3) * 1.5 * clean.std(0)
    rates = {"neighbours": 20, "seed": 0}
    found = scores(detector, clean[:300], np.concatenate([clean[300:], odd]), **rates)
    assert auroc(found[200:400], found[400:600]) == pytest.approx(0.5, abs=0.06)
    assert auroc(found[:800], found[800:]) > 0.9


def test_a_local_outlier_factor_is_its_definition():
    """Breunig et al. 2000: the neighbours' density over one's own."""
    clean, asked, k = drawn(60, 3), drawn(20, 3, seed=1), 5
    near = sklearn.neighbors.NearestNeighbors(n_neighbors=k).fit(clean)
    radius = near.kneighbors()[0][:, -1]  # a point is no neighbour of its own

    def density(distance, which):
        return 1 / np.maximum(distance, radius[which]).mean(1)

    own = density(*near.kneighbors())
    distance, which = near.kneighbors(asked)
    want = own[which].mean(1) / density(distance, which)
    got = scores("lof", clean, asked, neighbours=k, seed=0)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_a_relative_distance_leaves_out_what_features_tell_alone():
    clean = drawn(5000, 6)
    assert np.abs(relative_distance(clean, drawn(50, 6, seed=1))).max() < 0.5
    tied = np.repeat(drawn(5000, 3), 2, axis=1) + 0.1 * drawn(5000, 6, seed=2)
    broken = np.array([[2.0, -2.0, 0, 0, 0, 0], [2.0, 2.0, 0, 0, 0, 0]])
    apart, alike = relative_distance(tied, broken)
    assert apart > 100
    assert alike < 0
    still = np.hstack([clean[:, :2], np.ones((5000, 1))])  # a feature that never varies
    assert np.isfinite(relative_distance(still, still[:3])).all()


def test_responses_are_compared_up_to_a_constant():
    a, b = drawn(7, 30), drawn(7, 30, seed=1)
    weights = np.random.default_rng(2).dirichlet(np.ones(30))
    found = similarity(a, b, weights)
    np.testing.assert_allclose(similarity(a, a, weights), 1)
    np.testing.assert_allclose(similarity(a, -a, weights), -1)
    np.testing.assert_allclose(similarity(a + 5, b - drawn(7, 1, seed=3), weights), found)
    centred = [x - (x * weights).sum(1, keepdims=True) for x in (a, b)]
    inner = (weights * centred[0] * centred[1]).sum(1)
    sizes = [np.sqrt((weights * x * x).sum(1)) for x in centred]
    np.testing.assert_allclose(found, inner / sizes[0] / sizes[1])
    np.testing.assert_allclose(similarity(np.ones((1, 30)), b[:1], weights), 0, atol=1e-9)


@pytest.fixture(scope="module")
def lens_and_store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    tiny_models.save("gpt2", folder / "model", torch.float32)
    store = residuum.capture(
        folder / "model",
        texts(400),
        folder / "run",
        sites=["resid_pre", "resid_final"],
        device="cpu",
    )
    residuum.analyses.run("tuned_lens", store, steps=1, held_out=0.9, experiments=["quality"])
    return store


def asked(store, **more):
    settings = {"lens": "tuned", "experiments": ["anomaly"], "splits": 3, "anomalies": QUERY}
    return residuum.analyses.run("tuned_lens", store, **(settings | more))["anomaly"]


def test_a_query_says_what_is_odd(lens_and_store):
    found = asked(lens_and_store)
    assert found.num_rows == 10  # two lenses by two detectors, and the distance; two kinds
    assert pc.unique(found["task"]).to_pylist() == ["all"]
    for row in found.to_pylist():
        assert row["auroc_lo"] <= row["auroc"] <= row["auroc_hi"]
        assert row["n_splits"] == 3
        assert (row["lens"] is None) == (row["detector"] == "mahalanobis")
    n = lens_and_store.sql(f"SELECT count(*) FILTER (clean) FROM ({QUERY})").fetchall()[0][0]
    assert found["n_train"][0].as_py() <= 0.6 * n  # what the lens was trained on is left out
    by_task = QUERY.replace("AS clean", "AS clean, token % 2 AS task, [3, 4, 5] AS candidates")
    tasks = pc.unique(
        asked(lens_and_store, anomalies=by_task.replace("n_token > 4", "row % 2 = 0"))["task"]
    )
    assert sorted(tasks.to_pylist()) == ["0", "1"]


def test_what_a_query_lacks(lens_and_store):
    for query, kind, says in (
        (
            "SELECT row FROM tokens",
            ArgumentError,
            "clean is not among row",
        ),
        ("SELECT row, 1 AS clean FROM tokens", ArgumentError, "clean is not among row"),
        ("SELECT row, row < 0 AS clean FROM tokens", InputError, "0 examples with clean"),
        (
            "SELECT row, row % 2 = 0 AS clean, [row] AS candidates FROM tokens",
            ArgumentError,
            "the same tokens for all rows",
        ),
        (
            "SELECT row, row % 2 = 0 AS clean, [1, 9999] AS candidates FROM tokens",
            ArgumentError,
            "token ids from 0 to",
        ),
        (
            "SELECT row, true AS clean, []::INT[] AS candidates FROM tokens",
            ArgumentError,
            "one at least",
        ),
        (
            "SELECT row, true AS clean, 'w3' AS candidates FROM tokens",
            ArgumentError,
            "a list of token ids",
        ),
        ("SELECT row, NULL::BOOLEAN AS clean FROM tokens", ArgumentError, "null as clean"),
        ("SELECT 99999 AS row, true AS clean", InputError, "1 rows, none of which"),
        (
            "SELECT row, true AS clean FROM tokens UNION ALL SELECT row, false FROM tokens",
            ArgumentError,
            "that it is clean and that it is not",
        ),
        (None, InputError, "do not say which are odd: give a query"),
        ("SELECT no_such FROM tokens", ArgumentError, 'anomalies is no query .* "no_such"'),
    ):
        with pytest.raises(kind, match=says):
            asked(lens_and_store, anomalies=query)
    with pytest.raises(ArgumentError, match=r"train_share is between 0 and 1, not 1\.5"):
        asked(lens_and_store, train_share=1.5)
    with pytest.raises(ArgumentError, match=r"train_share=0\.999 of the clean .* leaves 0"):
        asked(lens_and_store, anomalies=QUERY, train_share=0.999)


def test_without_scikit_learn_the_part_is_left_out(lens_and_store, monkeypatch):
    import importlib

    whole = importlib.import_module

    def gone(name, *more):
        if name.startswith("sklearn"):
            raise ModuleNotFoundError(name=name)
        return whole(name, *more)

    monkeypatch.setattr(importlib, "import_module", gone)
    with pytest.raises(ModuleNotFoundError, match="pip install 'residuum\\[detect\\]'"):
        asked(lens_and_store, seed=1)
    result = residuum.analyses.run(
        "tuned_lens",
        lens_and_store,
        lens="tuned",
        anomalies=QUERY,
        seed=2,
        examples=1,
        basis_examples=1,
        directions=1,
        random_directions=1,
    )
    assert isinstance(result["skipped"], pa.Table)
    assert "residuum[detect]" in result["skipped"].to_pylist()[0]["reason"]


def test_examples_are_split_not_their_rows(lens_and_store):
    """All tokens of an example are learnt from or asked about together."""
    query = "SELECT row, n_token > 4 AS clean FROM examples JOIN tokens USING (example)"
    found = asked(lens_and_store, anomalies=query)
    of_last = asked(lens_and_store)
    for name in ("n_train", "n_test"):
        assert found[name].to_pylist() == of_last[name].to_pylist()
