"""Tables of a store: the capture's, the user's, and results of analyses."""

import errno

import pyarrow as pa
import pyarrow.parquet
import pytest
from store import made

from residuum.errors import ArgumentError, StoreError
from residuum.store import Store, key_of

LABELS = pa.table({"example": [0, 2], "label": ["été", "it's"]})


def test_examples_and_tokens_are_what_was_written(store, own):
    assert store.examples.to_table().equals(made.examples())
    assert store.tokens.to_table().equals(made.tokens(own.ids))
    assert store.table("tokens").equals(made.tokens(own.ids))


def test_a_table_of_the_user_is_kept_and_seen_in_sql(store, own):
    store.add_table("labels", LABELS)
    assert store.tables == ("examples", "tokens", "labels")
    again = Store(own.path)
    assert again.table("labels").equals(LABELS)
    query = "SELECT label, count(*) FROM labels JOIN tokens USING (example) GROUP BY 1 ORDER BY 1"
    assert again.sql(query).fetchall() == [("it's", 9), ("été", 6)]


def test_a_table_is_replaced_only_on_request(store):
    store.add_table("labels", LABELS)
    with pytest.raises(StoreError, match="replace=True"):
        store.add_table("labels", LABELS.slice(1))
    assert store.table("labels").num_rows == 2
    store.add_table("labels", LABELS.slice(1), replace=True)
    assert store.table("labels").num_rows == 1


@pytest.mark.parametrize("name", ["examples", "tokens", "Tokens", "z", "RESID_POST", "logits"])
def test_names_of_residuum_are_refused(store, name):
    with pytest.raises(ArgumentError, match=f"'{name}'.*uses it itself"):
        store.add_table(name, LABELS, replace=True)
    assert store.tables == ("examples", "tokens")


@pytest.mark.parametrize("name", ["", "a b", "../up", "é", "1st", "a.b", "x\n"])
def test_names_that_are_no_identifiers_are_refused(store, name):
    with pytest.raises(ArgumentError, match="letters, digits and _"):
        store.add_table(name, LABELS)


def test_columns_of_one_name_are_refused(store):
    with pytest.raises(ArgumentError, match="more than one column called `a`"):
        store.add_table("twice", pa.table([[1], [2]], names=["a", "A"]))


def test_a_table_that_is_not_there_lists_those_that_are(store):
    store.add_table("labels", LABELS)
    for name in ("label", "../tokens", ""):
        with pytest.raises(StoreError, match="there are examples, tokens, labels"):
            store.table(name)


def test_damaged_and_missing_parts_are_named(store, own):
    (part,) = store.parts("tokens")
    part.write_bytes(b"PAR1 no parquet PAR1")
    with pytest.raises(StoreError, match="tokens"):
        Store(own.path).table("tokens")
    part.unlink()
    with pytest.raises(StoreError, match=rf"{part.name} is missing"):
        _ = Store(own.path).tokens
    problems = store.verify().problems
    assert [problem.file for problem in problems if "tables" in problem.file]


def put(store, key="abc", n=3):
    tables = {"scores": pa.table({"row": range(n)}), "summary": pa.table({"n": [n]})}
    return store.results.put("probe", key, tables, {"parameters": {"k": n}})


def test_results_come_back_with_their_provenance(store, own):
    kept = put(store)
    assert kept.tables == ("scores", "summary")
    tables, provenance = Store(own.path).results.get("probe", "abc")
    assert tables["scores"]["row"].to_pylist() == [0, 1, 2]
    assert provenance["parameters"] == {"k": 3}
    assert set(provenance["libraries"]) >= {"residuum", "numpy"}
    assert "time" in provenance
    assert store.results.get("probe", "other") is None
    assert repr(store.results) == "probe abc: scores, summary"
    assert store.info()["results"][0]["parameters"] == {"k": 3}


def test_the_newest_result_is_the_one_asked_for(store):
    put(store, "one", 1)
    put(store, "two", 2)
    assert [result.key for result in store.results.list("probe")] == ["one", "two"]
    assert store.results.latest("probe").key == "two"
    assert store.result("probe")["summary"]["n"].to_pylist() == [2]
    assert store.result("probe", "one")["summary"]["n"].to_pylist() == [1]


def test_a_result_that_is_there_stays(store):
    put(store, n=3)
    put(store, n=5)
    assert store.result("probe")["summary"]["n"].to_pylist() == [3]
    folder = store.path / "results" / "probe"
    assert [path.name for path in folder.iterdir()] == ["abc"]


def test_results_that_are_not_there_are_an_error_that_lists_those_that_are(store):
    with pytest.raises(StoreError, match="nothing yet"):
        store.result("probe")
    put(store)
    with pytest.raises(StoreError, match=r"'lens'.*results of: probe"):
        store.result("lens")
    with pytest.raises(StoreError, match="under missing"):
        store.result("probe", "missing")


def test_names_of_results_cannot_leave_their_folder(store):
    for analysis, key, table in (("../up", "k", "t"), ("a", "../k", "t"), ("a", "k", "../t")):
        with pytest.raises(ArgumentError, match="cannot be the name of a result"):
            store.results.put(analysis, key, {table: LABELS}, {})
    assert store.results.list() == []


def test_a_damaged_result_is_named(store):
    kept = put(store)
    (kept.path / "scores.parquet").write_bytes(b"no")
    with pytest.raises(StoreError, match="abc is damaged"):
        store.results.get("probe", "abc")
    (kept.path / "provenance.json").write_bytes(b"{")
    with pytest.raises(StoreError, match=r"provenance\.json is damaged"):
        store.results.list()


def test_a_full_disk_names_the_file(store, monkeypatch):
    def full(*_args, **_settings):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet, "write_table", full)
    with pytest.raises(OSError, match=r"No space left .*scores\.parquet"):
        put(store)
    assert store.results.list() == []


def test_a_key_changes_with_all_that_was_asked():
    asked = [("lens", 1, {"k": 1, "a": 2}, 3), ("probe", 1, {"k": 1, "a": 2}, 3)]
    asked += [("lens", 2, {"k": 1, "a": 2}, 3), ("lens", 1, {"k": 2, "a": 2}, 3)]
    asked += [("lens", 1, {"k": 1, "a": 2}, 4), ("lens", 1, {"k": 1, "a": 2}, 3, 7)]
    assert len({key_of(*question) for question in asked}) == len(asked)
    assert key_of(*asked[0]) == key_of("lens", 1, {"a": 2, "k": 1}, 3)
