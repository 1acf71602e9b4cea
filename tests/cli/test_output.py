"""Answers in four formats, to a stream or to a file that is whole or not there."""

import contextlib
import csv
import io
import json
import os
import subprocess

import duckdb
import pyarrow.parquet as pq
import pytest

from residuum.cli.output import choose_format, plain, write_relation, write_text

QUERY = """
    SELECT * FROM (VALUES
        (1, 'a,"b"', [1.5, 2.5]::FLOAT[2], DATE '2024-02-29', 1.0::DOUBLE),
        (NULL, 'ü\n', NULL, NULL, 'nan'::DOUBLE)
    ) AS t(n, text, vec, day, x)
"""


def write(form, out, query=QUERY):
    write_relation(duckdb.connect().sql(query), form, out)
    return out


def test_json_is_an_array_of_objects_and_has_no_nan(tmp_path):
    rows = json.loads(write("json", tmp_path / "a.json").read_text("utf-8"))
    assert rows == [
        {"n": 1, "text": 'a,"b"', "vec": [1.5, 2.5], "day": "2024-02-29", "x": 1.0},
        {"n": None, "text": "ü\n", "vec": None, "day": None, "x": None},
    ]


def test_json_of_nothing_is_an_empty_array(tmp_path):
    assert json.loads(write("json", tmp_path / "a", "SELECT 1 AS n WHERE false").read_text()) == []


def test_json_keeps_columns_of_the_same_name(tmp_path):
    out = write("json", tmp_path / "a", "SELECT 1 AS a, 2 AS a")
    assert json.loads(out.read_text()) == [{"a": 1, "a_1": 2}]


def test_csv_is_read_back(tmp_path):
    text = write("csv", tmp_path / "a.csv").read_bytes().decode()
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows[0] == ["n", "text", "vec", "day", "x"]
    assert rows[1] == ["1", 'a,"b"', "[1.5, 2.5]", "2024-02-29", "1.0"]
    assert rows[2][:2] == ["", "ü\n"]


def test_a_query_that_fails_has_written_no_header():
    query = "SELECT error('late') AS a FROM range(2)"
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream), pytest.raises(duckdb.Error):
        write("csv", None, query)
    assert stream.getvalue() == ""


def test_parquet_keeps_types(tmp_path):
    table = pq.read_table(write("parquet", tmp_path / "a.parquet"))
    assert table.column("vec").type.list_size == 2
    assert table.column("n").to_pylist() == [1, None]


def test_more_rows_than_a_batch(tmp_path):
    out = write("json", tmp_path / "a", "SELECT range AS i FROM range(5000)")
    assert [row["i"] for row in json.loads(out.read_text())] == list(range(5000))


def test_table_is_for_people(capsys):
    write("table", None, "SELECT 42 AS answer")
    assert "answer" in (shown := capsys.readouterr().out)
    assert "42" in shown


def test_a_file_is_whole_or_not_there(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    query = "SELECT CASE WHEN range = 4999 THEN error('late') ELSE range END AS i FROM range(5000)"
    with pytest.raises((duckdb.Error, OSError), match="late"):
        write("csv", tmp_path / "a.csv", query)
    assert [f.name for f in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "old"


def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path):
    """Such as /dev/stdout or /dev/null, which a rename would replace."""
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, text=True)
    write("csv", pipe, "SELECT 1 AS a")
    assert reader.communicate(timeout=10)[0] == "a\n1\n"
    assert pipe.is_fifo()
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    write("csv", tmp_path / "link.csv", "SELECT 1 AS a")
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "a.csv").read_text() == "a\n1\n"


@pytest.mark.parametrize(
    ("name", "says"),
    [("none/a.txt", "there is no folder .*none$"), ("folder", "folder is a folder")],
)
def test_a_place_that_no_file_can_have_is_named(tmp_path, name, says):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=says):
        write_text(tmp_path / name, "text")
    assert [f.name for f in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("asked", "name", "form"),
    [
        (None, None, "table"),
        ("json", None, "json"),
        (None, "a.CSV", "csv"),
        (None, "a.parquet", "parquet"),
        ("json", "a.csv", "json"),
        (None, "a.txt", "table"),
        ("table", "a.csv", "table"),
        ("csv", "a.xyz", "csv"),
    ],
)
def test_format_follows_the_suffix(tmp_path, asked, name, form):
    assert choose_format(asked, None if name is None else tmp_path / name) == form


def test_plain_values():
    assert plain({"a": (1, float("inf"), b"\x01", {2: None})}) == {
        "a": [1, None, "01", {"2": None}]
    }
