"""Clusters: what the tables say agrees with the arrays."""

import numpy as np
import pytest
from analyses import tiny

from residuum.analyses import clusters
from residuum.errors import ArgumentError, SiteError


def numbers(table, name):
    return np.array(table[name].to_pylist())


@pytest.mark.parametrize(
    ("asked", "read"),
    [
        ({}, lambda made: made.sites["resid_post"][:, 2]),
        ({"layer": 0}, lambda made: made.sites["resid_post"][:, 0]),
        ({"site": "resid_final"}, lambda made: made.sites["resid_final"]),
        ({"site": "z", "head": 3, "layer": 1}, lambda made: made.sites["z"][:, 1, 3]),
        ({"site": "z"}, lambda made: made.sites["z"][:, 2].reshape(tiny.N_ROW, -1)),
    ],
)
def test_each_row_is_with_its_nearest_centre(made, store, asked, read):
    result = clusters.run(store, k=3, tolerance=0, **asked)
    values = read(made).astype(np.float64)
    label = numbers(result["assignments"], "cluster")
    # Lloyd's iterations have settled: a centre is the mean of its rows, and no other one is nearer.
    centres = np.array([values[label == c].mean(0) for c in range(3)])
    distance = np.linalg.norm(values[:, None] - centres, axis=-1)
    assert distance.argmin(1).tolist() == label.tolist()
    own = distance[np.arange(len(label)), label]
    np.testing.assert_allclose(
        numbers(result["assignments"], "distance"), own, rtol=1e-4, atol=1e-5
    )
    sizes = numbers(result["clusters"], "size")
    assert sizes.tolist() == np.bincount(label).tolist()
    (fit,) = result["fit"].to_pylist()
    assert (fit["n"], fit["n_sample"]) == (tiny.N_ROW, tiny.N_ROW)
    assert fit["inertia"] == pytest.approx((own**2).sum(), rel=1e-4)
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)
    inertia = np.bincount(label, own**2)
    np.testing.assert_allclose(
        numbers(result["clusters"], "inertia"), inertia, rtol=1e-4, atol=1e-5
    )
    share = numbers(result["clusters"], "inertia_share")
    np.testing.assert_allclose(share, inertia / inertia.sum(), rtol=1e-4, atol=1e-5)
    mean = np.bincount(label, own) / sizes
    np.testing.assert_allclose(
        numbers(result["clusters"], "mean_distance"), mean, rtol=1e-4, atol=1e-5
    )


def test_nearest_are_in_order_and_named(store):
    result = clusters.run(store, k=2, nearest=2)
    by_row = {row["row"]: row for row in result["assignments"].to_pylist()}
    nearest = result["nearest"].to_pylist()
    assert [(r["cluster"], r["rank"]) for r in nearest] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for cluster in range(2):
        members = [r["distance"] for r in by_row.values() if r["cluster"] == cluster]
        listed = [r["distance"] for r in nearest if r["cluster"] == cluster]
        assert listed == sorted(members)[:2]
    texts = ["".join(tiny.VOCABULARY[t] for t in ids) for ids in tiny.IDS]
    starts = [0, 6, 7]
    for row in nearest:
        example = row["example"]
        assert row["row"] == starts[example] + row["token"]
        assert row["text"] == tiny.VOCABULARY[tiny.IDS[example][row["token"]]]
        assert row["before"] + row["text"] + row["after"] == texts[example]


def test_the_same_seed_gives_the_same_clusters(store):
    params = clusters.settle(store, clusters.Params(k=4, seed=3))
    first, again = (clusters.compute(store, params) for _ in range(2))
    assert first == again


def test_a_sample(store):
    result = clusters.run(store, k=2, rows=5)
    rows = result["assignments"]["row"].to_pylist()
    assert len(rows) == 5
    assert rows == sorted(set(rows))


def test_what_was_left_out_is_settled_in_the_parameters(store):
    result = clusters.run(store, k=2)
    assert (result.parameters["site"], result.parameters["layer"]) == ("resid_post", 2)


@pytest.mark.parametrize(
    ("asked", "kind", "says"),
    [
        ({"k": 12}, ArgumentError, "k=12 is more than the 11 rows"),
        ({"site": "mlp_pre"}, SiteError, "needs the site mlp_pre"),
        ({"layer": 3, "k": 2}, SiteError, "layer 3"),
        ({"site": "embed", "layer": 0, "k": 2}, SiteError, "exists once"),
        ({"head": 0, "k": 2}, SiteError, "no axis `head`"),
    ],
)
def test_wrong_questions(store, asked, kind, says):
    with pytest.raises(kind) as raised:
        clusters.run(store, **asked)
    assert says in str(raised.value)


def test_too_much_for_memory_names_the_way_out(store, monkeypatch):
    monkeypatch.setattr(clusters, "MEMORY", 4 * tiny.D_HEAD * 7)
    with pytest.raises(ArgumentError, match="cluster a sample, such as rows=7"):
        clusters.run(store, site="z", head=1, k=2)
    result = clusters.run(store, site="z", head=1, k=2, rows=7)
    assert result["assignments"].num_rows == 7


def test_rows_that_are_no_numbers_belong_nowhere(made, tmp_path):
    broken = made.sites["resid_final"].copy()
    broken[4, 2] = np.nan
    store = tiny.write(
        tiny.Tiny(**{**vars(made), "sites": {"resid_final": broken}}), tmp_path / "n.residuum"
    )
    result = clusters.run(store, k=2)
    rows = result["assignments"]["row"].to_pylist()
    assert rows == [0, 1, 2, 3, *range(5, tiny.N_ROW)]
    assert sum(result["clusters"]["size"].to_pylist()) == len(rows)
