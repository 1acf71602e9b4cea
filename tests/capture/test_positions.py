"""Position selection: what is kept, and marks checked against the text they mark."""

import numpy as np
import pyarrow as pa
import pytest

from residuum.capture.positions import Positions
from residuum.errors import InputError

WHOLE = np.arange(5, dtype=np.int32)


def select(text, marks=None, source=WHOLE, n_source=5):
    return Positions.parse(text).select(source, n_source, marks, 7).tolist()


def test_named_positions():
    assert select("all") == [0, 1, 2, 3, 4]
    assert select("last") == [4]
    assert select("first") == [0]


def test_marks_are_booleans_or_positions():
    assert select("column:keep", [True, False, False, True, False]) == [0, 3]
    assert select("column:keep", [3, 0, 3]) == [0, 3]
    assert select("column:keep", []) == []
    assert select("column:keep", None) == []


def test_marks_follow_a_window():
    assert select("column:keep", [0, 3, 4], source=np.array([0, 3, 4], np.int32)) == [0, 1, 2]
    assert select("column:keep", [1, 3], source=np.array([0, 3, 4], np.int32)) == [1]


@pytest.mark.parametrize(
    ("marks", "says"),
    [
        ([True, False], "row 7: `keep` marks 2 tokens, but the text has 5"),
        ([5], "marks token 5, but the text has tokens 0 to 4"),
        ([-1], "marks token -1"),
        ([0, None], "empty entry"),
    ],
)
def test_wrong_marks_name_the_row(marks, says):
    with pytest.raises(InputError, match=says):
        select("column:keep", marks)


@pytest.mark.parametrize("text", ["", "every", "column:", "keep"])
def test_unknown_selection_lists_the_known(text):
    with pytest.raises(InputError, match="all, last, first or column:NAME"):
        Positions.parse(text)


def test_marking_column_is_checked_before_anything_runs():
    schema = pa.schema([("text", pa.string()), ("keep", pa.list_(pa.bool_())), ("n", pa.int64())])
    Positions.parse("column:keep").check(schema)
    Positions.parse("all").check(schema)
    with pytest.raises(InputError, match="no column `no`; the columns are `text`, `keep`, `n`"):
        Positions.parse("column:no").check(schema)
    with pytest.raises(InputError, match="the column is int64"):
        Positions.parse("column:n").check(schema)


def test_text_form_round_trips():
    assert [str(Positions.parse(t)) for t in ["all", "column:a b"]] == ["all", "column:a b"]
