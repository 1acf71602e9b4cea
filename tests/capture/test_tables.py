"""The tables: the user's columns as they came, ours beside them, nulls where nothing is stored."""

import numpy as np
import pyarrow as pa
import pytest

from residuum.capture.plan import Example, Planner, text_hash
from residuum.capture.tables import TableLayout
from residuum.capture.tokenise import TokenisedText
from residuum.errors import InputError
from residuum.store.parts import BASE_SCHEMAS, TOKENS

USER = pa.table(
    {
        "text": ["a b", "c", "d e f"],
        "label": pa.array([1, None, 3], pa.int8()),
        "tags": [["x"], [], None],
    }
)
WORDS = pa.array([f"w{i}" for i in range(10)])


def layout(user=USER.schema, **settings):
    usual = {"windowed": False, "vocabulary": WORDS, "token_rows": True, "example_rows": False}
    return TableLayout(user, **(usual | settings))


def example(index, ids, positions=None, offset=0, spans=None):
    ids = np.array(ids, np.int32)
    kept = np.arange(len(ids)) if positions is None else np.array(positions)
    source = np.arange(len(ids), dtype=np.int32)
    text = TokenisedText(ids, spans, offset, source, len(ids))
    return Example(index, USER, index, text, len(ids), kept.astype(np.int32), text_hash(ids))


def placed(*items):
    return [p for g in Planner(100).groups(items) for p in g.placed]


def test_user_columns_come_back_with_their_types():
    table = layout().examples(placed(*(example(i, [i, i + 1]) for i in range(3))))
    assert table.select(USER.column_names).equals(USER)
    assert (
        table.column("content_hash").to_pylist()[0] == text_hash(np.array([0, 1], np.int32)).hex()
    )


def test_repeats_share_rows():
    items = placed(example(0, [1, 2]), example(1, [3]), example(2, [1, 2]))
    examples, tokens = layout().examples(items), layout().tokens(items)
    assert examples.column("first_row").to_pylist() == [0, 2, 0]
    assert tokens.column("row").to_pylist() == [0, 1, 2, 0, 1]
    assert tokens.column("example").to_pylist() == [0, 0, 1, 2, 2]
    assert tokens.column("token").to_pylist() == [0, 1, 0, 0, 1]
    assert tokens.column("text").to_pylist() == ["w1", "w2", "w3", "w1", "w2"]
    assert tokens.schema.equals(BASE_SCHEMAS[TOKENS])


def test_row_is_null_where_nothing_is_stored():
    items = placed(example(0, [1, 2, 3], [1]), example(1, [4, 5], []))
    examples, tokens = layout().examples(items), layout().tokens(items)
    assert tokens.column("row").to_pylist() == [None, 0, None, None, None]
    assert examples.column("n_row").to_pylist() == [1, 0]
    assert examples.column("first_row").to_pylist() == [0, None]


def test_row_spaces_that_a_store_lacks_are_null():
    items = placed(example(0, [1, 2]), example(1, [3]))
    pooled = layout(token_rows=False, example_rows=True)
    assert pooled.examples(items).column("example_row").to_pylist() == [0, 1]
    assert pooled.examples(items).column("first_row").null_count == 2
    assert pooled.tokens(items).column("row").null_count == 3
    assert layout().examples(items).column("example_row").null_count == 2


def test_spans_are_null_for_tokens_without_text():
    spans = np.array([[-1, -1], [0, 3]], np.int32)
    tokens = layout().tokens(placed(example(0, [1, 2], spans=spans), example(1, [3])))
    assert tokens.column("char_start").to_pylist() == [None, 0, None]
    assert tokens.column("char_end").to_pylist() == [None, 3, None]


def test_windows_say_where_they_come_from():
    items = placed(example(1, [1, 2], offset=0), example(1, [3], offset=2))
    table = layout(windowed=True).examples(items)
    assert table.column("source_row").to_pylist() == [1, 1]
    assert table.column("token_offset").to_pylist() == [0, 2]
    assert table.column("text").to_pylist() == ["c", "c"]


def test_images_have_positions_and_no_text():
    image = Example(0, USER, 0, b"png", 3, np.arange(3, dtype=np.int32), b"h" * 16)
    tokens = layout(vocabulary=None).tokens(placed(image))
    assert tokens.column("token").to_pylist() == [0, 1, 2]
    assert tokens.column("token_id").null_count == 3
    assert tokens.schema.equals(BASE_SCHEMAS[TOKENS])


@pytest.mark.parametrize("name", ["example", "first_row", "content_hash", "n_row"])
def test_clash_of_names_is_an_error_that_says_so(name):
    user = pa.schema([("text", pa.string()), (name, pa.int64())])
    with pytest.raises(InputError, match=f"columns called `{name}`"):
        layout(user).check()


def test_window_columns_clash_only_with_windows():
    user = pa.schema([("text", pa.string()), ("source_row", pa.int64())])
    layout(user).check()
    with pytest.raises(InputError, match="`source_row`"):
        layout(user, windowed=True).check()


def test_a_column_name_twice_is_refused():
    user = pa.schema([("text", pa.string()), ("text", pa.string())])
    with pytest.raises(InputError, match="more than one column called `text`"):
        layout(user).check()
