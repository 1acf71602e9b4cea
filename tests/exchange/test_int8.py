"""A store of int8: what is read is codes times scales, and how far off that is stands in it."""

import itertools
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from store import made

import residuum
from residuum.analyses import registry
from residuum.errors import ArgumentError, CaptureError, InputError, SiteError, StoreError
from residuum.sites import Site
from residuum.store import ArrayPlan, Store, StoreWriter

CHUNK = made.CHUNK_ROWS


@pytest.fixture(scope="module", params=["none", "zstd"])
def small(request, wide, tmp_path_factory) -> Store:
    """The float32 store as int8."""
    out = tmp_path_factory.mktemp("int8") / "small.residuum"
    return Store(
        residuum.export(
            wide.path, out, format="store", dtype="int8", codec=request.param, chunk_rows=CHUNK
        )
    )


def decoded(values):
    """The definition, chunk by chunk of `[row, ...]`: codes times the largest value over 127."""
    out = np.empty_like(values)
    for first in range(0, len(values), CHUNK):
        chunk = values[first : first + CHUNK]
        scale = (np.abs(chunk).max(axis=0) / np.float32(127)).astype(np.float32)
        out[first : first + CHUNK] = np.rint(chunk / scale) * scale
    return out


def test_what_is_read_is_codes_times_scales(small, wide):
    assert small.verify().ok
    for site in small.sites:
        array = small[site]
        assert (array.stored_dtype, array.dtype) == ("int8", np.float32)
        source = wide.arrays[site]
        if array.has_layers:
            source = source[:, list(array.layers)]
        expected = decoded(source)
        np.testing.assert_array_equal(array.read(), expected)
        assert array.nbytes == source.size


def test_rows_layers_heads_streams_and_types(small):
    z = small["z"]
    whole = z.read()
    picked = whole[np.ix_([36, 0, 5], [2, 0], [4, 1])]
    np.testing.assert_array_equal(z.read([36, 0, 5], [2, 0], [4, 1]), picked)
    np.testing.assert_array_equal(np.concatenate(list(z.stream(1, batch_rows=5))), whole[:, 1])
    assert z.read(dtype="float64").dtype == np.float64
    np.testing.assert_array_equal(z.read(7, dtype="float16"), whole[7].astype(np.float16))
    np.testing.assert_array_equal(z.read(verify=True), whole)
    tensor = pytest.importorskip("torch").asarray(whole)
    assert z.torch().equal(tensor)


def test_the_error_is_the_measured_one(small, wide):
    assert Store(wide.path)["z"].error is None
    for site in small.sites:
        array = small[site]
        layers = array.layers or (None,)
        assert array.error.layers == array.layers
        for place, layer in enumerate(layers):
            x = wide.arrays[site] if layer is None else wide.arrays[site][:, layer]
            off = (x - array.read(layers=layer)).astype(np.float64)
            relative = np.sqrt((off**2).sum() / (x.astype(np.float64) ** 2).sum())
            assert array.error.relative_rms[place] == pytest.approx(relative, rel=1e-6)
            assert array.error.max_abs[place] == pytest.approx(np.abs(off).max(), rel=1e-6)


def test_a_store_says_that_it_is_lossy(small):
    info = small.info()["sites"]["z"]
    assert (info["dtype"], info["stored_dtype"]) == ("float32", "int8")
    assert info["error"]["layers"] == [0, 1, 2]
    assert info["stored_as"].startswith("int8, lossy, RMS error 0.")
    assert json.loads(json.dumps(info)) == info
    assert "int8, lossy, RMS error 0." in repr(small)
    assert "int8, lossy, RMS error 0." in repr(small["z"])
    assert "int8, lossy" in small["z"]._repr_html_()
    assert small.capture["dtype"] == "int8"


def documented() -> str:
    """The function that docs/format.md gives to those who have zarr alone."""
    text = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    lines = text[text.index("    def read_int8") :].splitlines()
    return textwrap.dedent("\n".join(itertools.takewhile(str.strip, lines)))


def test_stock_zarr_reads_it(small, tmp_path):
    out = tmp_path / "read.npy"
    ask = "numpy.save(sys.argv[2], read_int8(sys.argv[1], 'z', 2))"
    script = f"import sys, numpy, zarr\n{documented()}\n{ask}"
    subprocess.run([sys.executable, "-c", script, small.path, out], check=True)
    np.testing.assert_array_equal(np.load(out), small["z"].read(layers=2).reshape(made.N_ROW, -1))


def test_statistics_are_of_the_decoded_values(small):
    values = small["resid_post"].read(layers=1)
    kept = small.statistics("resid_post", 1)
    np.testing.assert_array_equal(kept.min, values.min(axis=0))
    np.testing.assert_array_equal(kept.max, values.max(axis=0))
    np.testing.assert_allclose(kept.mean, values.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(kept.std, values.std(axis=0), rtol=1e-5)


def test_sql_asks_the_decoded_values(small):
    values = small["resid_post"].read(layers=1)
    direction = np.arange(made.D_MODEL, dtype=np.float32)
    found = small.sql(
        "SELECT row, vec, norm, dot, residuum_vec($store, 'resid_post', row, 1) AS late "
        "FROM residuum_activations($store, 'resid_post', layers := [1], direction := $direction) "
        "ORDER BY row",
        params={"store": str(small.path), "direction": direction.tolist()},
    ).fetchnumpy()
    np.testing.assert_array_equal(np.stack(found["vec"]), values)
    np.testing.assert_array_equal(np.stack(found["late"]), values)
    # Sums of 11 products in float32.
    np.testing.assert_allclose(found["norm"], np.linalg.norm(values, axis=1), rtol=1e-6)
    np.testing.assert_allclose(found["dot"], values @ direction, rtol=1e-5, atol=1e-5)
    query = values[17] + np.float32(0.25)
    distance = np.square(values.astype(np.float64) - query).sum(axis=1)
    nearest = small.sql(
        "SELECT row FROM nearest('resid_post', 1, of := ?, metric := 'l2', k := 5) ORDER BY rank",
        params=[query.tolist()],
    ).fetchall()
    assert [row for (row,) in nearest] == np.argsort(distance)[:5].tolist()


def test_arrays_out_of_it_are_float32(small, tmp_path):
    out = residuum.export(small, tmp_path / "arrays", format="npy", sites="z")
    found = np.load(out / "z.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, small["z"].read())
    said = json.loads((out / "export.json").read_text())["arrays"]["z"]
    assert said["error"] == small["z"].error.to_json()
    out = residuum.export(small, tmp_path / "z.safetensors", sites="z", dtype="float16")
    assert out.is_file()


def test_rows_of_examples_may_be_committed_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr("residuum.exchange.store_copy.SHARE_OF_TABLES", 0)
    monkeypatch.setattr("residuum.exchange.store_copy.EXAMPLES", 7)
    n, length = 100, 5
    rng = np.random.default_rng(0)
    sites = {"embed": rng.standard_normal((n * length, 6), np.float32)}
    plans = [
        ArrayPlan(Site("embed"), None, (), (6,), "float32"),
        ArrayPlan(Site("pooled"), None, (), (3,), "float32"),
    ]
    example = np.arange(n)
    cut = {"target": False, "shard_rows": 32, "chunk_rows": 8}
    with StoreWriter.create(tmp_path / "run", model={}, capture={}, arrays=plans, **cut) as writer:
        writer.write("embed", None, sites["embed"], np.array([[0, 0, n * length]]))
        pooled = rng.standard_normal((n, 3), np.float32)
        writer.write("pooled", None, pooled, np.array([[0, 0, n]]))
        first = example * length
        columns = {"example": example, "first_row": first, "example_row": example}
        columns |= {"n_token": pa.array([length] * n, pa.int32()), "content_hash": ["x"] * n}
        writer.add_examples(pa.table(columns | {"n_row": pa.array([length] * n, pa.int32())}))
        row = np.arange(n * length)
        token = pa.array(row % length, pa.int32())
        writer.add_tokens(pa.table({"example": row // length, "token": token, "row": row}))
        writer.commit(complete=True)
    out = residuum.export(
        tmp_path / "run", tmp_path / "small", format="store", dtype="int8", chunk_rows=8
    )
    small = Store(out)
    assert small.verify().ok
    assert small.commit > 3, "else this tests nothing"
    assert small.n_example == n
    np.testing.assert_allclose(small["pooled"].read(), pooled, atol=0.02)


def test_what_cannot_be_is_refused(small, wide, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ArgumentError, match="say --format store"):
        residuum.export(wide.path, out, format="npy", dtype="int8")
    with pytest.raises(ArgumentError, match="export the store that this one was made of"):
        residuum.export(small, out, format="store")
    with pytest.raises(InputError, match=r"an import cannot be int8: .*--dtype int8"):
        residuum.import_activations(out, {"embed": np.ones((3, 4), np.float32)}, dtype="int8")
    with pytest.raises(StoreError, match=r"nothing can be added: .* export that again"):
        StoreWriter.open(small.path)
    assert not out.exists()


def test_captures_refuse_it(small, wide):
    capture = pytest.importorskip("residuum.capture.run").capture
    with pytest.raises(InputError, match=r"a capture cannot be int8: .*--dtype int8"):
        capture("no model", ["a"], "no store", sites="z", dtype="int8")
    for how in ("append", "resume"):
        with pytest.raises(CaptureError, match=r"nothing can be added.*export that again"):
            capture("no model", ["a"], small.path, sites="z", **{how: True})


def test_an_exact_analysis_refuses_it(small):
    exact = [name for name, one in registry.registered().items() if one.exact]
    assert exact == ["clip_decomposition", "head_attribution"]
    with pytest.raises(SiteError, match=r"head_attribution needs exact numbers, but .* is int8"):
        registry.run("head_attribution", small)
    found = registry.run("logit_lens", small, k=2)
    assert found.tables


def test_sites_without_statistics_stay(gpt2_folder, tmp_path):
    sites = ["resid_post", "pattern", "norm_scale", "logits"]
    texts = ["the red dog", "two stars in the circle"]
    run = residuum.capture(gpt2_folder, texts, tmp_path / "run", sites=sites, device="cpu")
    small = Store(residuum.export(run, tmp_path / "small", format="store", dtype="int8"))
    assert small.verify().ok
    for site in sites[1:]:
        assert small[site].error is None
        np.testing.assert_array_equal(small[site].read(), run[site].read())
    assert small["resid_post"].error.worst < 0.01
    np.testing.assert_array_equal(small.target.read(), run.target.read())


def test_verify_finds_statistics_that_are_gone(wide, tmp_path):
    small = residuum.export(wide.path, tmp_path / "small", format="store", dtype="int8")
    file = small / "statistics/z/c/0/0/0/0"
    file.unlink()
    problems = Store(small).verify().problems
    assert [p.file for p in problems] == [str(file.relative_to(small))]
    with pytest.raises(StoreError, match="holds the scales of `activations/z`"):
        Store(small)["z"].read(0, layers=0)
