"""`residuum_activations`, `residuum_vec` and `residuum_sites` against the arrays themselves."""

import json
from pathlib import Path

import duckdb
import numpy as np
import pytest
from query import tiny_store
from query.tiny_store import TinyStore


def literal(store: TinyStore) -> str:
    """The store's path in SQL."""
    return f"'{store.path}'"


def scan(store: TinyStore, site: str, *arguments: str) -> str:
    """A call of `residuum_activations`."""
    return f"residuum_activations({', '.join([literal(store), repr(site), *arguments])})"


def test_every_vector_of_a_site_with_heads_is_there_once(sql, tiny):
    got = sql.execute(f"FROM {scan(tiny, 'z')} ORDER BY row, layer, head").fetchnumpy()
    want = tiny.arrays["activations/z"].astype(np.float32)
    np.testing.assert_array_equal(np.stack(got["vec"]).reshape(want.shape), want)
    n_row, n_layer, n_head, _ = want.shape
    np.testing.assert_array_equal(got["row"], np.repeat(np.arange(n_row), n_layer * n_head))
    np.testing.assert_array_equal(got["head"], np.tile(np.arange(n_head), n_row * n_layer))
    # Sums of 7 products in float32.
    np.testing.assert_allclose(got["norm"], np.linalg.norm(want, axis=-1).ravel(), rtol=1e-6)


@pytest.mark.parametrize("site", ["embed", "resid_post", "pooled", "k", "mlp_out"])
def test_columns_are_the_axes_of_the_site(sql, tiny, site):
    array = tiny.arrays[f"activations/{site}"]
    described = sql.execute(f"DESCRIBE FROM {scan(tiny, site)}").fetchall()
    types = {name: sql_type for name, sql_type, *_ in described}
    axes = {"k": ["layer", "kv_head"], "resid_post": ["layer"], "mlp_out": ["layer"]}
    assert list(types) == ["row", *axes.get(site, []), "vec", "norm"]
    assert types["vec"] == f"FLOAT[{array.shape[-1]}]"
    (n,) = sql.execute(f"SELECT count(*) FROM {scan(tiny, site)}").fetchone()
    layers = 2 if site == "mlp_out" else array.shape[1] if array.ndim > 2 else 1
    assert n == len(array) * layers


def test_selected_rows_layers_and_heads_come_out(sql, tiny):
    call = scan(tiny, "z", "rows := [699, 3, 64, 3]", "layers := [2, 0]", "heads := [4, 1]")
    got = sql.execute(f"SELECT row, layer, head, vec FROM {call} ORDER BY ALL").fetchall()
    z = tiny.arrays["activations/z"]
    want = [
        (row, layer, head, tuple(z[row, layer, head].astype(float)))
        for row in (3, 64, 699)
        for layer in (0, 2)
        for head in (1, 4)
    ]
    assert got == want


def test_dot_is_the_product_with_the_direction(sql, tiny):
    direction = np.arange(1, 8, dtype=np.float32)
    call = scan(tiny, "z", "direction := $1", "layers := [1]")
    query = f"SELECT dot FROM {call} ORDER BY row, head"
    got = sql.execute(query, [direction.tolist()]).fetchnumpy()["dot"]
    want = tiny.arrays["activations/z"][:, 1].astype(np.float32) @ direction
    np.testing.assert_allclose(got.reshape(want.shape), want, rtol=1e-5, atol=1e-5)
    with pytest.raises(duckdb.BinderException, match="dot"):
        sql.execute(f"SELECT dot FROM {scan(tiny, 'z')}")


@pytest.mark.parametrize(("dtype", "zstd"), [("float32", False), ("float16", True)])
def test_other_dtypes_and_codecs_read_the_same(sql, tmp_path, dtype, zstd):
    store = tiny_store.write(tmp_path / "run.residuum", dtype=dtype, zstd=zstd)
    late = f"residuum_vec('{store.path}', 'z', row, layer, head)"
    query = f"SELECT vec, {late} AS late FROM {scan(store, 'z')} ORDER BY row, layer, head"
    got = sql.execute(query).fetchnumpy()
    want = store.arrays["activations/z"].astype(np.float32).reshape(-1, 7)
    np.testing.assert_array_equal(np.stack(got["vec"]), want)
    np.testing.assert_array_equal(np.stack(got["late"]), want)


def test_vec_reads_any_order_with_repeats_and_nulls(sql, tiny):
    rng = np.random.default_rng(1)
    places = rng.integers(0, [700, 3, 5], (5000, 3))
    columns = {name: places[:, i] for i, name in enumerate(("row", "layer", "head"))}
    sql.register("places", {**columns, "i": np.arange(len(places))})
    sql.execute("CREATE TABLE p AS FROM places")
    sql.execute("UPDATE p SET layer = NULL WHERE i % 100 = 7")
    query = f"SELECT residuum_vec('{tiny.path}', 'z', row, layer, head) FROM p ORDER BY i"
    got = [vector for (vector,) in sql.execute(query).fetchall()]
    for i, (row, layer, head) in enumerate(places):
        want = None if i % 100 == 7 else tiny.arrays["activations/z"][row, layer, head].tolist()
        assert got[i] == want


def test_null_places_give_null_arrays(sql, tiny):
    got = sql.execute(
        f"SELECT residuum_vec7('{tiny.path}', 'z', CASE WHEN i % 2 = 0 THEN i END, 1, 1) "
        "FROM range(4) r(i) ORDER BY i"
    ).fetchall()
    z = tiny.arrays["activations/z"]
    assert got == [(tuple(z[0, 1, 1].tolist()),), (None,), (tuple(z[2, 1, 1].tolist()),), (None,)]


def test_vec_of_sites_without_layers_and_of_whole_rows(sql, tiny):
    place = f"'{tiny.path}'"
    (embed, row_of_heads, fixed) = sql.execute(
        f"SELECT residuum_vec({place}, 'embed', 5), residuum_vec({place}, 'z', 5, 2), "
        f"residuum_vec7({place}, 'z', 5, 2, 1)"
    ).fetchone()
    assert embed == tiny.arrays["activations/embed"][5].tolist()
    assert row_of_heads == tiny.arrays["activations/z"][5, 2].ravel().tolist()
    assert fixed == tuple(tiny.arrays["activations/z"][5, 2, 1].tolist())


def test_vec_takes_site_from_a_column(sql, tiny):
    got = sql.execute(
        f"SELECT site, len(residuum_vec('{tiny.path}', site, row)) FROM "
        "(VALUES ('embed', 3), ('pooled', 4), ('embed', 5)) t(site, row)"
    ).fetchall()
    assert got == [("embed", 35), ("pooled", 9), ("embed", 35)]


def test_the_store_itself_lists_its_sites(sql, tiny):
    row = sql.execute(f"FROM '{tiny.path}' WHERE site = 'mlp_out'").fetchone()
    assert row[:4] == ("mlp_out", ["row", "layer", "d_model"], [700, 3, 35], "float16")
    assert row[4:] == ([0, 2], 98000, "FLOAT[35]", "residuum_vec35")


def test_other_zarr_folders_are_not_claimed(sql, tmp_path):
    folder = tmp_path / "other.zarr"
    folder.mkdir()
    (folder / "zarr.json").write_text(json.dumps({"zarr_format": 3, "attributes": {}}))
    with pytest.raises(duckdb.CatalogException, match="does not exist"):
        sql.execute(f"FROM '{folder}'")


def test_a_newer_commit_is_seen(sql, tmp_path):
    store = tiny_store.write(tmp_path / "run.residuum")
    query = f"SELECT count(*) FROM {scan(store, 'pooled')}"
    assert sql.execute(query).fetchone() == (20,)
    record = json.loads((store.path / "commits" / "00000000.json").read_text())
    record["commit"], record["rows"] = 1, {"token": 700, "example": 11}
    (store.path / "commits" / "00000001.json").write_text(json.dumps(record))
    assert sql.execute(query).fetchone() == (11,)


def test_a_store_in_the_place_of_another_is_seen(sql, tmp_path):
    path = tmp_path / "run.residuum"
    first = tiny_store.write(path, seed=0)
    query = f"SELECT residuum_vec('{path}', 'embed', 0)"
    assert sql.execute(query).fetchone()[0] == first.arrays["activations/embed"][0].tolist()
    path.rename(tmp_path / "old.residuum")
    second = tiny_store.write(path, seed=1)
    assert sql.execute(query).fetchone()[0] == second.arrays["activations/embed"][0].tolist()


def test_vectors_too_wide_for_arrays_are_lists(sql, tmp_path):
    store = tiny_store.write(tmp_path / "run.residuum", n_row=130, d_logits=40_001)
    late = f"residuum_vec('{store.path}', 'logits', row)"
    got = sql.execute(
        f"SELECT row, list_sum(vec), list_sum({late}), len(vec), typeof(vec) "
        f"FROM {scan(store, 'logits')} ORDER BY row"
    ).fetchall()
    # Every float16 is a multiple of 2^-24, so that these sums in float64 are exact.
    want = store.arrays["activations/logits"].astype(np.float64).sum(-1)
    assert got == [(row, value, value, 40_001, "FLOAT[]") for row, value in enumerate(want)]


def test_many_threads_give_every_row_once(sql, tiny):
    sql.execute("SET threads = 4")
    vec = f"residuum_vec7('{tiny.path}', 'z', row, layer, head)"
    (n, distinct, unequal) = sql.execute(
        f"SELECT count(*), count(DISTINCT (row, layer, head)), count(*) FILTER (vec <> {vec}) "
        f"FROM {scan(tiny, 'z')}"
    ).fetchone()
    assert (n, distinct, unequal) == (700 * 3 * 5, 700 * 3 * 5, 0)


def test_extension_is_part_of_the_package(extension):
    assert isinstance(extension, Path)
    assert extension.is_file()
