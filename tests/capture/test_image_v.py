"""`image_v`: the values of all tokens of an image, one row an image, beside torch's own hooks.

Maps of patches are made of them; a row that belongs to another image shows nothing wrong.
"""

import datasets
import numpy as np
import pytest
import tiny_models
import torch
import zarr
from clip.towers import D_HEAD, N_HEAD, N_LAYER, N_TOKEN
from command import residuum as command

import residuum
from clip import towers
from residuum.errors import InputError, SiteError

SHAPE = (N_TOKEN, N_HEAD, D_HEAD)
N = 6


@pytest.fixture(scope="module", params=["clip_vision", "clip_vision_joint"])
def model(request):
    return towers.build(request.param)


@pytest.fixture(scope="module")
def some():
    return towers.pictures(N)


@pytest.fixture(scope="module")
def values(model, some):
    """By hooks, `[image, layer, token, head, d_head]`, each picture once."""
    return towers.run(model, some).v.transpose(1, 0, 2, 3, 4)[: N - 1]


@pytest.fixture(scope="module")
def store(model, some, tmp_path_factory):
    sites = ["z", "resid_final", "pattern", "image_v"]
    return towers.capture(model, some, tmp_path_factory.mktemp("image_v") / "run", sites)


def test_values_are_the_models_own(store, values):
    site = store["image_v"]
    assert site.axes == ("row", "layer", "token", "kv_head", "d_head")
    assert site.shape == (N - 1, N_LAYER, *SHAPE)
    assert site.row_space == "example"
    np.testing.assert_allclose(site.read(), values, rtol=0, atol=1e-5)
    assert np.abs(values[0] - values[1]).max() > 0.1
    rows = store.examples.to_table().sort_by("example").column("example_row").to_pylist()
    assert rows == [0, 1, 2, 3, 4, 1], "a repeat has the row of the first"


@pytest.mark.parametrize(("positions", "n_row"), [("first", 5), ("last", 5), ("all", 50)])
def test_positions_are_no_matter(model, some, values, tmp_path, positions, n_row):
    sites = ["v", "image_v"]
    store = towers.capture(model, some, tmp_path / "run", sites, positions=positions)
    np.testing.assert_allclose(store["image_v"].read(), values, rtol=0, atol=1e-5)
    assert len(store["v"].read()) == n_row
    if positions == "all":
        whole = store["v"].read().reshape(N - 1, N_TOKEN, N_LAYER, N_HEAD, D_HEAD)
        np.testing.assert_array_equal(store["image_v"].read(), whole.transpose(0, 2, 1, 3, 4))


def test_alone_and_of_some_layers(model, some, values, tmp_path):
    store = towers.capture(model, some, tmp_path / "run", ["image_v"], layers=[0, 2])
    assert store.n_row == N - 1
    assert store["image_v"].layers == (0, 2)
    got = store["image_v"].read(layers=[0, 2])
    np.testing.assert_allclose(got, values[:, [0, 2]], rtol=0, atol=1e-5)
    with pytest.raises(SiteError, match="1"):
        store["image_v"].read(layers=1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_the_rounded_value(model, some, store, tmp_path, dtype):
    half = towers.capture(model, some, tmp_path / "run", ["image_v"], dtype=dtype)
    want = torch.from_numpy(store["image_v"].read()).to(getattr(torch, dtype)).float().numpy()
    np.testing.assert_array_equal(half["image_v"].read().astype(np.float32), want)


def test_block_by_block_and_in_small_chunks(model, some, store, tmp_path):
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    towers.processor().save_pretrained(folder)
    more = {"sites": ["image_v", "z"], "positions": "first", "device": "cpu"}
    small = {"shard_rows": 2, "chunk_rows": 1, "batch_tokens": 2 * N_TOKEN}
    for name, settings in (("layerwise", {"schedule": "layerwise"}), ("small", small)):
        got = residuum.capture(folder, some, tmp_path / name, **more, **settings)
        np.testing.assert_allclose(got["image_v"], store["image_v"], rtol=0, atol=1e-5)
        assert got.verify().ok


def test_images_that_are_added_come_last(model, some, store, tmp_path):
    towers.capture(model, some[:2], tmp_path / "run", ["z", "image_v"])
    grown = towers.capture(model, some[2:], tmp_path / "run", None, append=True)
    np.testing.assert_allclose(grown["image_v"], store["image_v"], rtol=0, atol=1e-5)
    rows = grown.examples.to_table().sort_by("example").column("example_row").to_pylist()
    assert rows[:5] == [0, 1, 2, 3, 4]


def test_layers_are_added_to_a_store_with_rows_of_images(model, some, store, tmp_path):
    out = tmp_path / "run"
    towers.capture(model, some, out, ["z", "pooled"])
    for layer in (2, 0):
        grown = towers.capture(model, some, out, ["image_v"], layers=[layer], append=True)
    assert grown["image_v"].layers == (0, 2)
    np.testing.assert_array_equal(
        grown["image_v"].read(layers=[0, 2]), store["image_v"].read(layers=[0, 2])
    )
    assert grown.verify().ok


@pytest.mark.parametrize("name", ["gpt2", "bert", "clip_text"])
def test_texts_have_none(name, tmp_path):
    reader = (tiny_models.build(name, torch.float32), tiny_models.tokenizer())
    with pytest.raises(SiteError, match=r"image_v.*its examples differ in length; capture v"):
        residuum.capture(reader, ["w1 w2"], tmp_path / "run", sites=["image_v"], device="cpu")
    assert not (tmp_path / "run").exists()


def test_it_is_never_int8(model, some, tmp_path):
    with pytest.raises(InputError, match="int8"):
        towers.capture(model, some, tmp_path / "run", ["image_v"], dtype="int8")


def test_sql_has_a_row_for_each_layer_of_an_image(store):
    found = store.sql("FROM image_v ORDER BY row, layer")
    assert found.columns == ["row", "layer", "vec"]
    got = found.fetchnumpy()
    want = store["image_v"].read()
    np.testing.assert_array_equal(got["row"], np.repeat(np.arange(N - 1), N_LAYER))
    np.testing.assert_array_equal(got["layer"], np.tile(np.arange(N_LAYER), N - 1))
    np.testing.assert_array_equal(np.stack(got["vec"]).reshape(want.shape), want)
    query = "SELECT vec FROM image_v JOIN examples ON row = example_row WHERE example = 5 AND layer"
    ((vector,),) = store.sql(f"{query} = 2").fetchall()
    np.testing.assert_array_equal(np.reshape(vector, SHAPE), want[1, 2])


def test_stock_zarr_reads_the_array(store):
    array = zarr.open_group(str(store.path), mode="r")["activations/image_v"]
    np.testing.assert_array_equal(array[:], store["image_v"].read())
    names = ("row", "layer", "token", "kv_head", "d_head")
    assert array.metadata.dimension_names == names


def test_verify_and_info_know_it(store, tmp_path):
    assert store.verify().ok
    assert "no problem" in command("verify", store.path).out
    assert "image_v" in command("info", store.path).out
    copy = residuum.export(store, tmp_path / "copy.residuum", format="store", progress=False)
    shards = [path for path in (copy / "activations/image_v/c").rglob("*") if path.is_file()]
    blob = bytearray(shards[0].read_bytes())
    blob[10] ^= 1
    shards[0].write_bytes(blob)
    assert not residuum.open(copy).verify().ok
    assert "image_v" in command("verify", copy, code=1).err


@pytest.mark.parametrize("format", ["store", "npy", "safetensors"])
def test_it_is_exported(store, tmp_path, format):
    suffix = {"store": "run.residuum", "npy": "out", "safetensors": "out.safetensors"}[format]
    out = residuum.export(store, tmp_path / suffix, format=format, progress=False)
    want = store["image_v"].read()
    if format == "store":
        np.testing.assert_array_equal(residuum.open(out)["image_v"].read(), want)
    elif format == "npy":
        np.testing.assert_array_equal(np.load(out / "image_v.npy"), want)
    else:
        from safetensors.numpy import load_file

        found = load_file(out)
        for layer in range(N_LAYER):
            np.testing.assert_array_equal(found[f"image_v.{layer}"], want[:, layer])


def test_a_dataset_of_it_has_a_row_an_image(model, some, store, tmp_path):
    alone = towers.capture(model, some, tmp_path / "run", ["image_v"])
    out = residuum.export(alone, tmp_path / "out", format="dataset", progress=False)
    found = datasets.load_from_disk(str(out)).with_format("numpy")
    want = store["image_v"].read()
    for layer in range(N_LAYER):
        got = np.array(found[f"image_v.{layer}"][:]).reshape(len(want), *SHAPE)
        np.testing.assert_array_equal(got, want[:, layer])


@pytest.mark.parametrize("form", ["npy", "safetensors", "layers"])
def test_what_was_exported_is_imported(store, tmp_path, form):
    want = store["image_v"].read()
    if form == "layers":
        arrays = {"image_v": {layer: want[:, layer] for layer in (0, 2)}}
        more = {"n_layer": N_LAYER}
    elif form == "npy":
        out = residuum.export(store, tmp_path / "out", format="npy", sites=["image_v"])
        arrays, more = {"image_v": out / "image_v.npy"}, {"n_layer": N_LAYER}
    else:
        file = tmp_path / "out.safetensors"
        out = residuum.export(store, file, format="safetensors", sites=["image_v"])
        arrays, more = {"image_v": out}, {}
    found = residuum.import_activations(tmp_path / "run", arrays, **more)
    layers = [0, 2] if form == "layers" else [0, 1, 2]
    assert found["image_v"].layers == tuple(layers)
    assert found["image_v"].axes == store["image_v"].axes
    np.testing.assert_array_equal(found["image_v"].read(layers=layers), want[:, layers])
    assert found.n_example == N - 1
    assert found.verify().ok
