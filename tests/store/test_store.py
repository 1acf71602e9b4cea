"""A store as a whole: what it says it is, what it refuses, and what commits make visible."""

import html.parser
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from store import made

import residuum
from residuum.errors import ArgumentError, SiteError, StoreError
from residuum.sites import Site
from residuum.store import ArrayPlan, Store, StoreWriter


def test_what_a_store_says_about_itself(store, own):
    assert store.sites == ("embed", "k", "z", "mlp_out", "resid_post", "pooled")
    assert (store.n_row, store.n_example) == (made.N_ROW, len(made.LENGTHS))
    assert store.rows == {"token": made.N_ROW, "example": len(made.LENGTHS)}
    assert store.physical_rows == store.rows
    assert store.complete
    assert store.is_current
    assert store.model == made.MODEL
    assert store.attributes["format"] == 1
    assert "z" in store
    assert "q" not in store
    site = store["z"]
    assert site is store["z"]
    assert site.axes == ("row", "layer", "head", "d_head")
    assert site.shape == (made.N_ROW, made.N_LAYER, made.N_HEAD, made.D_HEAD)
    assert (site.chunk_rows, site.shard_rows) == (made.CHUNK_ROWS, made.SHARD_ROWS)
    assert (site.row_space, store["pooled"].row_space) == ("token", "example")
    assert site.nbytes == own.arrays["z"].nbytes
    assert store["mlp_out"].nbytes == own.arrays["mlp_out"].nbytes * 2 // 3


def test_a_store_is_no_sequence(store):
    with pytest.raises(TypeError, match=r"store\.sites"):
        iter(store)


def test_a_site_that_is_not_there_lists_those_that_are(store):
    for name in ("q", "no such site", "Z"):
        with pytest.raises(SiteError) as caught:
            store[name]
        assert isinstance(caught.value, KeyError)
        assert isinstance(caught.value, ValueError)
        for word in (name, *store.sites):
            assert word in str(caught.value)


def test_no_store_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(StoreError, match=path.name) as caught:
            residuum.open(path)
        assert isinstance(caught.value, OSError)


def test_a_newer_format_is_refused_by_number(own):
    root = json.loads((own.path / "zarr.json").read_text())
    root["attributes"]["residuum"]["format"] = 99
    (own.path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="99"):
        Store(own.path)


def test_weights_are_a_mapping_of_float32(store, own):
    assert dict(store.weights.items()).keys() == own.weights.keys()
    assert list(store.weights) == sorted(own.weights)
    stock = safetensors.numpy.load_file(own.path / "weights" / "readout.safetensors")
    for name, want in own.weights.items():
        read = store.weights[name]
        assert read.dtype == np.float32
        assert type(read) is np.ndarray
        np.testing.assert_array_equal(read, want)
        np.testing.assert_array_equal(stock[name], want)
        assert store.weights.shape(name) == want.shape
    with pytest.raises(KeyError, match=r"no weight `W_E`.*W_O, W_U"):
        store.weights["W_E"]
    assert "W_U [11, 13]" in repr(store.weights)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_other_types_are_widened_or_rounded(tmp_path, dtype):
    values = np.random.default_rng(0).standard_normal((3, 5)).astype(made.numpy_dtype(dtype))
    with made.create(tmp_path / "run.residuum") as writer:
        writer.write_weights({"W_U": values.T, "b_U": values[0]})
        with pytest.raises(ArgumentError, match="weight `ids` is int64"):
            writer.write_weights({"ids": np.arange(3)})
    weights = Store(tmp_path / "run.residuum").weights
    np.testing.assert_array_equal(weights["W_U"], values.T.astype(np.float32))
    np.testing.assert_array_equal(weights["b_U"], values[0].astype(np.float32))


def test_damaged_weights_are_named(own):
    file = own.path / "weights" / "readout.safetensors"
    file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])
    with pytest.raises(StoreError, match=r"readout\.safetensors is damaged"):
        _ = Store(own.path).weights


def test_vocabulary(store, own):
    assert list(store.vocabulary) == made.VOCABULARY
    (own.path / "weights" / "vocabulary.json").write_text('{"a": 1}')
    with pytest.raises(StoreError, match="no list of strings"):
        _ = Store(own.path).vocabulary


def test_info_is_plain_values(store, own):
    info = store.info()
    assert json.loads(json.dumps(info)) == info
    assert info["sites"]["z"]["shape"] == [made.N_ROW, made.N_LAYER, made.N_HEAD, made.D_HEAD]
    assert info["sites"]["mlp_out"]["layers"] == list(made.MLP_LAYERS)
    assert info["sites"]["embed"]["layers"] is None
    assert info["tables"]["tokens"]["rows"] == made.N_ROW
    assert info["weights"]["W_O"] == [made.N_LAYER, made.N_HEAD, made.D_HEAD, made.D_MODEL]
    assert info["n_vocabulary"] == made.D_VOCAB
    files = [file for file in own.path.rglob("*") if file.is_file()]
    assert info["bytes"] == sum(file.stat().st_size for file in files)


def test_a_printed_store_names_model_and_sites(store, own):
    text = str(store)
    assert text == repr(store)
    assert str(own.path) in text
    assert "made <b>&" in text
    assert "4 examples, 37 rows, commit" in text
    assert "not finished" not in text
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[3:]] == list(store.sites)
    assert "[row 37, layer 3, head 5, d_head 7]" in text
    assert "layers 0, 2" in next(line for line in lines if "mlp_out" in line)
    assert str(store["z"]).startswith("SiteArray z  [row 37, layer 3, head 5, d_head 7]  float32")


class Balanced(html.parser.HTMLParser):
    """Fails where a tag closes that is not the last one open; keeps tags and text."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):  # noqa: ARG002  the base calls it so
        self.tags.append(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("of", [lambda store: store, lambda store: store["mlp_out"]])
def test_html_is_balanced(store, of):
    parser = Balanced()
    parser.feed(of(store)._repr_html_())
    parser.close()
    assert parser.open == []
    assert "mlp_out" in parser.text


def test_html_escapes_what_a_model_is_called(store):
    parser = Balanced()
    parser.feed(store._repr_html_())
    assert "made <b>&" in parser.text
    assert parser.tags.count("b") == 1
    assert parser.tags.count("tr") == 1 + len(store.sites)


def test_only_committed_rows_and_tables_are_visible(tmp_path):
    arrays, ids = made.draw("float32")
    path = tmp_path / "run.residuum"
    with made.create(path) as writer:
        made.write_rows(writer, arrays, ids, 0, 36)
        writer.write("pooled", None, arrays["pooled"], np.array([[0, 0, 4]]))
        writer.add_examples(made.examples())
        writer.add_tokens(made.tokens(ids))
        writer.commit(n_example=3, publish_tail=True)
        store = Store(path)
        assert not store.complete
        assert ", capture not finished" in str(store)
        assert (store.n_example, store.rows) == (3, {"token": 16, "example": 3})
        np.testing.assert_array_equal(store["z"].read(), arrays["z"][:16])
        assert store["pooled"].n_row == 3
        assert store.examples.to_table()["example"].to_pylist() == [0, 1, 2]
        assert store.tokens.to_table()["row"].to_pylist() == list(range(16))
        # A part that no commit lists is there after a kill; it does not count.
        part = store.parts("tokens")[0]
        (part.parent / "part-00000077.parquet").write_bytes(part.read_bytes())
        assert Store(path).tokens.count_rows() == 16
        made.write_rows(writer, arrays, ids, 36, 37)
        writer.commit(complete=True)
    assert not store.is_current
    assert store["z"].n_row == 16
    newer = Store(path)
    assert newer.complete
    assert len(newer.parts("tokens")) == 2
    assert newer.tokens.to_table()["token_id"].to_pylist() == ids.tolist()
    np.testing.assert_array_equal(newer["z"].read(), arrays["z"])
    assert newer.examples.to_table().drop_columns(["text"]).num_rows == 4


def test_a_row_that_was_never_written_is_no_commit(tmp_path):
    arrays, ids = made.draw("float32")
    path = tmp_path / "run.residuum"
    with made.create(path) as writer:
        made.write_rows(writer, arrays, ids, 0, 20)
        writer.add_examples(made.examples())
        writer.add_tokens(made.tokens(ids))
        with pytest.raises(StoreError):
            writer.commit(complete=True)
    assert Store(path).n_row == 0


def test_a_writer_refuses_what_does_not_fit(tmp_path, own):
    arrays, ids = made.draw("float32")
    run = np.array([[0, 0, made.N_ROW]])
    with made.create(tmp_path / "run.residuum") as writer:
        with pytest.raises(ArgumentError, match="no array for `q`; it has embed"):
            writer.write("q", 0, arrays["z"][:, 0], run)
        with pytest.raises(ArgumentError, match="values are int64"):
            writer.write("embed", None, np.zeros((37, 11), np.int64), run)
        with pytest.raises(ArgumentError, match="`activations/z` is 11 long but must be 35"):
            writer.write("z", 0, arrays["embed"], run)
        with pytest.raises(ArgumentError, match="the number 1, expected 0"):
            writer.add_examples(made.examples().slice(1))
        with pytest.raises(ArgumentError, match="not ordered by example"):
            writer.add_tokens(made.tokens(ids).take(np.arange(made.N_ROW)[::-1]))
        clash = made.examples().append_column("n_token", [made.LENGTHS])
        with pytest.raises(ArgumentError, match="two columns called `n_token`"):
            writer.add_examples(clash)
        with pytest.raises(StoreError, match=r"run\.residuum"):
            StoreWriter.open(tmp_path / "run.residuum")
    with pytest.raises(StoreError, match="exists already"):
        made.create(own.path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(StoreError, match="not a residuum store"):
        made.create(tmp_path / "other")


def test_nonfinite_values_are_kept_and_counted(tmp_path):
    arrays, ids = made.draw("float16")
    arrays["z"][3, 1, 2, 4:6] = np.nan, np.inf
    arrays["embed"][0, 0] = -np.inf
    with made.create(tmp_path / "run.residuum", "float16") as writer:
        made.write_rows(writer, arrays, ids)
        writer.flush()
        assert writer.nonfinite() == [("embed", None, 0, 1), ("z", 1, 1, 1)]


KILLED = """
import os, signal, sys
from pathlib import Path
from store import made
arrays, ids = made.draw("float32")
writer = made.create(Path(sys.argv[1]))
made.write_rows(writer, arrays, ids, 0, 20)
writer.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_store_killed_before_its_first_commit_opens_empty(tmp_path):
    path = tmp_path / "run.residuum"
    tests = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", KILLED, str(path)]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": tests}, check=False)
    assert done.returncode == -signal.SIGKILL
    store = Store(path)
    assert (store.n_row, store.n_example, store.complete) == (0, 0, False)
    assert store["z"].read().shape == (0, made.N_LAYER, made.N_HEAD, made.D_HEAD)
    assert list(store["z"].stream(layer=0)) == []
    assert store.tokens.to_table().column_names[:3] == ["example", "token", "row"]
    assert store.examples.count_rows() == 0
    assert store.sql("SELECT count(*) FROM tokens JOIN z USING (row)").fetchall() == [(0,)]
    assert "0 examples, 0 rows" in str(store)
    # And it can be gone on with.
    arrays, ids = made.draw("float32")
    with StoreWriter.open(path) as writer:
        made.write_rows(writer, arrays, ids)
        writer.write("pooled", None, arrays["pooled"], np.array([[0, 0, 4]]))
        writer.add_examples(made.examples())
        writer.add_tokens(made.tokens(ids))
        writer.commit(complete=True)
    np.testing.assert_array_equal(Store(path)["z"].read(), arrays["z"])
    assert Store(path).verify().ok


def test_scattered_rows_read_little_more_than_themselves(tmp_path):
    """100 rows here and there, of a store that zarr-python would read almost all of."""
    n_row, n_layer, width, chunk = 4096, 2, 64, 256
    values = np.random.default_rng(1).standard_normal((n_row, width)).astype(np.float16)
    writer = StoreWriter.create(
        tmp_path / "run.residuum",
        model={},
        capture={},
        arrays=[ArrayPlan(Site.RESID_POST, n_layer, range(n_layer), (width,), "float16")],
        target=False,
        shard_rows=n_row,
        chunk_rows=chunk,
    )
    with writer:
        for layer in range(n_layer):
            writer.write("resid_post", layer, values + np.float16(layer), np.array([[0, 0, n_row]]))
        writer.commit(complete=True, rows={"token": n_row, "example": 0})
    store = Store(tmp_path / "run.residuum")
    store["resid_post"].read([0], 0)  # the shards' indexes are read once
    store["resid_post"].read([0], 1)
    rows = np.random.default_rng(0).permutation(n_row)[:100]
    for layers, wanted in ((1, 100), ([0, 1], 200)):
        before = store.counters()["bytes_read"]
        store["resid_post"].read(rows, layers)
        assert store.counters()["bytes_read"] - before <= 1.5 * wanted * width * 2
    before = store.counters()["bytes_read"]
    store["resid_post"].read(rows, 1, verify=True)
    chunks = len(np.unique(rows // chunk))
    assert store.counters()["bytes_read"] - before == chunks * (chunk * width * 2 + 4)


def test_verify_finds_what_a_read_of_rows_passes_over(own):
    shard = own.path / "activations/resid_post/c/0/1/0"
    damaged = bytearray(shard.read_bytes())
    damaged[made.D_MODEL * 4] ^= 1  # row 1
    shard.write_bytes(damaged)
    site = Store(own.path)["resid_post"]
    np.testing.assert_array_equal(site.read([0], 1), own.arrays["resid_post"][[0], 1])
    for rows, verify in (([0], True), (slice(0, 4), False)):
        with pytest.raises(StoreError, match="checksum of its chunk 0"):
            Store(own.path)["resid_post"].read(rows, 1, verify=verify)
    for stream in ({"batch_rows": 8}, {"shuffle": True, "verify": True}):
        with pytest.raises(StoreError, match="checksum of its chunk 0"):
            list(Store(own.path)["resid_post"].stream(1, **stream))
