"""What was written is what is read, by residuum, by stock zarr and by tensorstore."""

import errno
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
import tensorstore
import zarr
from store import made

from residuum.errors import ArgumentError, SelectionError, SiteError, StoreError
from residuum.store import Store

MASK = np.arange(made.N_ROW) % 5 == 2
ROWS = {
    "all": None,
    "slice": slice(3, 30),
    "step": slice(30, 3, -4),
    "tail": slice(-2, None),
    "empty": slice(5, 5),
    "list": [36, 0, 17, 17, -1],
    "array": np.array([15, 16, 3, 4], np.int32),
    "unsigned": np.array([20, 19], np.uint64),
    "range": range(2, 9, 3),
    "mask": MASK,
    "arrow": pa.array([5, 36, 5]),
    "arrow chunks": pa.chunked_array([[7], [], [1, 30]], pa.int64()),
    "arrow mask": pa.array(MASK),
    "no rows": [],
    "one": 8,
}


def by_numpy(selector):
    """The same selection for numpy, which knows no Arrow columns."""
    if isinstance(selector, pa.Array | pa.ChunkedArray):
        return np.array(selector.to_pylist())
    if isinstance(selector, range | list):
        return np.array(selector, np.int64)
    return slice(None) if selector is None else selector


def bits(array):
    """Bits to compare, so that NaN equals NaN and -0 differs from 0."""
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")


def opened_by_zarr(path, site):
    return zarr.open_group(str(path), mode="r")[f"activations/{site}"]


@pytest.mark.parametrize("site", list(made.INNER))
def test_stock_zarr_sees_the_numbers_that_were_written(kept, site):
    array = opened_by_zarr(kept.path, site)
    want = kept.arrays[site]
    assert array.shape == want.shape
    assert array.dtype == want.dtype
    read = array[...]
    if site == "mlp_out":  # NaN bits of layers without chunks are the fill value's
        assert np.isnan(read[:, 1].astype(np.float32)).all()
        read, want = read[:, list(made.MLP_LAYERS)], want[:, list(made.MLP_LAYERS)]
    np.testing.assert_array_equal(bits(read), bits(want))


@pytest.mark.parametrize("site", ["embed", "z"])
def test_tensorstore_sees_the_same_bits(kept, site):
    path = str(kept.path / "activations" / site)
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
    read = tensorstore.open(spec, open=True, read=True).result().read().result()
    assert read.dtype == kept.arrays[site].dtype
    np.testing.assert_array_equal(bits(read), bits(kept.arrays[site]))


def test_zarr_needs_no_import_of_ours_for_bfloat16(tmp_path):
    done = made.write(tmp_path / "run.residuum", "bfloat16")
    script = (
        "import sys, zarr; array = zarr.open_group(sys.argv[1], mode='r')['activations/z']; "
        "print(array.dtype, array[...].tobytes().hex())"
    )
    command = [sys.executable, "-c", script, str(done.path)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert out == ["bfloat16", done.arrays["z"].tobytes().hex()]


@pytest.mark.parametrize("codec", ["none", "zstd"])
def test_codecs_keep_every_bit(tmp_path, codec):
    done = made.write(tmp_path / "run.residuum", "float16", codec)
    store = Store(done.path)
    np.testing.assert_array_equal(bits(store["z"].read()), bits(done.arrays["z"]))
    zarr_z = opened_by_zarr(done.path, "z")[...]
    np.testing.assert_array_equal(bits(zarr_z), bits(done.arrays["z"]))
    assert store.verify().ok


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_rows_are_picked_as_numpy_picks_them(kept, rows):
    want = opened_by_zarr(kept.path, "z")[...][by_numpy(rows)]
    read = Store(kept.path)["z"].read(rows, dtype=kept.arrays["z"].dtype)
    assert read.shape == want.shape
    np.testing.assert_array_equal(bits(read), bits(want))


@pytest.mark.parametrize("layers", [1, -1, [2, 0], slice(1, None), np.array([True, False, True])])
@pytest.mark.parametrize("heads", [None, 4, [3, 0, 3], slice(0, 5, 2), np.int64(2)])
@pytest.mark.parametrize("rows", [[33, 2, 16], 20])
def test_layers_and_heads_are_picked_along_their_own_axes(kept, rows, layers, heads):
    want = opened_by_zarr(kept.path, "z")[...]
    # From the last axis to the first, so that a dropped axis moves no axis still to come.
    for axis, selector in ((2, heads), (1, layers), (0, rows)):
        if selector is not None:
            want = want[(slice(None),) * axis + (selector,)]
    read = Store(kept.path)["z"].read(rows, layers, heads, dtype=want.dtype)
    assert read.shape == want.shape
    np.testing.assert_array_equal(bits(read), bits(want))


def test_sites_without_layers_or_heads_have_no_such_axis(kept):
    store = Store(kept.path)
    for site in ("embed", "pooled"):
        read = store[site].read([2, 0])
        np.testing.assert_array_equal(read, kept.arrays[site][[2, 0]].astype(read.dtype))
        with pytest.raises(SiteError, match=f"`{site}` has no axis `layer`"):
            store[site].read(layers=0)
    with pytest.raises(SiteError, match="`resid_post` has no axis `head`"):
        store["resid_post"].read(heads=0)
    want = kept.arrays["k"][4, 1, 0]
    np.testing.assert_array_equal(store["k"].read(4, 1, 0), want.astype(np.float32))


def test_all_layers_are_all_that_were_captured(kept):
    site = Store(kept.path)["mlp_out"]
    assert site.layers == made.MLP_LAYERS
    assert site.shape == (made.N_ROW, made.N_LAYER, made.D_MODEL)
    want = kept.arrays["mlp_out"][:, list(made.MLP_LAYERS)].astype(np.float32)
    np.testing.assert_array_equal(site.read(dtype="float32"), want)
    for layers in (1, [0, 1], slice(None)):
        with pytest.raises(SiteError, match=r"layer 1 .*mlp_out.*0, 2"):
            site.read(layers=layers)


def test_dtype_of_a_read(kept):
    site = Store(kept.path)["resid_post"]
    stored = kept.arrays["resid_post"]
    assert site.dtype == stored.dtype
    default = site.read()
    wide = stored.dtype in (np.float32, ml_dtypes.bfloat16)
    assert default.dtype == (np.float32 if wide else np.float16)
    for dtype in ("float32", "float64", "float16", "bfloat16", np.float32):
        read = site.read(dtype=dtype)
        assert read.dtype == made.numpy_dtype(dtype)
        want = stored.astype(np.float32).astype(read.dtype)
        np.testing.assert_array_equal(bits(read), bits(want))


def test_out_is_filled_in_place(kept):
    site = Store(kept.path)["z"]
    want = kept.arrays["z"][[9, 1]][:, 2]
    for dtype in (want.dtype, np.float32, np.float64):
        out = np.full((2, made.N_HEAD, made.D_HEAD), 99, dtype)
        assert site.read([9, 1], 2, out=out) is out
        np.testing.assert_array_equal(out, want.astype(np.float32).astype(dtype))


def test_an_out_that_does_not_fit_is_refused_untouched(kept):
    site = Store(kept.path)["resid_post"]
    shape = (made.N_ROW, made.D_MODEL)
    fixed = np.zeros(shape, np.float32)
    fixed.flags.writeable = False
    bad = {
        "shape": np.zeros((made.D_MODEL, made.N_ROW), np.float32),
        "C-contiguous": np.zeros(shape[::-1], np.float32).T,
        "writeable": fixed,
    }
    for word, out in bad.items():
        with pytest.raises(ArgumentError, match=word):
            site.read(layers=0, out=out)
        assert not out.any()
    with pytest.raises(ArgumentError, match="float16"):
        site.read(layers=0, out=np.zeros(shape, np.float32), dtype="float16")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([0, 37], "37 is out of range for axis `row` of z, whose length is 37"),
        (-38, "-38 is out of range"),
        (MASK[:-1], "a mask of length 36"),
        ([0.0, 1.0], "numbers of type float64"),
        ([[0, 1]], "a selector of 2 axes"),
        (pa.array([1, None, None]), "a column with 2 nulls cannot"),
        (pa.array([1, None]), "a column with 1 null cannot"),
        ("row", "axis `row`"),
    ],
)
def test_rows_that_cannot_be_picked_are_refused(kept, rows, message):
    with pytest.raises(SelectionError, match=message) as caught:
        Store(kept.path)["z"].read(rows)
    assert isinstance(caught.value, IndexError)


def test_layers_and_heads_out_of_range_name_their_axis(kept):
    """The same error as for those that were not captured, here and in the kernels."""
    store = Store(kept.path)
    with pytest.raises(SiteError, match="3 is out of range for axis `layer` of z") as caught:
        store["z"].read(layers=3)
    assert isinstance(caught.value, IndexError)
    with pytest.raises(SiteError, match="-4 is out of range for axis `layer` of z"):
        store["z", -4]
    with pytest.raises(SiteError, match="5 is out of range for axis `head` of z"):
        store["z"].read(heads=[0, 5])
    with pytest.raises(SiteError, match="1 is out of range for axis `kv_head` of k"):
        store["k"].read(heads=1)
    with pytest.raises(SelectionError, match=r"a mask of length 2 .* axis `layer`"):
        store["z"].read(layers=[True, False])


def test_a_layer_by_its_familiar_name(kept):
    store = Store(kept.path)
    want = kept.arrays["resid_post"][:, 2].astype(np.float32)
    np.testing.assert_array_equal(store["resid_post", 2].astype(np.float32), want)
    np.testing.assert_array_equal(store["resid_post", [2]].astype(np.float32), want[:, None])


def test_targets_are_the_next_tokens(kept):
    read = Store(kept.path).target.read()
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, made.target(kept.ids))
    stock = zarr.open_group(str(kept.path), mode="r")["index/target"]
    np.testing.assert_array_equal(stock[...], read)


def test_torch_keeps_the_dtype_and_the_bits(kept):
    import torch

    tensor = Store(kept.path)["z"].torch([3, 1], 2, heads=[0, 4])
    want = kept.arrays["z"][[3, 1], 2][:, [0, 4]]
    assert str(tensor.dtype) == f"torch.{want.dtype.name}"
    kind = torch.int32 if want.dtype.itemsize == 4 else torch.int16
    np.testing.assert_array_equal(tensor.view(kind).numpy(), want.view(f"i{want.dtype.itemsize}"))


def test_statistics_of_a_layer_are_those_of_its_rows(kept):
    store = Store(kept.path)
    for site, layer in [("z", 2), ("mlp_out", 2), ("embed", None)]:
        rows = store[site].read(layers=layer).astype(np.float64)
        found = store.statistics(site, layer)
        assert found.n_row == len(rows)
        np.testing.assert_array_equal(found.min, rows.min(0))
        np.testing.assert_array_equal(found.max, rows.max(0))
        np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.std, rows.std(0), rtol=1e-5)
    with pytest.raises(SiteError, match="0, 2"):
        store.statistics("mlp_out", 1)
    with pytest.raises(ArgumentError, match="`z` has layers"):
        store.statistics("z")
    with pytest.raises(SiteError, match="`embed` has no axis `layer`"):
        store.statistics("embed", 0)


def test_chunks_without_a_finite_value_count_for_nothing(tmp_path):
    arrays, ids = made.draw("float32")
    z = arrays["z"]
    z[: made.CHUNK_ROWS, 1, 0, 0] = np.inf
    z[made.CHUNK_ROWS :, 1, 0, 0] = 5.0
    z[:, 1, 0, 1] = np.nan
    with made.create(tmp_path / "run") as writer:
        made.write_rows(writer, arrays, ids)
        writer.write("pooled", None, arrays["pooled"], np.array([[0, 0, len(made.LENGTHS)]]))
        writer.add_examples(made.examples())
        writer.add_tokens(made.tokens(ids))
        writer.commit(complete=True)
    found = Store(tmp_path / "run").statistics("z", 1)
    assert found.n_row == made.N_ROW
    one = [values[0, 0] for values in (found.min, found.max, found.mean, found.std)]
    assert one == [5, 5, 5, 0]
    assert np.isnan(
        [values[0, 1] for values in (found.min, found.max, found.mean, found.std)]
    ).all()


def test_a_commit_that_failed_can_be_made_again(tmp_path, monkeypatch):
    arrays, ids = made.draw("float32")
    with made.create(tmp_path / "run") as writer:
        made.write_rows(writer, arrays, ids)
        writer.write("pooled", None, arrays["pooled"], np.array([[0, 0, len(made.LENGTHS)]]))
        writer.add_examples(made.examples())
        writer.add_tokens(made.tokens(ids))
        with monkeypatch.context() as patch:
            patch.setattr("residuum.store.writer.write_part", full)
            with pytest.raises(OSError, match="No space left"):
                writer.commit(complete=True)
        writer.commit(complete=True)
    store = Store(tmp_path / "run")
    assert store.verify().ok
    assert store.examples.count_rows() == len(made.LENGTHS)
    assert store.tokens.count_rows() == made.N_ROW


def full(*_part):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_views_are_the_rows_in_the_file(kept):
    store = Store(kept.path)
    for name, layer in (("z", 2), ("mlp_out", -1), ("embed", None), ("pooled", None)):
        site = store[name]
        parts = list(site.views(layer))
        want = kept.arrays[name] if layer is None else kept.arrays[name][:, layer]
        assert {len(part) for part in parts[:-1]} <= {site.chunk_rows}
        np.testing.assert_array_equal(np.concatenate(parts), want)
        assert parts[0].dtype == site.dtype
        assert np.shares_memory(parts[0], next(site.views(layer)))
        with pytest.raises(ValueError, match="read-only"):
            parts[0][0] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            parts[0].setflags(write=True)
    with pytest.raises(SiteError, match="0, 2"):
        store["mlp_out"].views(1)
    with pytest.raises(ArgumentError, match="`z` has layers"):
        store["z"].views()


@pytest.mark.parametrize(
    ("kind", "why"), [({"codec": "zstd"}, "compressed"), ({"dtype": "int8"}, "int8")]
)
def test_what_lies_nowhere_as_it_is_cannot_be_viewed(tmp_path, kind, why):
    made.write(tmp_path / "run", **kind)
    with pytest.raises(ArgumentError, match=rf"embed` cannot be viewed: .*{why}.*; read it"):
        Store(tmp_path / "run")["embed"].views()


def test_a_shard_cut_short_under_a_view_is_an_error(tmp_path):
    made.write(tmp_path / "run")
    views = Store(tmp_path / "run")["embed"].views()
    first = next(views)
    shard = tmp_path / "run/activations/embed/c/0/0"
    os.truncate(shard, 0)
    assert not np.array(first).any(), "zeros, not the end of the process"
    with pytest.raises(StoreError, match="cut short"):
        next(views)


def test_statistics_are_those_of_each_chunk(kept):
    values = kept.arrays["z"].astype(np.float64).reshape(made.N_ROW, made.N_LAYER, -1)
    stock = zarr.open_group(str(kept.path), mode="r")["statistics/z"][...]
    for chunk in range(-(-made.N_ROW // made.CHUNK_ROWS)):
        rows = values[chunk * made.CHUNK_ROWS :][: made.CHUNK_ROWS]
        mean = rows.mean(0)
        want = [rows.min(0), rows.max(0), mean, ((rows - mean) ** 2).sum(0)]
        # float32 results of at most 4 values below 5.
        np.testing.assert_allclose(stock[chunk], np.stack(want, 1), rtol=1e-5, atol=1e-6)
