"""Which token a row is, with repeated inputs and unstored tokens."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from analyses import tiny

from residuum.analyses.rows import token_rows
from residuum.store.batches import blocks


class Tokens:
    """A store that holds only a tokens table."""

    def __init__(self, table):
        self.tokens = pyarrow.dataset.dataset(table)


def test_repeats_share_their_first_rows():
    rows = token_rows(Tokens(tiny.tiny().tokens))
    assert rows.example.tolist() == [0] * 6 + [1] + [2] * 4
    assert rows.token_id.tolist() == [token for ids in tiny.IDS for token in ids]
    assert rows.target_id.tolist() == [5, 3, 5, 0, 3, -1, -1, 7, 12, 1, -1]
    assert rows.target_text.to_pylist()[3:7] == ["<eos>", " w3", None, None]
    assert rows.length.tolist() == [6] * 6 + [1] + [4] * 4


def test_keys_beyond_the_example_are_no_tokens():
    rows = token_rows(Tokens(tiny.tiny().tokens))
    keys = rows.key_ids(slice(5, 8), 6)
    assert keys.tolist() == [[3, 5, 3, 5, 0, 3], [2, *[-1] * 5], [7, 7, 12, 1, -1, -1]]


def test_targets_come_from_tokens_that_were_not_stored():
    table = tiny.tiny().tokens.slice(0, 6)
    marked = [None, 0, None, None, 1, None]
    table = table.set_column(2, "row", pa.array(marked, pa.int64()))
    rows = token_rows(Tokens(table))
    assert rows.token.tolist() == [1, 4]
    assert rows.target_id.tolist() == [3, 3]
    assert rows.key_ids(slice(0, 2), 6).tolist() == [[3, 5, 3, 5, 0, 3]] * 2


def test_images_have_no_ids():
    table = pa.table(
        {
            "example": pa.array([0, 0, 1, 1]),
            "token": pa.array([0, 1, 0, 1], pa.int32()),
            "row": pa.array([0, 1, 2, 3]),
            "token_id": pa.nulls(4, pa.int32()),
            "text": pa.nulls(4, pa.string()),
        }
    )
    rows = token_rows(Tokens(table))
    assert rows.target_id.tolist() == [-1] * 4
    assert rows.inside(slice(0, 1), 3).tolist() == [[True, True, False]]


def test_the_first_examples():
    rows = token_rows(Tokens(tiny.tiny().tokens))
    assert [rows.head(n) for n in (None, 1, 2, 3, 4)] == [11, 6, 7, 11, 11]


def test_blocks_cover_all_rows_once():
    cut = list(blocks(11, row_bytes=10, budget=40))
    assert np.concatenate([np.arange(11)[b] for b in cut]).tolist() == list(range(11))
    assert max(b.stop - b.start for b in cut) == 4
    assert len(list(blocks(3, row_bytes=10, budget=1))) == 3
    assert list(blocks(0, row_bytes=10, budget=40)) == []
