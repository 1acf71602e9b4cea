"""`residuum export` and `residuum import`: what they print, what they refuse, what is left."""

import json

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
from command import one_paragraph, residuum

import residuum as library

TEXTS = ["the red square sees the green circle", "a dog runs", "one", "a dog runs", "two stars"]


@pytest.fixture(scope="module")
def run(gpt2_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ex change ü")
    (folder / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    sites = [f"--site={site}" for site in ("resid_post", "z", "resid_final")]
    residuum("capture", gpt2_folder, folder / "texts.txt", "-o", folder / "run", *sites)
    return folder / "run"


def exported(run, out, *options):
    done = residuum("export", run, "-o", out, *options)
    assert done.out == ""
    return done.err


def test_each_format(run, tmp_path):
    store = library.open(run)
    said = exported(run, tmp_path / "arrays", "--format", "npy", "--layers", "0,2")
    assert said == f"{tmp_path / 'arrays'}: 13 token rows of z, resid_post, resid_final.\n"
    found = np.load(tmp_path / "arrays" / "z.npy")
    np.testing.assert_array_equal(found, store["z"].read(layers=[0, 2]))
    exported(run, tmp_path / "z.safetensors", "--site", "z", "--dtype", "float16")
    tensors = safetensors.numpy.load_file(tmp_path / "z.safetensors")
    np.testing.assert_array_equal(tensors["z.1"], store["z"].read(layers=1).astype(np.float16))
    exported(run, tmp_path / "set", "--format", "dataset", "--site", "z", "--layers", "1")
    records = datasets.load_from_disk(str(tmp_path / "set"))
    assert records[12]["text"] == "stars"
    said = exported(run, tmp_path / "part", "--format", "store", "--codec", "zstd")
    assert "13 rows of z, resid_post, resid_final." in said
    assert "no problem" in residuum("verify", tmp_path / "part").out


def test_int8(run, tmp_path):
    said = exported(run, tmp_path / "small", "--format", "store", "--dtype", "int8")
    first, second = said.splitlines()
    assert first == f"{tmp_path / 'small'}: 13 rows of z, resid_post, resid_final."
    assert "z is int8, lossy, RMS error 0." in second
    assert "int8, lossy, RMS error 0." in residuum("info", tmp_path / "small").out
    info = json.loads(residuum("info", tmp_path / "small", "--json").out)
    assert info["sites"]["z"]["error"]["relative_rms"][0] < 0.01
    listed = json.loads(residuum("analyses", "--json").out)
    assert [one["name"] for one in listed if one["exact"]] == [
        "clip_decomposition",
        "head_attribution",
    ]
    for command, ask in [
        (["run", "head_attribution", tmp_path / "small"], "exact numbers"),
        (["capture", "m", run, "-o", "x", "--site", "z", "--dtype", "int8"], "--dtype int8"),
        (["export", run, "-o", "x.npy", "--site", "z", "--dtype", "int8"], "--format store"),
    ]:
        failed = residuum(*command, code=1)
        assert ask in one_paragraph(failed)


def test_rows_by_sql(run, tmp_path):
    query = "SELECT row FROM tokens WHERE text IN ('dog', 'one')"
    said = exported(run, tmp_path / "few.npy", "--site", "resid_final", "--rows", query)
    assert "2 token rows of resid_final." in said
    rows = pq.read_table(tmp_path / "few.rows.parquet")
    assert rows.select(["row", "text"]).to_pylist() == [
        {"row": 8, "text": "dog"},
        {"row": 10, "text": "one"},
    ]
    assert json.loads((tmp_path / "few.export.json").read_text())["selection"]["rows"] == query


REFUSED = {
    "store that is none": (["-o", "out", "--format", "npy"], "none", 1, "none"),
    "existing output": (["-o", ".", "--format", "npy"], None, 1, "exists already"),
    "no format": (["-o", "out"], None, 1, "--format npy, safetensors, dataset, store"),
    "unknown format": (["-o", "out", "--format", "hdf5"], None, 2, "hdf5"),
    "unknown site": (["-o", "a.npy", "--site", "q"], None, 1, "not captured"),
    "layers": (["-o", "a.npy", "--site", "z", "--layers", "1-2"], None, 1, "0:12"),
    "layer": (["-o", "a.npy", "--site", "z", "--layers", "3"], None, 1, "layer 3 of z"),
    "several sites": (["-o", "a.npy"], None, 1, "--site"),
    "no rows": (["-o", "a.npy", "--site", "z", "--rows", "SELECT 99"], None, 1, "99 is out"),
    "bfloat16": (["-o", "a.npy", "--site", "z", "--dtype", "bfloat16"], None, 1, "--dtype float32"),
    "codec": (["-o", "a.npy", "--site", "z", "--codec", "zstd"], None, 1, "--format store"),
    "memory": (["-o", "a.npy", "--site", "z", "--memory", "1"], None, 1, "16 MB at least"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(run, tmp_path, monkeypatch, case):
    arguments, store, code, said = REFUSED[case]
    monkeypatch.chdir(tmp_path)
    done = residuum("export", store or run, *arguments, code=code)
    assert said in (one_paragraph(done) if code == 1 else done.err)
    assert done.out == ""
    assert not list(tmp_path.iterdir())


def test_wrong_sql_is_shown_as_duckdb_says_it(run, tmp_path):
    done = residuum(
        "export",
        run,
        "-o",
        tmp_path / "a.npy",
        "--site",
        "z",
        "--rows",
        "SELECT rwo FROM z",
        code=1,
    )
    assert "rwo" in done.err
    assert done.err.startswith("Binder Error: ")
    assert not list(tmp_path.iterdir())


def test_what_was_exported_is_imported_by_its_folder_alone(run, tmp_path):
    store = library.open(run)
    for form in ("npy", "safetensors"):
        exported(run, tmp_path / form, "--format", form)
        done = residuum("import", tmp_path / form, "-o", tmp_path / f"{form}.run")
        assert done.out == ""
        assert "4 examples, 13 rows of z, resid_post, resid_final." in done.err  # a repeat is one
        back = library.open(tmp_path / f"{form}.run")
        for site in store.sites:
            np.testing.assert_array_equal(back[site].read(), store[site].read())
    exported(run, tmp_path / "set", "--format", "dataset", "--site", "z")
    done = residuum("import", tmp_path / "set", "-o", tmp_path / "set.run", code=1)
    assert "is a dataset, which is not imported" in one_paragraph(done)


def test_a_damaged_manifest_is_named(run, tmp_path):
    exported(run, tmp_path / "arrays", "--format", "npy")
    (tmp_path / "arrays" / "export.json").write_text('{"format": "npy"}')
    done = residuum("import", tmp_path / "arrays", "-o", tmp_path / "run", code=1)
    assert "export.json is damaged" in one_paragraph(done)


def test_an_import_without_files_is_wrong_usage(tmp_path):
    assert "ACTIVATIONS" in residuum("import", "-o", tmp_path / "run", code=2).err


def test_an_import_is_not_captured_into(gpt2_folder, tmp_path):
    np.save(tmp_path / "z.npy", np.ones((3, 3, 5, 7), np.float32))
    residuum("import", tmp_path / "z.npy", "-o", tmp_path / "run", "--n-layer", "3")
    (tmp_path / "texts.txt").write_text("one\n")
    usual = ["capture", gpt2_folder, tmp_path / "texts.txt", "-o", tmp_path / "run", "--site", "z"]
    for more in ("--append", "--resume"):
        done = residuum(*usual, more, code=1)
        assert "another capture: the model's architecture is None there" in one_paragraph(done)
