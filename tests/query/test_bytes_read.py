"""How much a query reads: counted by the store, not timed.

The store has 11 chunks of 64 rows per layer, the last with 60 rows in use; a late view is an index
scan whose vector column is a scalar function, so that DuckDB filters first and only rows that
survive are decoded.
"""

from collections.abc import Callable

import pytest
from query import tiny_store
from query.tiny_store import TinyStore

N_CHUNK, CHUNK_ROWS = 11, 64
ROW_BYTES = {"z": 5 * 7 * 2, "resid_post": 35 * 2}
# Beside its rows, a chunk has a checksum of 4 bytes and 16 bytes in the index of its shard.
CHUNK_EXTRA = 4 + 16
Count = Callable[[str], tuple[int, int]]


@pytest.fixture
def tiny(tmp_path) -> TinyStore:
    """A store that no test before has read: threads keep what they decoded last."""
    return tiny_store.write(tmp_path / "run.residuum")


@pytest.fixture
def count(sql, tiny) -> Count:
    """Runs a query and returns the bytes it read and the chunks it decoded."""
    views = {
        "z": "SELECT row, layer, head, residuum_vec7({0}, 'z', row, layer, head) AS vec "
        "FROM residuum_activations({0}, 'z')",
        "resid_post": "SELECT row, layer, residuum_vec35({0}, 'resid_post', row, layer) AS vec "
        "FROM residuum_activations({0}, 'resid_post')",
    }
    for name, view in views.items():
        path = f"'{tiny.path}'"
        sql.execute(f"CREATE VIEW {name} AS {view.format(path)}")
    # With one thread no chunk is decoded by two.
    sql.execute("SET threads = 1")

    def measure(query: str) -> tuple[int, int]:
        counters = f"SELECT bytes_read, chunks_decoded FROM residuum_counters('{tiny.path}')"
        before = sql.execute(counters).fetchone()
        sql.execute(query).fetchall()
        after = sql.execute(counters).fetchone()
        return after[0] - before[0], after[1] - before[1]

    return measure


def test_counting_rows_reads_nothing(count, tiny):
    assert count("SELECT count(*) FROM z") == (0, 0)
    assert count("SELECT count(*), max(row), min(layer) FROM resid_post WHERE layer > 0") == (0, 0)
    assert count(f"SELECT count(*) FROM residuum_logit_lens('{tiny.path}')") == (0, 0)
    assert count(f"SELECT count(*) FROM residuum_head_logits('{tiny.path}', tokens := [1])") == (
        0,
        0,
    )
    assert count(f"FROM '{tiny.path}'") == (0, 0)


@pytest.mark.parametrize("site", ["z", "resid_post"])
def test_one_layer_of_a_late_view_decodes_one_layer(count, tiny: TinyStore, site):
    n_bytes, n_chunk = count(f"SELECT sum(vec[1]) FROM {site} WHERE layer = 1")
    assert n_chunk == N_CHUNK
    # Whole chunks are read, the last one too, since the checksum is over all of it.
    of_layer = N_CHUNK * CHUNK_ROWS * ROW_BYTES[site]
    assert of_layer <= n_bytes <= of_layer + 2 * (8 * CHUNK_EXTRA + 4)


def test_the_index_scan_reads_what_its_arguments_name(count, tiny):
    call = (
        f"residuum_activations('{tiny.path}', 'resid_post', layers := [2], rows := [5, 300, 301])"
    )
    assert count(f"SELECT sum(norm) FROM {call}")[1] == 2
    assert count(f"SELECT sum(row) FROM {call}") == (0, 0)


def picked(tiny: TinyStore, rows: str) -> str:
    """The form of a selective join: rows first, then their vectors."""
    return (
        f"WITH few AS MATERIALIZED (SELECT row FROM residuum_activations('{tiny.path}', 'embed') "
        f"WHERE {rows}) SELECT sum(residuum_vec35('{tiny.path}', 'resid_post', row, 1)[1]) FROM few"
    )


def test_a_selective_join_decodes_only_chunks_that_hold_its_rows(count, tiny):
    n_bytes, n_chunk = count(picked(tiny, "row BETWEEN 70 AND 90 OR row >= 640"))
    assert n_chunk == 2
    assert n_bytes <= 2 * CHUNK_ROWS * ROW_BYTES["resid_post"] + 2 * (8 * CHUNK_EXTRA + 4)


def test_few_rows_are_read_without_their_chunks(count, tiny):
    n_bytes, n_chunk = count(picked(tiny, "row IN (3, 70, 71, 650)"))
    assert n_chunk == 3
    # The indexes of two shards are read where they were not before.
    indexes = 2 * (8 * 16 + 4)
    # Rows 70 and 71 are neighbours, so that nothing between them is read either.
    assert 4 * ROW_BYTES["resid_post"] <= n_bytes <= 4 * ROW_BYTES["resid_post"] + indexes


def test_a_chunk_is_decoded_once_for_all_its_heads(count):
    # 64 rows of 5 heads are 320 vectors a chunk: 2048 are no multiple of it.
    assert count("SELECT sum(vec[1]) FROM z WHERE layer = 2")[1] == N_CHUNK
