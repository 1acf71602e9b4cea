"""A lens in a bucket is trained, kept, read and asked in SQL as on disk."""

import duckdb
import numpy as np
import pytest
from command import residuum as command
from s3.conftest import files, objects

import residuum
from residuum.errors import ArgumentError, StoreError
from residuum.lenses import Recipe, TunedLens, names, save, stored, train
from residuum.store import Store
from residuum.store.files import write_bytes

TEXTS = ["the red square sees the green circle", "a dog runs", "one", "two blue stars in on one"]
ASK = "FROM tuned_lens(lens := 'tuned', k := 2) ORDER BY row, layer, rank"


@pytest.fixture(scope="module")
def run(gpt2_folder, tmp_path_factory):
    """A capture on disk with what lenses need; its copies are what tests change."""
    out = tmp_path_factory.mktemp("lenses") / "run.residuum"
    sites = ["resid_pre", "resid_final"]
    return residuum.capture(gpt2_folder, TEXTS, out, sites=sites, dtype="float32", device="cpu")


@pytest.fixture
def both(run, tmp_path, bucket, upload):
    """The same store on disk and in a bucket, without lenses."""
    residuum.export(run, tmp_path / "run.residuum", format="store", progress=False)
    here = Store(tmp_path / "run.residuum")
    return here, Store(upload(here.path, f"{bucket}/a/run.residuum"))


def same(left, right):
    assert (left.n_state, left.about) == (right.n_state, right.about)
    assert sorted(left.translators) == sorted(right.translators)
    for state, one in left.translators.items():
        np.testing.assert_array_equal(one.weight, right.translators[state].weight)
        np.testing.assert_array_equal(one.bias, right.translators[state].bias)


def test_a_lens_is_trained_kept_and_read(both):
    here, there = both
    lenses = [train(store, Recipe(steps=5), progress=False).lens for store in both]
    same(*lenses)
    for store, lens in zip(both, lenses, strict=True):
        assert names(store) == []
        save(store, lens, "tuned")
        save(store, TunedLens.untrained(lens.n_state, lens.d_model), "fresh")
        save(store, lens, "fresh")  # in its place
        assert names(store) == list(store.lenses) == store.info()["lenses"] == ["fresh", "tuned"]
    same(stored(here, "tuned"), stored(there, "tuned"))
    same(stored(here, "fresh"), stored(there, "fresh"))
    assert files(here.path) == objects(str(there.path))


def test_sql_is_the_same(both):
    here, there = both
    lens = train(here, Recipe(steps=5), progress=False).lens
    for store in both:
        save(store, lens, "tuned")
    found = there.sql(ASK).fetchall()
    assert len(found) == here.n_row * 3 * 2
    assert found == here.sql(ASK).fetchall()
    some = "SELECT * FROM tuned_lens(layers := [1], rows := [2, 5], k := 1) ORDER BY ALL"
    assert there.sql(some).fetchall() == here.sql(some).fetchall()
    asked = command("sql", there.path, ASK, "--format", "csv")
    assert asked.out == command("sql", here.path, ASK, "--format", "csv").out


def test_a_missing_lens_is_one_clear_error(both):
    _, there = both
    says = rf"{there.path} has no lens `tuned`: train one with `residuum run tuned_lens s3://"
    with pytest.raises(duckdb.Error, match=says):
        there.sql(ASK).fetchall()
    done = command("sql", there.path, ASK, code=1)
    assert "has no lens `tuned`" in done.err
    assert len(done.err.strip().splitlines()) == 1
    with pytest.raises(StoreError, match=rf"{there.path} has no lens 'tuned'; it has none"):
        stored(there, "tuned")
    save(there, TunedLens.untrained(4, there.model["d_model"]), "fresh")
    with pytest.raises(StoreError, match="no lens 'tuned'; it has fresh: train one"):
        stored(there, "tuned")
    with pytest.raises(ArgumentError, match="letters, digits"):
        stored(there, "../tuned")


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_damaged_lens_is_named(both, length):
    _, there = both
    save(there, TunedLens.untrained(4, there.model["d_model"]), "tuned")
    assert there.verify().ok
    path = there.path / "lenses" / "tuned.safetensors"
    write_bytes(path, path.read_bytes()[:length])
    (problem,) = there.verify().problems
    assert problem.file == "lenses/tuned.safetensors"
    assert "remove the file" in problem.what
    with pytest.raises(StoreError, match=rf"{path} is damaged: .* remove the file"):
        stored(there, "tuned")
    with pytest.raises(duckdb.Error, match=rf"{path} is damaged"):
        there.sql(ASK).fetchall()


def test_numbers_that_are_not_finite_are_found(both):
    _, there = both
    save(there, TunedLens.untrained(4, there.model["d_model"]), "tuned")
    path = there.path / "lenses" / "tuned.safetensors"
    write_bytes(path, path.read_bytes()[:-4] + np.float32(np.nan).tobytes())
    (problem,) = there.verify().problems
    assert "has NaN or infinity 1 time" in problem.what


def test_a_server_that_is_gone_is_no_damage(both, monkeypatch):
    _, there = both
    save(there, TunedLens.untrained(4, there.model["d_model"]), "tuned")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        stored(there, "tuned")
    assert "remove" not in str(caught.value)


def test_an_export_takes_lenses_along(both, tmp_path):
    _, there = both
    lens = train(there, Recipe(steps=5), progress=False).lens
    save(there, lens, "tuned")
    out = residuum.export(there, tmp_path / "copy", format="store", rows=[0, 1, 2], progress=False)
    copy = Store(out)
    assert copy.lenses == ("tuned",)
    assert copy.verify().ok
    same(stored(copy, "tuned"), lens)


def test_the_analysis_keeps_its_lens_in_the_bucket(both):
    _, there = both
    settings = ["--set", "steps=5", "--set", "experiments=quality"]
    command("run", "tuned_lens", there.path, *settings)
    assert there.lenses == ("tuned",)
    listed = [path.name for path, _, _ in (there.path / "lenses").objects()]
    assert listed == ["tuned.safetensors"], "no snapshot of a training is left"
    assert there.sql("SELECT count(*) FROM tuned_lens_quality").fetchall()[0][0] > 0
    assert "tuned lens: tuned" in command("info", there.path).out
