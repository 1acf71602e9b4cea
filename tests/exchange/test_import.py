"""Arrays that are there already become a store like any other."""

import json
import sys
from pathlib import Path

import datasets
import ml_dtypes
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from command import one_paragraph
from command import residuum as command
from exchange.given import D_HEAD, N_HEAD, D, draw, per_row
from store import made

import residuum
from residuum.analyses import registry
from residuum.errors import StoreError
from residuum.exchange import blocks, parts
from residuum.report import StoreCard, build
from residuum.store import Store

DTYPES = ("float32", "float16", "bfloat16")


def exact(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def read(store, site, layer=None):
    return store[site].read(layers=layer, dtype=store[site].dtype)


def file(tmp_path, kind, name, array):
    path = tmp_path / f"{name}.{kind}"
    if kind == "npy":
        np.save(path, array)
    else:
        tensor = (
            torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
            if array.dtype == ml_dtypes.bfloat16
            else torch.from_numpy(array)
        )
        save = {"safetensors": lambda: safetensors.torch.save_file({"acts": tensor}, path)}
        save.get(kind, lambda: torch.save(tensor, path))()
    return path


# numpy has no name for bfloat16: that such files are refused is tested below
KINDS = [
    (k, d) for k in ("npy", "safetensors", "pt") for d in DTYPES if (k, d) != ("npy", DTYPES[2])
]


@pytest.mark.parametrize(("kind", "dtype"), KINDS)
def test_files_of_every_kind_and_dtype(tmp_path, kind, dtype):
    a, b = draw(8, D, dtype=dtype), draw(8, D, dtype=dtype, seed=1)
    paths = {2: file(tmp_path, kind, "a", a), 5: file(tmp_path, kind, "b", b)}
    store = residuum.import_activations(tmp_path / "run", {"resid_post": paths}, table=per_row())
    assert store["resid_post"].dtype == a.dtype
    assert store["resid_post"].layers == (2, 5)
    assert store["resid_post"].shape == (8, 6, D)
    exact(read(store, "resid_post", 2), a)
    exact(read(store, "resid_post", 5), b)
    assert store.verify().ok


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", ["npy", "safetensors"])
def test_there_and_back(gpt2_folder, tmp_path, form, dtype):
    texts = ["the red dog", "one", "two stars in the circle", "a cat sees one dog"]
    run = residuum.capture(
        gpt2_folder,
        pa.table({"text": texts, "topic": list("abcd")}),
        tmp_path / "run",
        sites=["z", "resid_post", "norm_scale", "resid_final"],
        layers=[0, 2],
        dtype=dtype,
        device="cpu",
    )
    if form == "npy" and dtype == "bfloat16":
        residuum.export(run, tmp_path / "out", format=form, dtype="float32")
    else:
        residuum.export(run, tmp_path / "out", format=form)
    command("import", tmp_path / "out", "-o", tmp_path / "back")
    back = Store(tmp_path / "back")
    assert back.verify().ok
    assert back.sites == run.sites
    assert back.model["name"] == run.model["name"]
    for site in run.sites:
        assert back[site].axes == run[site].axes
        assert back[site].shape == run[site].shape
        assert back[site].layers == run[site].layers
        exact(back[site].read().astype(np.float32), run[site].read().astype(np.float32))
    exact(back.target.read(), run.target.read())
    columns = ["example", "token", "row", "token_id", "text"]
    assert back.tokens.to_table(columns=columns).equals(run.tokens.to_table(columns=columns))
    examples = back.examples.to_table().to_pylist()
    assert [(e["topic"], e["example_text"]) for e in examples] == list(
        zip("abcd", texts, strict=True)
    )
    hashes = [s.table("examples").column("content_hash") for s in (back, run)]
    assert hashes[0].to_pylist() == hashes[1].to_pylist()


def test_a_dataset_comes_back_through_numpy(wide, tmp_path):
    out = residuum.export(wide.path, tmp_path / "out", format="dataset", sites=["z"])
    found = datasets.load_from_disk(str(out)).with_format("numpy")
    arrays = {
        layer: found[f"z.{layer}"][:].reshape(-1, made.N_HEAD, made.D_HEAD) for layer in range(3)
    }
    table = pa.table({name: found[name][:] for name in ("example", "token")})
    back = residuum.import_activations(tmp_path / "back", {"z": arrays}, table=table)
    exact(back["z"].read(), wide.arrays["z"])


def test_a_table_of_rows_fills_the_stores_tables(tmp_path):
    store = residuum.import_activations(
        tmp_path / "run", {"resid_post": {0: draw(8, D)}}, table=per_row(), model_name="mine"
    )
    examples = store.examples.to_table().to_pylist()
    assert [(e["n_token"], e["n_row"], e["first_row"], e["topic"]) for e in examples] == [
        (3, 3, 0, "topic 0"),
        (1, 1, 3, "topic 1"),
        (4, 4, 4, "topic 2"),
    ]
    assert store.table("rows").column_names == ["row", "label"]
    query = (
        "SELECT label, t.text FROM rows JOIN tokens t USING (row) WHERE example = 2 ORDER BY token"
    )
    assert store.sql(query).fetchall() == [(1, " w4"), (2, " w5"), (0, " w6"), (1, " w7")]
    ids = per_row().column("token_id").to_pylist()
    assert store.target.read().tolist() == [ids[1], ids[2], -1, -1, *ids[5:], -1]
    assert store.model["name"] == "mine"
    assert "mine" in repr(store)


def test_tables_of_every_kind_say_the_same(tmp_path):
    table = per_row()
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=3)
    pyarrow.csv.write_csv(table, tmp_path / "t.csv")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(r) + "\n" for r in table.to_pylist()))
    given = [table, table.to_pandas(), *(tmp_path / f"t.{s}" for s in ("parquet", "csv", "jsonl"))]
    made_of = [
        residuum.import_activations(tmp_path / f"run{n}", {"embed": draw(8, D)}, table=one)
        for n, one in enumerate(given)
    ]
    for store in made_of[1:]:
        for name in ("examples", "tokens", "rows"):
            found, expected = store.table(name), made_of[0].table(name)
            assert found.to_pylist() == expected.to_pylist()


def test_categories_are_what_they_stand_for(tmp_path):
    frame = per_row().to_pandas()
    wanted = residuum.import_activations(tmp_path / "plain", {"embed": draw(8, D)}, table=frame)
    for name in ("example", "topic", "text"):
        frame[name] = frame[name].astype("category")
    frame["example"] = frame["example"].cat.set_categories([2, 7, 1, 0])  # codes in another order
    store = residuum.import_activations(tmp_path / "run", {"embed": draw(8, D)}, table=frame)
    for name in ("examples", "tokens", "rows"):
        assert store.table(name).to_pylist() == wanted.table(name).to_pylist()


def test_examples_are_counted_anew_and_gaps_stay_without_a_row(tmp_path):
    table = pa.table(
        {"example": ["x", "x", "q"], "token": [1, 3, 0], "token_id": [4, 5, 6], "row": [11, 13, 40]}
    )
    store = residuum.import_activations(tmp_path / "run", {"embed": draw(3, D)}, table=table)
    examples = store.examples.to_table().to_pylist()
    assert [(e["source_example"], e["n_token"], e["n_row"]) for e in examples] == [
        ("x", 4, 2),
        ("q", 1, 1),
    ]
    tokens = store.tokens.to_table().to_pylist()
    assert [(t["example"], t["token"], t["row"]) for t in tokens] == [
        (0, 0, None),
        (0, 1, 0),
        (0, 2, None),
        (0, 3, 1),
        (1, 0, 2),
    ]
    assert store.target.read().tolist() == [-1, -1, -1]
    assert store.table("rows").column("source_row").to_pylist() == [11, 13, 40]


def test_token_ids_may_be_unknown(tmp_path):
    table = pa.table({"example": [0, 0, 1, 1], "token": [0, 1, 0, 1], "token_id": [4, None, 6, 7]})
    some = residuum.import_activations(tmp_path / "some", {"embed": draw(4, D)}, table=table)
    assert some.target.read().tolist() == [-1, -1, 7, -1]
    assert some.tokens.to_table().column("token_id").to_pylist() == [4, None, 6, 7]
    nulls = table.set_column(2, "token_id", pa.nulls(4, pa.int32()))
    none = residuum.import_activations(tmp_path / "none", {"embed": draw(4, D)}, table=nulls)
    assert none.target is None
    for store in (some, none):  # examples that may differ are not taken for repeats
        assert len(set(store.examples.to_table().column("content_hash").to_pylist())) == 2


def test_a_table_of_examples_beside_vectors(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\nfirst one,1\nsecond,0\n007,1\n")
    acts = draw(3, D)
    store = residuum.import_activations(
        tmp_path / "run", {"resid_post": {4: acts}}, table=tmp_path / "t.csv"
    )
    exact(read(store, "resid_post", 4), acts)
    query = (
        "SELECT e.text, label, t.text FROM tokens t JOIN examples e USING (example) ORDER BY row"
    )
    assert store.sql(query).fetchall() == [
        ("first one", 1, "first one"),
        ("second", 0, "second"),
        ("007", 1, "007"),
    ]
    found = residuum.analyses.run("clusters", store, k=2)
    assert set(found["nearest"].column("text").to_pylist()) == {"first one", "second", "007"}


def test_padded_arrays_with_the_length_of_each_example(tmp_path):
    acts = draw(3, 5, D)
    table = pa.table({"n_token": [2, 5, 1], "label": [1, 2, 3]})
    store = residuum.import_activations(tmp_path / "run", {"resid_post": {1: acts}}, table=table)
    exact(read(store, "resid_post", 1), np.concatenate([acts[0, :2], acts[1], acts[2, :1]]))
    assert store.examples.to_table().column("label").to_pylist() == [1, 2, 3]
    ragged = residuum.import_activations(tmp_path / "ragged", {"embed": draw(8, D)}, table=table)
    assert ragged.examples.to_table().column("first_row").to_pylist() == [0, 2, 7]


def test_padded_arrays_with_a_record_per_row(tmp_path):
    acts = draw(3, 5, 2, D)
    table = pa.table({"example": [0, 0, 2], "token": [4, 1, 3]}).sort_by(
        [("example", "ascending"), ("token", "ascending")]
    )
    store = residuum.import_activations(
        tmp_path / "run", {"resid_post": acts}, table=table, layers=[3, 7]
    )
    assert store["resid_post"].layers == (3, 7)
    exact(store["resid_post"].read(), acts[[0, 0, 2], [1, 4, 3]])


def test_without_a_table_every_row_is_an_example(tmp_path):
    acts = draw(4, N_HEAD, D_HEAD)
    store = residuum.import_activations(tmp_path / "run", {"z": {0: acts}})
    assert store.n_example == store.n_row == 4
    assert store.tokens.to_table().column("token").to_pylist() == [0] * 4
    whole = residuum.import_activations(tmp_path / "whole", {"z": {0: draw(4, 3, N_HEAD, D_HEAD)}})
    assert (whole.n_example, whole.n_row) == (4, 12)


def test_sites_of_examples(tmp_path):
    pooled, embed = draw(3, D), draw(8, D)
    store = residuum.import_activations(
        tmp_path / "pooled", {"pooled": pooled}, table=pa.table({"text": list("abc")})
    )
    exact(store["pooled"].read(), pooled)
    assert store.n_row == 3
    assert len(residuum.analyses.run("clusters", store, k=2)["assignments"]) == 3
    both = residuum.import_activations(
        tmp_path / "both", {"pooled": pooled, "embed": embed}, table=per_row()
    )
    query = "SELECT topic FROM pooled p JOIN examples e ON e.example_row = p.row ORDER BY p.row"
    assert both.sql(query).fetchall() == [("topic 0",), ("topic 1",), ("topic 2",)]
    assert both.verify().ok


def test_arrays_of_every_kind_and_memory_layout(tmp_path):
    acts = draw(8, 3, D)
    given = {
        "numpy": acts,
        "fortran": np.asfortranarray(acts),
        "torch": torch.from_numpy(acts).requires_grad_(),
        "strided": np.repeat(acts, 2, 0)[::2],
    }
    np.save(tmp_path / "f.npy", np.asfortranarray(acts))
    given["file"] = str(tmp_path / "f.npy")
    for name, array in given.items():
        store = residuum.import_activations(tmp_path / name, {"mlp_out": array}, n_layer=3)
        exact(store["mlp_out"].read(), acts)
    half = torch.from_numpy(acts).to(torch.bfloat16)
    store = residuum.import_activations(tmp_path / "bf", {"mlp_out": half[:, 1::2]}, layers="1")
    exact(store["mlp_out"].torch()[:, 0].float().numpy(), half[:, 1].float().numpy())


def test_dicts_of_tensors_are_named_by_site_and_layer(tmp_path):
    tensors = {f"resid_post.{n}": torch.from_numpy(draw(8, D, seed=n)) for n in (0, 3)}
    tensors["embed"] = torch.from_numpy(draw(8, D, seed=9))
    torch.save(tensors, tmp_path / "a.pt")
    torch.save(tensors, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    safetensors.torch.save_file(tensors, tmp_path / "a.safetensors")
    for name in ("a.pt", "old.pt", "a.safetensors"):
        out = tmp_path / f"{name}.run"
        command("import", tmp_path / name, "-o", out)
        store = Store(out)
        assert store["resid_post"].layers == (0, 3)
        exact(read(store, "resid_post", 3), tensors["resid_post.3"].numpy())
        exact(read(store, "embed"), tensors["embed"].numpy())
    only = residuum.import_activations(tmp_path / "only", {"resid_post": tmp_path / "a.pt"})
    assert (only.sites, only["resid_post"].layers) == (("resid_post",), (0, 3))


def test_the_command_pairs_files_with_sites_and_layers(tmp_path):
    acts = [draw(8, D, seed=n) for n in range(3)]
    for n, name in enumerate(("a", "b", "resid_final")):
        np.save(tmp_path / f"{name}.npy", acts[n])
    safetensors.torch.save_file(
        {"x": torch.zeros(3), "y": torch.from_numpy(acts[0])}, tmp_path / "odd.safetensors"
    )
    pq.write_table(per_row(), tmp_path / "rows.parquet")
    done = command(
        "import", tmp_path / "a.npy", tmp_path / "b.npy", "-o", tmp_path / "run",
        "--site", "mlp_out", "--layer", "1", "--layer", "4", "--n-layer", "6",
        "--table", tmp_path / "rows.parquet", "--dtype", "float16", "--codec", "zstd",
        "--shard-rows", "4", "--chunk-rows", "2", "--model-name", "gpt-x",
    )  # fmt: skip
    assert done.out == ""
    assert "3 examples, 8 rows of mlp_out." in done.err
    store = Store(tmp_path / "run")
    assert store["mlp_out"].shape == (8, 6, D)
    exact(read(store, "mlp_out", 4), acts[1].astype(np.float16))
    assert "gpt-x" in command("info", tmp_path / "run").out
    assert "no problem" in command("verify", tmp_path / "run").out
    command("import", tmp_path / "resid_final.npy", "-o", tmp_path / "named")
    exact(read(Store(tmp_path / "named"), "resid_final"), acts[2])
    chosen = ["--site", "embed", "--tensor", "y"]
    command("import", tmp_path / "odd.safetensors", "-o", tmp_path / "odd", *chosen)
    exact(read(Store(tmp_path / "odd"), "embed"), acts[0])


def test_what_needs_a_model_says_so(tmp_path):
    n = 12
    arrays = {"resid_post": draw(n, 2, D), "z": draw(n, 2, N_HEAD, D_HEAD), "embed": draw(n, D)}
    arrays["mlp_out"] = draw(n, 2, D)
    store = residuum.import_activations(tmp_path / "run", arrays, n_layer=2)
    for name in ("logit_lens", "head_attribution"):
        with pytest.raises(StoreError, match=f"{name} needs the model's weights, but .* imported"):
            residuum.analyses.run(name, store)
    said = one_paragraph(command("run", "logit_lens", tmp_path / "run", code=1))
    assert "imported" in said
    names = [analysis.name for analysis in registry.answerable(store)]
    assert names == ["clusters"]
    page = build(StoreCard.of(store.info()), [registry.run("clusters", store, k=2)])
    assert "without a name" in page
    near = "SELECT row FROM nearest('resid_post', 1, of := 0, k := 3)"
    assert len(store.sql(near).fetchall()) == 3


def test_sql_functions_that_need_weights_say_so(tmp_path):
    import duckdb

    store = residuum.import_activations(tmp_path / "run", {"resid_post": draw(9, 2, D)}, n_layer=2)
    with pytest.raises(duckdb.Error, match=r"W_U|weights|readout"):
        store.sql("FROM logit_lens(k := 1)").fetchall()


def test_an_import_is_exported_again(tmp_path):
    residuum.import_activations(tmp_path / "run", {"embed": draw(8, D)}, table=per_row())
    copy = Store(residuum.export(tmp_path / "run", tmp_path / "copy", format="store", rows=[0, 5]))
    assert copy.table("rows").to_pylist() == [{"row": 0, "label": 0}, {"row": 1, "label": 2}]
    assert copy.verify().ok


def test_memory_is_that_of_a_block(tmp_path):
    import tracemalloc

    np.save(tmp_path / "resid_post.0.npy", draw(16384, 768))
    tracemalloc.start()
    residuum.import_activations(
        tmp_path / "run",
        {"resid_post": {0: tmp_path / "resid_post.0.npy"}},
        memory="16MB",
        dtype="float16",
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6  # of 50 MB


def resident(path):
    """kB of a mapped file that are in this process' memory."""
    maps = Path("/proc/self/smaps").read_text().split(str(path))
    return sum(int(part.split("Rss:")[1].split()[0]) for part in maps[1:])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_mapped_files_do_not_pile_up_in_memory(tmp_path):
    safetensors.torch.save_file({"embed": torch.ones(4096, 64)}, tmp_path / "a.safetensors")
    np.save(tmp_path / "a.npy", np.ones((4096, 64), np.float32))
    for name in ("a.safetensors", "a.npy"):
        (part,) = parts.of_arrays({"embed": tmp_path / name})
        assert part.array.sum() == 4096 * 64
        assert resident(tmp_path / name) >= 1024
        blocks.let_go(part.array)
        assert resident(tmp_path / name) == 0
        assert part.array.sum() == 4096 * 64


def test_an_array_of_the_callers_stays_as_it_is(tmp_path, monkeypatch):
    """Also one that is a private map of a file, whose changes are nowhere else."""
    monkeypatch.setattr("residuum.exchange.blocks.MOST_BYTES", 4096)
    np.save(tmp_path / "x.npy", draw(5000, D))
    mine = np.load(tmp_path / "x.npy", mmap_mode="c")
    mine *= 0.5
    expected = np.array(mine)
    store = residuum.import_activations(tmp_path / "run", {"embed": mine})
    exact(store["embed"].read(), expected)
    exact(np.asarray(mine), expected)


def test_nonfinite_numbers_are_kept_where_asked(tmp_path):
    acts = draw(3, D)
    acts[1, 2] = np.nan
    store = residuum.import_activations(tmp_path / "run", {"embed": acts}, allow_nonfinite=True)
    exact(store["embed"].read(), acts)
