"""A store exported as a store: verified, the same numbers, tables that still join."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from store import made

import residuum
from residuum.errors import ArgumentError, CaptureError, StoreError
from residuum.lenses import TunedLens, save, stored
from residuum.lenses.tuned import Translator
from residuum.store import Store

TEXTS = ["the red dog", "one", "the red dog", "two stars in the circle", "a cat sees one dog"]
SITES = ["resid_post", "z", "pattern", "norm_scale", "resid_final"]


@pytest.fixture(scope="module")
def run(gpt2_folder, tmp_path_factory):
    """A capture with repeats, columns of the user, and tables that join by example and row."""
    table = pa.table({"text": TEXTS, "topic": list("abcde")})
    out = tmp_path_factory.mktemp("copy") / "run"
    store = residuum.capture(gpt2_folder, table, out, sites=SITES, device="cpu", shard_rows=4)
    store.add_table("animals", pa.table({"example": [0, 1, 4], "animal": ["dog", "none", "cat"]}))
    store.add_table("marks", pa.table({"row": pa.array([0, 3, 5, 9], pa.int32()), "n": range(4)}))
    store.add_table("spans", pa.table({"example": [0, 3, 3], "row": [1, 5, 6], "n": range(3)}))
    store.add_table("words", pa.table({"text": ["dog"], "row": ["not a number"]}))
    return store


def asked(store, query):
    return store.sql(query).fetchall()


def test_all_of_a_store_is_the_same_store(known, tmp_path):
    source = Store(known.path)
    copy = Store(residuum.export(source, tmp_path / "copy", format="store"))
    assert copy.verify().ok
    assert copy.complete
    for site in source.sites:
        assert copy[site].dtype == source[site].dtype
        assert copy[site].layers == source[site].layers
        found, expected = (s[site].read(dtype=s[site].dtype) for s in (copy, source))
        np.testing.assert_array_equal(found.view("u1"), expected.view("u1"))
    np.testing.assert_array_equal(copy.target.read(), source.target.read())
    assert copy.table("tokens").equals(source.table("tokens"))
    examples = copy.table("examples")
    assert examples.drop_columns("n_row").equals(source.table("examples"))
    assert examples.column("n_row").to_pylist() == list(made.LENGTHS)
    for name in source.weights:
        np.testing.assert_array_equal(copy.weights[name], source.weights[name])
    assert copy.vocabulary == source.vocabulary


def test_rows_of_a_selection_are_those_of_the_store(run, tmp_path):
    where = "topic IN ('c', 'e') AND token > 0"
    query = f"SELECT row FROM tokens JOIN examples USING (example) WHERE {where}"
    out = residuum.export(run, tmp_path / "copy", format="store", rows=query, layers=[0, 2])
    copy = Store(out)
    assert copy.verify().ok
    join = "FROM tokens JOIN examples USING (example) WHERE row IS NOT NULL ORDER BY topic, token"
    where = "AND topic IN ('a', 'c', 'e') AND token > 0 ORDER"
    old = asked(run, f"SELECT topic, token, token_id, row {join}".replace("ORDER", where, 1))
    new = asked(copy, f"SELECT topic, token, token_id, row {join}")
    # example a says the same as c, so that it keeps rows too
    assert [row[:3] for row in new] == [row[:3] for row in old]
    assert {row[0] for row in new} == {"a", "c", "e"}
    for site in ("resid_post", "z", "pattern"):
        assert copy[site].layers == (0, 2)
        assert copy[site].shape[1] == 3
        found = copy[site].read([row[3] for row in new])
        np.testing.assert_array_equal(found, run[site].read([r[3] for r in old], layers=[0, 2]))
    target = copy.target.read([row[3] for row in new])
    np.testing.assert_array_equal(target, run.target.read([row[3] for row in old]))


def test_examples_and_tokens_are_renumbered(run, tmp_path):
    out = residuum.export(
        run,
        tmp_path / "copy",
        format="store",
        sites="z",
        rows="SELECT row FROM tokens WHERE text = 'dog'",
    )
    copy = Store(out)
    examples = copy.examples.to_table().to_pylist()
    assert [(e["topic"], e["example"], e["n_row"], e["first_row"]) for e in examples] == [
        ("a", 0, 1, 0),
        ("c", 1, 1, 0),
        ("e", 2, 1, 1),
    ]
    tokens = copy.tokens.to_table()
    assert tokens.num_rows == 3 + 3 + 5
    rows = [r for r in tokens.column("row").to_pylist() if r is not None]
    assert rows == [0, 0, 1]
    assert {tuple(r.values()) for r in copy.table("animals").to_pylist()} == {
        (0, "dog"),
        (2, "cat"),
    }


def test_user_tables_keep_joining(run, tmp_path):
    where = "SELECT row FROM tokens WHERE example IN (0, 3) AND token <> 2"
    copy = Store(residuum.export(run, tmp_path / "copy", format="store", sites="z", rows=where))
    for table, old, new in [("marks", 0, 0), ("marks", 3, 2), ("spans", 3, 2)]:
        query = f"SELECT tokens.text, n FROM {table} JOIN tokens USING (row) WHERE tokens.example"
        assert asked(copy, f"{query} = {new} ORDER BY n") == asked(
            run, f"{query} = {old} AND token <> 2 ORDER BY n"
        )
    spans = copy.table("spans")
    assert spans.column("example").to_pylist() == [0, 2, 2]
    assert spans.column("row").null_count == 1  # the row of token 2, which was left out
    assert copy.table("marks").schema.field("row").type == pa.int32()
    assert copy.table("words").equals(run.table("words"))


def test_another_dtype_codec_and_cut(run, tmp_path):
    out = residuum.export(
        run,
        tmp_path / "copy",
        format="store",
        dtype="float16",
        codec="zstd",
        shard_rows=16,
        chunk_rows=8,
    )
    copy = Store(out)
    assert copy.verify().ok
    assert (copy["z"].shard_rows, copy["z"].chunk_rows) == (16, 8)
    assert copy["norm_scale"].dtype == np.float32
    np.testing.assert_array_equal(copy["z"].read(), run["z"].read().astype(np.float16))
    assert (copy.capture["codec"], copy.capture["dtype"]) == ("zstd", "float16")
    metadata = json.loads((out / "activations/z/zarr.json").read_text())
    assert "zstd" in json.dumps(metadata["codecs"])


def test_analyses_and_sql_functions_work(run, tmp_path):
    out = residuum.export(
        run, tmp_path / "copy", format="store", rows="SELECT row FROM tokens WHERE token = 0"
    )
    copy = Store(out)
    query = "SELECT row, layer, token_id, logit FROM logit_lens(k := 1) ORDER BY row, layer"
    new = asked(copy, query)
    first = [
        row for (row,) in asked(run, "SELECT DISTINCT row FROM tokens WHERE token = 0 ORDER BY 1")
    ]
    old = [(first.index(r), *rest) for r, *rest in asked(run, query) if r in first]
    assert [row[:3] for row in new] == [row[:3] for row in old]
    assert len(residuum.analyses.run("clusters", copy, k=2)["assignments"]) == 4


def test_provenance_says_from_what(run, tmp_path):
    query = "SELECT row FROM tokens WHERE token = 0"
    copy = Store(residuum.export(run, tmp_path / "copy", format="store", sites="z", rows=query))
    said = copy.capture["exported"]
    assert (said["from"], said["commit"], said["rows"]) == ("run", run.commit, query)
    assert said["sites"] == {"z": [0, 1, 2]}
    assert said["inputs"][0]["records"] == len(TEXTS)
    assert copy.capture["sites"] == ["z"]
    assert copy.model == run.model


def test_a_part_of_a_store_is_not_appended_to(run, gpt2_folder, tmp_path):
    out = residuum.export(run, tmp_path / "copy", format="store", rows=[0, 1])
    with pytest.raises(CaptureError, match="positions is selected there, all here"):
        residuum.capture(
            gpt2_folder,
            pa.table({"text": ["one"], "topic": ["f"]}),
            out,
            sites=SITES,
            append=True,
            device="cpu",
        )


def test_all_of_a_store_can_be_appended_to(run, gpt2_folder, tmp_path):
    out = residuum.export(run, tmp_path / "copy", format="store", sites=["z"])
    more = pa.table({"text": ["one", "two dog"], "topic": ["f", "g"]})
    copy = residuum.capture(gpt2_folder, more, out, sites=["z"], append=True, device="cpu")
    assert copy.verify().ok
    assert copy.n_row == run.n_row + 2  # "one" is there already
    np.testing.assert_array_equal(copy["z"].read(slice(0, run.n_row)), run["z"].read())


def test_stored_keys_need_whole_examples(gpt2_folder, tmp_path):
    run = residuum.capture(
        gpt2_folder, TEXTS, tmp_path / "run", sites=["pattern", "z"], keys="stored", device="cpu"
    )
    with pytest.raises(ArgumentError, match="keys of pattern are the stored tokens"):
        residuum.export(run, tmp_path / "copy", format="store", rows=[0, 1])
    whole = "SELECT row FROM tokens WHERE example IN (1, 3)"
    copy = Store(residuum.export(run, tmp_path / "copy", format="store", rows=whole))
    np.testing.assert_array_equal(copy["pattern"].read(), run["pattern"].read([3, *range(4, 9)]))
    residuum.export(run, tmp_path / "z", format="store", sites="z", rows=[0, 1])


def test_rows_of_examples_alone(wide, tmp_path):
    source = Store(wide.path)
    copy = Store(
        residuum.export(source, tmp_path / "copy", format="store", sites="pooled", rows=[1, 3])
    )
    assert copy.verify().ok
    assert copy.n_row == 2
    assert copy.target is None
    np.testing.assert_array_equal(copy["pooled"].read(), source["pooled"].read([1, 3]))
    examples = copy.examples.to_table().to_pylist()
    assert [(e["text"], e["example_row"], e["first_row"], e["n_row"]) for e in examples] == [
        ("text 1 'é'", 0, None, 0),
        ("text 3 'é'", 1, None, 0),
    ]
    assert copy.tokens.to_table().column("row").null_count == 1 + 21


def test_tables_are_committed_on_the_way(wide, tmp_path, monkeypatch):
    """Where the tables fill their share of the memory; the store is the same in the end."""
    monkeypatch.setattr("residuum.exchange.store_copy.EXAMPLES", 1)
    monkeypatch.setattr("residuum.exchange.store_copy.SHARE_OF_TABLES", 1e-9)
    source = Store(wide.path)
    copy = Store(residuum.export(source, tmp_path / "copy", format="store"))
    assert copy.commit == 4  # after each example in full shards, and at the end
    assert copy.verify().ok
    assert copy.table("tokens").equals(source.table("tokens"))
    np.testing.assert_array_equal(copy["z"].read(), source["z"].read())


def lens_of(store, states=(0, 1, 2)):
    """A lens of a store's model, of random numbers."""
    n_state, d_model = store.model["n_layer"] + 1, store.model["d_model"]
    draw = np.random.default_rng(0)

    def normal(*shape):
        return draw.standard_normal(shape).astype(np.float32)

    each = {s: Translator(normal(d_model, d_model), normal(d_model)) for s in states}
    return TunedLens(each, n_state, {"model": store.model["name"]})


@pytest.fixture
def with_lenses(run):
    """The capture with two lenses, which are taken away again."""
    save(run, lens_of(run), "tuned")
    save(run, lens_of(run, [1]), "some.1")
    training = run.path / "lenses" / ".tuned.safetensors.training"
    training.write_bytes(b"where a training is")
    yield run
    shutil.rmtree(run.path / "lenses")


PARTS = {
    "all": {},
    "rows and layers": {"rows": "SELECT row FROM tokens WHERE token = 0", "layers": [0, 2]},
    "one site in int8": {"sites": "resid_post", "dtype": "int8"},
}


@pytest.mark.parametrize("part", PARTS)
def test_lenses_come_along(with_lenses, tmp_path, part):
    copy = Store(residuum.export(with_lenses, tmp_path / "copy", format="store", **PARTS[part]))
    assert copy.lenses == ("some.1", "tuned")
    assert sorted(path.name for path in (copy.path / "lenses").iterdir()) == [
        "some.1.safetensors",
        "tuned.safetensors",
    ]
    assert copy.verify().ok
    for name in copy.lenses:
        left, right = (stored(store, name) for store in (with_lenses, copy))
        assert left.about == right.about
        for state, one in left.translators.items():
            np.testing.assert_array_equal(one.weight, right.translators[state].weight)
            np.testing.assert_array_equal(one.bias, right.translators[state].bias)


def test_a_lens_of_a_part_answers_as_that_of_the_store(with_lenses, tmp_path):
    out = residuum.export(with_lenses, tmp_path / "copy", format="store", sites=["resid_post"])
    query = "FROM tuned_lens(k := 1) ORDER BY row, layer"
    assert asked(Store(out), query) == asked(with_lenses, query)


def test_a_store_without_lenses_has_no_folder_of_them(run, tmp_path):
    out = residuum.export(run, tmp_path / "copy", format="store", sites="z")
    assert not (out / "lenses").exists()


def test_a_damaged_lens_is_refused_before_anything_is_written(with_lenses, tmp_path):
    file = with_lenses.path / "lenses" / "tuned.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"tuned\.safetensors is damaged: .*; remove the file"):
        residuum.export(with_lenses, tmp_path / "copy", format="store")
    assert list(tmp_path.iterdir()) == []
    residuum.export(with_lenses, tmp_path / "arrays", format="npy", sites="z")
