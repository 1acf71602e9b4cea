"""Macros are the extension's functions with the store filled in, argument by argument."""

import numpy as np
import pytest
from store import made

import residuum
from residuum.store import Store


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> made.Made:
    return made.write(tmp_path_factory.mktemp("macros") / "it's é.residuum")


@pytest.fixture(scope="module")
def store(run) -> Store:
    return residuum.open(run.path)


CALLS = [
    ("logit_lens", "k := 2"),
    ("logit_lens", "layers := [1], rows := [3, 36], k := 13"),
    ("head_logits", "tokens := [3, 0]"),
    ("head_logits", "tokens := [1], layers := [2], rows := [8]"),
    ("nearest", "'resid_post', 1, of := 4, k := 3"),
    ("nearest", "'resid_post', 1, of := 4, k := 3, metric := 'l2'"),
    ("activations", "'z', layers := [2], heads := [0, 4], rows := [30]"),
    ("activations", "'z', direction := [1, 0, 0, 0, 0, 0, 2]"),
    ("activations", "'embed'"),
]


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_a_macro_is_the_function_of_its_store(store, name, arguments):
    path = str(store.path).replace("'", "''")
    long = f"FROM residuum_{name}('{path}', {arguments}) ORDER BY ALL"
    short = store.sql(f"FROM {name}({arguments}) ORDER BY ALL").to_arrow_table()
    want = store.sql(long).to_arrow_table()
    assert short.num_rows > 0
    assert short.column_names == want.column_names
    assert short.to_pylist() == want.to_pylist()


def test_the_lens_unembeds_the_normed_stream(store, run):
    x = run.arrays["resid_post"].astype(np.float64)
    w = run.weights
    centred = x - x.mean(-1, keepdims=True)
    normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + made.READOUT["eps"])
    logits = (normed * w["ln_final.w"] + w["ln_final.b"]) @ w["W_U"] + w["b_U"]
    got = store.sql("FROM logit_lens(k := 1) ORDER BY row, layer").fetchnumpy()
    np.testing.assert_array_equal(got["token_id"], logits.argmax(-1).ravel())
    assert got["token"].tolist() == [made.VOCABULARY[i] for i in got["token_id"]]
    # Sums of 11 float32 products below 50.
    np.testing.assert_allclose(got["logit"], logits.max(-1).ravel(), rtol=1e-5, atol=1e-4)


def test_the_nearest_row_to_a_vector_of_the_store_is_its_own(store, run):
    vector = run.arrays["resid_post"][19, 2].tolist()
    query = "FROM nearest('resid_post', 2, of := $1, k := 1, metric := 'l2')"
    assert store.sql(query.replace("$1", str(vector))).fetchall()[0][0] == 19


def test_vec_reads_one_vector_of_any_site(store, run):
    calls = {
        "vec('embed', 5)": run.arrays["embed"][5],
        "vec('resid_post', 36, 2)": run.arrays["resid_post"][36, 2],
        "vec('z', 17, 1, 4)": run.arrays["z"][17, 1, 4],
        "vec('pooled', 3)": run.arrays["pooled"][3],
    }
    for call, want in calls.items():
        ((got,),) = store.sql(f"SELECT {call}").fetchall()
        np.testing.assert_array_equal(np.array(got, np.float32), want)
