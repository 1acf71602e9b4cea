"""A store that format 1 wrote is still read: by residuum and by stock zarr, bit for bit."""

import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import zarr

import residuum

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def expected():
    with np.load(HERE / "format_1.npz") as file:
        return dict(file)


@pytest.fixture
def path(tmp_path) -> Path:
    """A copy, so that no test changes the promise."""
    return Path(shutil.copytree(HERE / "format_1.residuum", tmp_path / "format_1.residuum"))


def test_residuum_reads_every_site(path, expected):
    store = residuum.open(path)
    assert store.attributes["format"] == 1
    assert store.sites == ("embed", "k", "z", "mlp_out", "resid_post", "pooled")
    for site in store.sites:
        want = expected[f"activations/{site}"]
        assert store[site].shape == want.shape
        if site == "mlp_out":
            assert store[site].layers == (0, 2)
            want = want[:, [0, 2]]
        np.testing.assert_array_equal(store[site].read(dtype="bfloat16").view(np.uint16), want)
    np.testing.assert_array_equal(store.target.read(), expected["index/target"])
    assert store.verify().ok


def test_stock_zarr_reads_every_array(path, expected):
    group = zarr.open_group(str(path), mode="r")
    for site in group["activations"].array_keys():
        array = group[f"activations/{site}"][...]
        want = expected[f"activations/{site}"].view(ml_dtypes.bfloat16)
        assert array.dtype == want.dtype
        np.testing.assert_array_equal(array.astype(np.float32), want.astype(np.float32))
    np.testing.assert_array_equal(group["index/target"][...], expected["index/target"])


def test_tables_weights_and_vocabulary_are_read(path, expected):
    store = residuum.open(path)
    assert store.complete
    assert store.examples.to_table()["n_token"].to_pylist() == [6, 1, 9, 21]
    tokens = store.tokens.to_table()
    assert tokens["token_id"].to_pylist() == expected["token_id"].tolist()
    assert tokens["text"].to_pylist() == [store.vocabulary[i] for i in expected["token_id"]]
    names = [name.removeprefix("weights/") for name in expected if name.startswith("weights/")]
    assert list(store.weights) == sorted(names)
    for name in names:
        np.testing.assert_array_equal(store.weights[name], expected[f"weights/{name}"])


def test_sql_reads_it(path, expected):
    want = expected["activations/z"].view(ml_dtypes.bfloat16)[17, 1, 4].astype(np.float32)
    query = "SELECT vec FROM z JOIN tokens USING (row) WHERE example = 3 AND token = 1"
    query += " AND layer = 1 AND head = 4"
    ((vector,),) = residuum.open(path).sql(query).fetchall()
    np.testing.assert_array_equal(np.array(vector, np.float32), want)
