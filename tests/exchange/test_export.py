"""What every format writes is what the store holds: sites, layers, rows, dtypes."""

import json
import tracemalloc

import datasets
import duckdb
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from store import made

import residuum
from residuum.errors import ArgumentError, SelectionError, SiteError, StoreError
from residuum.exchange import exporting
from residuum.sites import Site
from residuum.store import ArrayPlan, SiteArray, Store, StoreWriter

ODD = "SELECT row FROM tokens WHERE token % 2 = 1"


def odd_rows():
    token = np.concatenate([np.arange(n) for n in made.LENGTHS])
    return np.flatnonzero(token % 2 == 1)


def captured(known, site):
    """What the store holds of a site, `[row, layer, ...]` with captured layers alone."""
    layers = made.layers_of(site)
    return known.arrays[site][:, layers] if layers else known.arrays[site]


def exact(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_npy_has_a_file_per_site(known, tmp_path):
    wide = {"dtype": "float32"} if known.arrays["z"].dtype == ml_dtypes.bfloat16 else {}
    out = residuum.export(known.path, tmp_path / "out", format="npy", **wide)
    for site in made.INNER:
        found = np.load(out / f"{site}.npy", allow_pickle=False)
        expected = captured(known, site)
        assert found.dtype == (np.float32 if wide else expected.dtype)
        exact(found, expected.astype(found.dtype))
    said = json.loads((out / "export.json").read_text())
    assert said["arrays"]["mlp_out"]["layers"] == [0, 2]
    assert said["arrays"]["mlp_out"]["shape"] == [37, 2, 11]
    assert said["selection"]["rows"] is None
    assert said["selection"]["from"] == "run.residuum"


def test_safetensors_keep_every_dtype(known, tmp_path):
    out = residuum.export(known.path, tmp_path / "out.safetensors")
    found = safetensors.torch.load_file(out)
    names = {"embed", "pooled", "mlp_out.0", "mlp_out.2"}
    names |= {f"{site}.{layer}" for site in ("z", "k", "resid_post") for layer in range(3)}
    assert set(found) == names
    for name, tensor in found.items():
        site, _, layer = name.partition(".")
        expected = known.arrays[site][:, int(layer)] if layer else known.arrays[site]
        assert str(tensor.dtype) == f"torch.{expected.dtype.name}"
        exact(tensor.to(torch.float64).numpy(), expected.astype(np.float64))
    with safetensors.safe_open(out, "np") as file:
        assert json.loads(file.metadata()["residuum"])["format"] == "safetensors"


def test_safetensors_of_several_widths_load_in_numpy(store, wide, tmp_path):
    out = residuum.export(store, tmp_path / "out", format="safetensors", dtype="float16")
    found = safetensors.numpy.load_file(out / "activations.safetensors")
    exact(found["z.1"], wide.arrays["z"][:, 1].astype(np.float16))


def test_dataset_opens_in_its_library(known, tmp_path):
    wide = {"dtype": "float32"} if known.arrays["z"].dtype == ml_dtypes.bfloat16 else {}
    out = residuum.export(
        known.path, tmp_path / "out", format="dataset", sites=["z", "embed"], **wide
    )
    found = datasets.load_from_disk(str(out))
    assert len(found) == made.N_ROW
    z = np.array(found.with_format("numpy")["z.1"][:])
    exact(z, known.arrays["z"][:, 1].reshape(made.N_ROW, -1).astype(z.dtype))
    assert found.features["z.1"].length == made.N_HEAD * made.D_HEAD
    assert found[7]["example"] == 2
    assert found[7]["token"] == 0
    assert found[7]["example_text"] == "text 2 'é'"
    assert found[36]["text"] == made.VOCABULARY[known.ids[36]]


def test_a_dataset_is_cut_into_files(store, wide, tmp_path, monkeypatch):
    monkeypatch.setattr("residuum.exchange.dataset.FILE_BYTES", 7 * 4 * made.D_MODEL)
    out = residuum.export(store, tmp_path / "out", format="dataset", sites="embed", rows=ODD)
    files = sorted(path.name for path in out.glob("*.arrow"))
    assert files == [f"data-0000{n}-of-00003.arrow" for n in range(3)]
    found = datasets.load_from_disk(str(out))
    exact(np.array(found["embed"][:], np.float32), wide.arrays["embed"][odd_rows()])


def test_records_say_what_the_rows_are(store, tmp_path):
    out = residuum.export(store, tmp_path / "out", format="npy", rows=ODD)
    rows = pq.read_table(out / "rows.parquet")
    names = ["row", "example", "token", "token_id", "text", "example_text"]
    assert rows.column_names == names
    assert rows.column("row").to_pylist() == odd_rows().tolist()
    assert set(rows.column("token").to_pylist()) == {1, 3, 5, 7, *range(9, 21, 2)}
    assert rows.column("example_text")[-1].as_py() == "text 3 'é'"
    examples = pq.read_table(out / "examples.parquet")
    # an example of one token has no odd one, so that nothing of it is taken
    assert examples.column("example").to_pylist() == [0, 2, 3]
    exact(np.load(out / "pooled.npy"), store["pooled"].read([0, 2, 3]))


def test_rows_are_taken_in_order_and_once(store, wide, tmp_path):
    asked = {
        "list": [5, 36, 0, 5],
        "negative": np.array([-1, 5, 0]),
        "mask": np.isin(np.arange(made.N_ROW), [0, 5, 36]),
        "sql": "SELECT row AS n FROM tokens WHERE row IN (36, 0, 5) ORDER BY row DESC",
        "more columns": "SELECT example, row FROM tokens WHERE row IN (36, 0, 5)",
    }
    for name, rows in asked.items():
        out = residuum.export(store, tmp_path / f"{name}.npy", sites="z", layers="1:3", rows=rows)
        exact(np.load(out), wide.arrays["z"][[0, 5, 36], 1:3])


def test_one_file_has_its_records_beside_it(store, tmp_path):
    residuum.export(store, tmp_path / "my.z.npy", sites=["z"])
    residuum.export(store, tmp_path / "pooled.safetensors", sites=["pooled"])
    there = {path.name for path in tmp_path.iterdir()}
    assert there == {
        "my.z.npy",
        "my.z.rows.parquet",
        "my.z.export.json",
        "pooled.safetensors",
        "pooled.examples.parquet",
        "pooled.export.json",
    }


def test_rows_of_a_repeat_are_named_once(gpt2_folder, tmp_path):
    texts = ["the red dog", "one", "the red dog", "two stars", "one"]
    run = residuum.capture(gpt2_folder, texts, tmp_path / "run", sites=["z"], device="cpu")
    out = residuum.export(run, tmp_path / "out", format="npy")
    rows = pq.read_table(out / "rows.parquet")
    assert rows.column("row").to_pylist() == list(range(6))
    assert rows.column("example").to_pylist() == [0, 0, 0, 1, 3, 3]


def test_memory_stays_within_the_budget(tmp_path):
    """A store of 96 MB in 16 MB, in every format; what Python holds is counted."""
    n_row, d = 8192, 768
    run = tmp_path / "run"
    plan = ArrayPlan(Site.RESID_POST, 4, range(4), [d], "float32")
    big = np.random.default_rng(0).standard_normal((n_row, d), np.float32)
    with StoreWriter.create(run, model={}, capture={}, arrays=[plan], target=False) as writer:
        for layer in range(4):
            writer.write("resid_post", layer, big, np.array([[0, 0, n_row]]))
        writer.add_examples(_examples(n_row, 64))
        writer.add_tokens(_tokens(n_row, 64))
        writer.commit(complete=True)
    for form in exporting.FORMATS:
        tracemalloc.start()
        residuum.export(run, tmp_path / form, format=form, memory="16MB", dtype="float16")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 16e6, form


def _examples(n_row, length):
    n = n_row // length
    return pa.table(
        {
            "example": np.arange(n),
            "n_token": np.full(n, length, np.int32),
            "first_row": np.arange(n) * length,
            "example_row": pa.nulls(n, pa.int64()),
            "content_hash": list(map(str, range(n))),
        }
    )


def _tokens(n_row, length):
    row = np.arange(n_row)
    return pa.table(
        {
            "example": row // length,
            "token": (row % length).astype(np.int32),
            "row": row,
            "token_id": pa.nulls(n_row, pa.int32()),
            "text": pa.nulls(n_row, pa.string()),
        }
    )


def test_no_block_is_larger_than_asked(store, tmp_path, monkeypatch):
    monkeypatch.setattr("residuum.exchange.blocks.MOST_BYTES", 4000)
    read, asked = SiteArray.read, []

    def counting(self, *arguments, **settings):
        out = read(self, *arguments, **settings)
        asked.append(out.nbytes)
        return out

    monkeypatch.setattr(SiteArray, "read", counting)
    for form in exporting.FORMATS:
        sites = ["z", "resid_post", "embed"]
        residuum.export(store, tmp_path / form, format=form, sites=sites, rows=ODD)
    assert max(asked) <= 4000
    assert len(asked) > 30


REFUSED = {
    "no format": ({"out": "out"}, ArgumentError, "--format npy, safetensors, dataset, store"),
    "unknown format": ({"out": "out", "format": "csv"}, ArgumentError, "'csv'"),
    "suffix of another": ({"out": "a.npy", "format": "store"}, ArgumentError, "for --format npy"),
    "two sites in a file": ({"out": "a.npy", "sites": ["z", "k"]}, ArgumentError, "one site"),
    "unknown site": ({"out": "a.npy", "sites": "zz"}, SiteError, "no site called 'zz'"),
    "absent site": ({"out": "a.npy", "sites": "q"}, SiteError, "not captured"),
    "absent layer": ({"sites": ["z", "mlp_out"], "layers": 1}, SiteError, "layer 1 of mlp_out"),
    "layer of none": ({"sites": "embed", "layers": 1}, SiteError, "embed exists once"),
    "bad layers": ({"layers": "0-3"}, ValueError, "0:12"),
    "bad dtype": ({"dtype": "int4"}, ArgumentError, "'int4'"),
    "bad memory": ({"memory": "lots"}, ValueError, "4GB"),
    "row out of range": ({"rows": [37]}, SelectionError, "37 is out of range"),
    "short mask": ({"rows": np.ones(3, bool)}, SelectionError, "length 3"),
    "no rows": (
        {"rows": "SELECT row FROM tokens WHERE false"},
        SelectionError,
        "no row is selected",
    ),
    "null rows": ({"rows": "SELECT NULL::BIGINT AS row"}, SelectionError, "IS NOT NULL"),
    "rows of text": (
        {"rows": "SELECT text AS row FROM tokens"},
        ArgumentError,
        "`row` of type string",
    ),
    "two columns": ({"rows": "SELECT example, token FROM tokens"}, ArgumentError, "example, token"),
    "no answer": ({"rows": "SET threads = 1"}, ArgumentError, "whole numbers"),
    "wrong SQL": ({"rows": "SELECT rwo FROM tokens"}, duckdb.Error, "rwo"),
    "cut of npy": ({"shard_rows": 8}, ArgumentError, "--shard-rows is of a store"),
    "codec of npy": ({"codec": "zstd"}, ArgumentError, "--codec is of a store"),
    "bfloat16 in npy": ({"dtype": "bfloat16"}, ArgumentError, "--dtype float32"),
    "bfloat16 in a dataset": (
        {"format": "dataset", "sites": "z", "dtype": "bfloat16"},
        ArgumentError,
        "--format safetensors",
    ),
    "two kinds of rows": ({"format": "dataset"}, ArgumentError, "export them apart"),
    "bad cut": (
        {"format": "store", "shard_rows": 8, "chunk_rows": 3},
        ArgumentError,
        "divide|multiple",
    ),
    "bad codec": ({"format": "store", "codec": "lz4"}, ArgumentError, "none, zstd"),
    "no chunk": ({"format": "store", "chunk_rows": 0}, ArgumentError, "1 or more"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_is_written(store, tmp_path, case):
    arguments, error, said = REFUSED[case]
    usual = {"out": "out", "format": "npy"} if "out" not in arguments else {}
    given = usual | arguments
    with pytest.raises(error, match=said):
        residuum.export(store, tmp_path / given.pop("out"), **given)
    assert not list(tmp_path.iterdir())


def test_a_store_without_rows_is_refused(tmp_path):
    made.create(tmp_path / "run").close()
    for form in exporting.FORMATS:
        with pytest.raises(SelectionError, match=r"run holds no row of embed, k, z"):
            residuum.export(tmp_path / "run", tmp_path / "out", format=form)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(store, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "z.rows.parquet").write_text("mine")
    for form in exporting.FORMATS:
        with pytest.raises(StoreError, match="exists already"):
            residuum.export(store, tmp_path / "out", format=form)
    with pytest.raises(StoreError, match=r"z\.rows\.parquet exists already"):
        residuum.export(store, tmp_path / "z.npy", sites="z")
    with pytest.raises(StoreError, match="is a file"):
        residuum.export(store, tmp_path / "z.rows.parquet" / "a.npy", sites="z")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "z.rows.parquet"}


@pytest.mark.parametrize("form", exporting.FORMATS)
def test_ctrl_c_leaves_nothing(store, tmp_path, monkeypatch, form):
    def interrupted(*_arguments, **_settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(SiteArray, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        residuum.export(store, tmp_path / "out", format=form, sites=["z", "k"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", exporting.FORMATS)
def test_a_failure_on_the_way_leaves_nothing(store, tmp_path, monkeypatch, form):
    read, calls = SiteArray.read, []

    def failing(self, *arguments, **settings):
        calls.append(self.name)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return read(self, *arguments, **settings)

    monkeypatch.setattr(SiteArray, "read", failing)
    with pytest.raises(OSError, match="No space") as error:
        residuum.export(store, tmp_path / "out", format=form, sites=["z", "k"])
    assert "is full: nothing was written" in error.value.__notes__[0]
    assert not list(tmp_path.iterdir())


def test_a_number_too_large_for_float16_is_refused(tmp_path):
    plan = ArrayPlan(Site.EMBED, None, [], [3], "float32")
    values = np.array([[1, -7e4, np.inf]], np.float32)
    with StoreWriter.create(tmp_path / "run", model={}, capture={}, arrays=[plan]) as writer:
        writer.write("embed", None, values, np.array([[0, 0, 1]]))
        writer.write_target(np.array([-1], np.int32), np.array([[0, 0, 1]]))
        writer.add_examples(_examples(1, 1))
        writer.add_tokens(_tokens(1, 1))
        writer.commit(complete=True)
    with pytest.raises(ArgumentError, match=r"embed has numbers as large as 7e\+04, which float16"):
        residuum.export(tmp_path / "run", tmp_path / "a.npy", dtype="float16")
    out = residuum.export(tmp_path / "run", tmp_path / "a.npy")
    exact(np.load(out), values)  # what was infinite may stay so


def test_a_dataset_without_its_library_says_what_to_install(store, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"residuum\[datasets\]"):
        residuum.export(store, tmp_path / "out", format="dataset", sites="z")


def test_a_table_that_does_not_name_a_row_is_damage(tmp_path):
    with made.create(tmp_path / "run") as writer:
        arrays, ids = made.draw("float32")
        made.write_rows(writer, arrays, ids)
        writer.write("pooled", None, arrays["pooled"], np.array([[0, 0, 4]]))
        writer.add_examples(made.examples())
        tokens = made.tokens(ids)
        writer.add_tokens(pa.concat_tables([tokens.slice(0, 9), tokens.slice(10)]))
        writer.commit(complete=True)
    with pytest.raises(StoreError, match="do not name row 9"):
        residuum.export(Store(tmp_path / "run"), tmp_path / "out", format="npy")
    assert not (tmp_path / "out").exists()
