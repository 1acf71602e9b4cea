"""Views of a store's own connection: sites, tables and results by name, and what they read."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from store import made

import residuum
from residuum.query import quote
from residuum.store import Store

FOLDERS = ("run.residuum", 'it\'s a "run" é 星.residuum', "a*b?[c].residuum")


@pytest.fixture(scope="module", params=FOLDERS)
def run(request, tmp_path_factory) -> made.Made:
    """The same store in folders whose names mean something in SQL or in patterns."""
    return made.write(tmp_path_factory.mktemp("views") / request.param, "float16")


@pytest.fixture
def store(run) -> Store:
    return residuum.open(run.path)


@pytest.mark.parametrize("site", list(made.INNER))
def test_a_view_has_the_axes_and_the_numbers_of_its_site(store, run, site):
    heads = {"z": ["head"], "k": ["kv_head"]}.get(site, [])
    axes = ["row", *(["layer"] if made.layers_of(site) else []), *heads]
    found = store.sql(f"FROM {site} ORDER BY {', '.join(axes)}")
    assert found.columns == [*axes, "vec"]
    want = run.arrays[site].astype(np.float32)
    if site == "mlp_out":
        want = want[:, list(made.MLP_LAYERS)]
    assert str(found.types[-1]) == f"FLOAT[{want.shape[-1]}]"
    got = found.fetchnumpy()
    np.testing.assert_array_equal(np.stack(got["vec"]).reshape(want.shape), want)
    np.testing.assert_array_equal(
        got["row"], np.repeat(np.arange(len(want)), got["row"].size // len(want))
    )
    if site == "mlp_out":
        np.testing.assert_array_equal(got["layer"], np.tile(made.MLP_LAYERS, made.N_ROW))


def test_vectors_come_as_fixed_size_lists(store):
    table = store.sql("SELECT vec FROM z WHERE row < 3 AND head = 1").to_arrow_table()
    assert table.schema.field("vec").type == pa.list_(pa.float32(), made.D_HEAD)


def test_tables_are_views(store, run):
    assert store.sql("FROM examples").to_arrow_table().equals(made.examples())
    assert store.sql("FROM tokens ORDER BY row").to_arrow_table().equals(made.tokens(run.ids))


def test_sql_sees_what_was_kept_since_the_last_question(tmp_path):
    store = residuum.open(made.write(tmp_path / "run.residuum", "float16").path)
    store.sql("CREATE TEMP TABLE mine AS SELECT 7 AS n")
    store.add_table("labels", pa.table({"example": [0], "label": ["a"]}))
    assert store.sql("SELECT label FROM labels").fetchall() == [("a",)]
    store.add_table("labels", pa.table({"example": [0], "grade": [3]}), replace=True)
    assert store.sql("SELECT grade FROM labels").fetchall() == [(3,)]
    store.results.put("study", "0123", {"rows": pa.table({"n": [1, 2]})}, {})
    assert store.sql("SELECT sum(n) FROM study_rows").fetchall() == [(3,)]
    assert store.sql("SELECT n FROM mine").fetchall() == [(7,)]


def test_sites_join_their_tokens(store, run):
    query = "SELECT token, vec FROM tokens JOIN resid_post USING (row) "
    query += "WHERE example = $example AND layer = 2 ORDER BY token"
    got = store.sql(query, {"example": 2}).fetchnumpy()
    np.testing.assert_array_equal(got["token"], np.arange(9))
    want = run.arrays["resid_post"][7:16, 2].astype(np.float32)
    np.testing.assert_array_equal(np.stack(got["vec"]), want)


def test_results_and_tables_of_the_user_are_views_of_old_and_new_connections(tmp_path):
    store = residuum.open(made.write(tmp_path / "it's é [1].residuum").path)
    assert store.sql("SELECT count(*) FROM tokens").fetchall() == [(made.N_ROW,)]
    store.add_table("labels", pa.table({"example": [3], "select": ["é"]}))
    store.results.put("probe", "one", {"scores": pa.table({"n": [1]})}, {})
    store.results.put("probe", "two", {"scores": pa.table({"n": [2]})}, {})
    assert store.sql("FROM labels").fetchall() == [(3, "é")]
    assert store.sql("FROM probe_scores").fetchall() == [(2,)]
    with store.connect() as connection:
        assert connection.execute("FROM labels").fetchall() == [(3, "é")]
        assert connection.execute("FROM probe_scores").fetchall() == [(2,)]


def test_a_view_is_of_the_newest_result_that_was_asked_for_its_table(tmp_path):
    store = residuum.open(made.write(tmp_path / "run.residuum", "float16").path)
    some, none = pa.table({"n": [1]}), pa.table({"n": pa.array([], pa.int64())})
    store.results.put("study", "0", {"a": none, "b": some}, {"unasked": ["a"]})
    assert store.sql("FROM study_a").fetchall() == []
    store.results.put("study", "1", {"a": some, "b": some}, {})
    store.results.put("study", "2", {"a": none, "b": none}, {"unasked": ["a"]})
    assert store.sql("FROM study_a").fetchall() == [(1,)]
    assert store.sql("FROM study_b").fetchall() == []  # it was asked for: there is nothing


def test_what_duckdb_says_is_left_as_it_is(store):
    with pytest.raises(duckdb.ParserException, match='syntax error at or near "WHER"'):
        store.sql("SELECT 1 FROM z GROUP WHER")
    with pytest.raises(duckdb.BinderException, match=r'"no_such".*not found'):
        store.sql("SELECT no_such FROM z")
    with pytest.raises(duckdb.CatalogException, match="Table with name q does not exist"):
        store.sql("FROM q")
    with pytest.raises(duckdb.InvalidInputException, match="row 37 does not exist"):
        store.sql("SELECT vec('z', 37, 0)").fetchall()


def test_a_selective_join_reads_only_its_chunks(store, run):
    found = store.sql("SELECT row FROM tokens WHERE row IN (0, 3, 17, 36) ORDER BY row DESC")
    rows = found.to_arrow_table()["row"]
    before = store.counters()
    got = store.vectors("resid_post", rows, layers=1)
    after = store.counters()
    want = run.arrays["resid_post"][[36, 17, 3, 0], 1]
    np.testing.assert_array_equal(got, want)
    # Rows 0 and 3 share a chunk of 4.
    assert after["chunks_decoded"] - before["chunks_decoded"] == 3
    # At most three whole chunks, and the indexes of three shards.
    chunk = made.CHUNK_ROWS * made.D_MODEL * 2 + 4
    assert after["bytes_read"] - before["bytes_read"] <= 3 * (chunk + 4 * 16 + 4)


def test_without_the_extension_there_is_no_sql(store, monkeypatch, tmp_path):
    monkeypatch.setattr(residuum, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(residuum.ResiduumError, match=r"residuum\.duckdb_extension is missing"):
        store.connect()


def test_names_and_texts_are_quoted():
    assert quote.text("it's") == "'it''s'"
    assert quote.name('a"b') == '"a""b"'
