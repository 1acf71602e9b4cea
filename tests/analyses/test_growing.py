"""Tables that outgrow memory are the tables that would have been held."""

import tempfile

import pyarrow as pa
import pytest

from residuum.analyses.growing import GrowingTable

SCHEMA = pa.schema(
    [pa.field("row", pa.int64(), metadata={"meaning": "row"}), ("text", pa.string())]
)


def grown(limit, n_block):
    table = GrowingTable(SCHEMA, limit)
    for start in range(0, 10 * n_block, 10):
        rows = list(range(start, start + 10))
        table.add(pa.table({"text": [f"é{row}" if row % 3 else None for row in rows], "row": rows}))
    return table.finish()


@pytest.mark.parametrize("limit", [0, 500, 1 << 20])
@pytest.mark.parametrize("n_block", [0, 1, 7])
def test_rows_keep_their_order_and_schema(tmp_path, monkeypatch, limit, n_block):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    table = grown(limit, n_block)
    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert table["row"].to_pylist() == list(range(10 * n_block))
    assert table["text"].to_pylist() == [f"é{n}" if n % 3 else None for n in range(10 * n_block)]
    assert not list(tmp_path.iterdir()), "its file has no name any more"


def test_a_table_that_is_never_finished_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    table = GrowingTable(SCHEMA, limit=0)
    table.add(pa.table({"row": [1], "text": ["a"]}))
    assert list(tmp_path.iterdir())
    del table
    assert not list(tmp_path.iterdir())


def test_what_exceeds_the_limit_is_not_held():
    before = pa.total_allocated_bytes()
    table = grown(10_000, 20_000)
    assert table.nbytes > 3_000_000
    assert pa.total_allocated_bytes() - before < 100_000
