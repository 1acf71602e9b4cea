"""Which example and token each row of an import is, from the table that comes with it.

A table with a column `token` has a record per row, in order; any other has one per example.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from residuum import readers
from residuum.errors import InputError
from residuum.store.show import count

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.exchange.layout import Laid

MOST_TOKEN = 1 << 24  # a position beyond is a mistake, and would fill the table of tokens
SUFFIXES = (".parquet", ".pq", ".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Places:
    """Which example and token each row is, and what the user says about both.

    Attributes:
        example: number of each row's example, int64 `[row]`, from 0 and never falling.
        token: position of each row, int64 `[row]`.
        n_token: tokens of each example, int64 `[example]`.
        source: for arrays of `example, token`: the example there of each row, int64 `[row]`.
        records: the columns of the user by row, or None.
        about: the columns of the user by example, possibly none.
    """

    example: NDArray[np.int64]
    token: NDArray[np.int64]
    n_token: NDArray[np.int64]
    source: NDArray[np.int64]
    records: pa.Table | None
    about: pa.Table

    @property
    def n_row(self) -> int:
        """Number of rows."""
        return len(self.example)

    @property
    def n_example(self) -> int:
        """Number of examples."""
        return len(self.n_token)


def read_table(table: Path | pa.Table | Any) -> tuple[pa.Table, str]:  # noqa: ANN401  pandas need not be there
    """A table and what to call it in messages; files are read whole.

    Raises:
        InputError: a file that cannot be read, or of another kind; two columns of one name.
    """
    if isinstance(table, pa.Table):
        return _plain(table, "the table")
    bases = {f"{c.__module__.split('.')[0]}.{c.__name__}" for c in type(table).__mro__}
    if "pandas.DataFrame" in bases:
        return _plain(pa.Table.from_pandas(table, preserve_index=False), "the table")
    if not isinstance(table, str | Path):
        message = (
            f"the table is a {type(table).__name__}: give a path, a pyarrow Table or a DataFrame."
        )
        raise InputError(message)
    path = Path(table)
    if not path.is_file():
        message = f"{path}: no such file to read the table from."
        raise InputError(message)
    if path.suffix.lower() not in SUFFIXES:
        message = f"{path}: a table is read from {', '.join(SUFFIXES)} files."
        raise InputError(message)
    read = readers.read_file(path, "text")
    if isinstance(read, readers.ParquetSource):
        read = pa.concat_tables(list(read.tables(1 << 16)) or [read.schema.empty_table()])
    return _plain(read, str(path))


def _plain(table: pa.Table, what: str) -> tuple[pa.Table, str]:
    """The table without metadata, in plain types: no wide texts and no categories."""
    names = table.column_names
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        message = f"{what} has two columns called `{twice[0]}`: rename one."
        raise InputError(message)
    fields = [f.with_type(_plain_type(f.type)) for f in table.schema]
    return table.cast(pa.schema(fields)) if fields else table, what


def _plain_type(kind: pa.DataType) -> pa.DataType:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_large_string(kind) else kind


def places(laid: Laid, table: pa.Table | None, what: str) -> Places:
    """What the rows of token sites are.

    Args:
        laid: one of their arrays.
        table: one record per row or per example; None: every example has all tokens of the array,
            or one where it has no axis of tokens.
        what: the table's name.

    Raises:
        InputError: a table that does not fit the array, with both numbers.
    """
    if table is None:
        return _whole(laid, pa.table({"n": np.empty(laid.lead[0], bool)}).select([]))
    if "token" in table.column_names:
        return _per_row(laid, table, what)
    return _per_example(laid, table, what)


def _whole(laid: Laid, about: pa.Table) -> Places:
    n, length = laid.lead[0], laid.lead[1] if len(laid.lead) == 2 else 1
    return _ragged(np.full(n, length), about)


def _ragged(n_token: NDArray[np.int64], about: pa.Table) -> Places:
    """All tokens of every example have a row."""
    example = np.repeat(np.arange(len(n_token)), n_token)
    token = np.arange(len(example)) - np.repeat(np.cumsum(n_token) - n_token, n_token)
    return Places(example, token, n_token, example, None, about)


def _per_example(laid: Laid, table: pa.Table, what: str) -> Places:
    n_row, of_tokens = laid.lead[0], len(laid.lead) == 2
    if "n_token" not in table.column_names:
        _check_length(what, table.num_rows, laid, n_row, "example" if of_tokens else "row")
        return _whole(laid, table)
    n_token = whole_numbers(table, "n_token", what)
    if (n_token < 0).any():
        message = f"{what}: an example has {n_token.min()} tokens; n_token is 0 or more."
        raise InputError(message)
    if not of_tokens:
        _check_length(f"the n_token of {what}", int(n_token.sum()), laid, n_row, "row")
    else:
        _check_length(what, table.num_rows, laid, n_row, "example")
        if n_token.max(initial=0) > laid.lead[1]:
            message = (
                f"{what} has an example of {n_token.max()} tokens, but {laid.part.what} has "
                f"{laid.lead[1]} for each."
            )
            raise InputError(message)
    return _ragged(n_token, table.drop_columns("n_token"))


def _per_row(laid: Laid, table: pa.Table, what: str) -> Places:
    token = whole_numbers(table, "token", what)
    if "example" not in table.column_names:
        message = f"{what} has a column `token` but none called `example`, which says of which."
        raise InputError(message)
    example = _numbered(table.column("example"), what)
    _check_order(example, token, what)
    source = example
    if len(laid.lead) == 2:
        source = whole_numbers(table, "example", what)
        _check_inside(source, laid.lead[0], "example", laid, what)
        _check_inside(token, laid.lead[1], "token", laid, what)
    else:
        _check_length(what, table.num_rows, laid, laid.lead[0], "row")
    n_example = int(example[-1]) + 1 if len(example) else 0
    n_token = np.zeros(n_example, np.int64)
    np.maximum.at(n_token, example, token + 1)
    first = np.flatnonzero(np.diff(example, prepend=-1))
    records, about = _split(table.drop_columns("token"), example, first)
    return Places(example, token, n_token, source, records, about)


def _split(
    table: pa.Table, example: NDArray[np.int64], first: NDArray[np.int64]
) -> tuple[pa.Table, pa.Table]:
    """Columns by row, and those that say the same in all rows of each example, by example."""
    by_row, by_example = ["token_id", "text"], ["example"]
    for name in table.column_names:
        if name not in (*by_row, *by_example):
            same = _is_same(table.column(name), example, first)
            (by_example if same else by_row).append(name)
    kept = [name for name in by_row if name in table.column_names]
    return table.select(kept), table.select(by_example).take(pa.array(first))


def _is_same(column: pa.ChunkedArray, example: NDArray[np.int64], first: NDArray[np.int64]) -> bool:
    if column.type == pa.null() or (pa.types.is_nested(column.type)):
        return False
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    codes = np.asarray(encoded.indices)
    return bool(np.array_equal(codes, codes[first][example]))


def _numbered(column: pa.ChunkedArray, what: str) -> NDArray[np.int64]:
    """Examples counted in the order in which they come, int64 `[row]`."""
    if column.null_count:
        message = f"{what}: {count(column.null_count, 'record')} without an `example`."
        raise InputError(message)
    return np.asarray(column.combine_chunks().dictionary_encode().indices).astype(np.int64)


def _check_order(example: NDArray[np.int64], token: NDArray[np.int64], what: str) -> None:
    step = np.diff(example)
    apart = np.flatnonzero((step < 0) | (step > 1))
    if len(apart):
        message = (
            f"{what}: the records of an example are not together (record {apart[0] + 1} goes back "
            "to an earlier one): sort table and arrays by example and token."
        )
        raise InputError(message)
    if len(token) and not 0 <= token.min() <= token.max() < MOST_TOKEN:
        wrong = token.min() if token.min() < 0 else token.max()
        message = f"{what}: token {wrong} is no position; they count from 0 in each example."
        raise InputError(message)
    falling = np.flatnonzero((step == 0) & (np.diff(token) <= 0))
    if len(falling):
        at = int(falling[0]) + 1
        message = (
            f"{what}: in record {at} token {token[at]} follows token {token[at - 1]} of the same "
            "example: sort table and arrays by example and token."
        )
        raise InputError(message)


def _check_inside(numbers: NDArray[np.int64], n: int, name: str, laid: Laid, what: str) -> None:
    wrong = numbers[(numbers < 0) | (numbers >= n)]
    if len(wrong):
        message = f"{what} names {name} {wrong[0]}, but {laid.part.what} has {count(n, name)}."
        raise InputError(message)


def _check_length(what: str, n: int, laid: Laid, expected: int, noun: str) -> None:
    if n != expected:
        said = count(n, "record") if not what.startswith("the n_token") else count(n, "token")
        message = f"{what} has {said}, but {laid.part.what} has {count(expected, noun)}."
        raise InputError(message)


def whole_numbers(table: pa.Table, name: str, what: str) -> NDArray[np.int64]:
    """A column as int64.

    Raises:
        InputError: it has nulls or holds something else.
    """
    column = table.column(name)
    try:
        if column.null_count:
            message = f"{column.null_count} of them are null"
            raise pa.ArrowInvalid(message)
        return np.asarray(column.cast(pa.int64()))
    except pa.ArrowException as error:
        message = f"{what}: the column `{name}` is not of whole numbers: {error}."
        raise InputError(message) from error


def of_examples(laid: Laid, table: pa.Table | None, what: str) -> Places:
    """What the rows of a store are that has a row per example and none per token.

    Raises:
        InputError: a table with a record per token, or of another length.
    """
    n = laid.lead[0]
    if table is not None and "token" in table.column_names:
        message = f"{what} has a column `token`, but {laid.site.value} has a row for each example."
        raise InputError(message)
    if table is not None:
        _check_length(what, table.num_rows, laid, n, "row")
    n_token = np.zeros(n, np.int64)
    about = pa.table({"n": np.empty(n, bool)}).select([]) if table is None else table
    if "n_token" in about.column_names:
        n_token = whole_numbers(about, "n_token", what)
        about = about.drop_columns("n_token")
    none = np.zeros(0, np.int64)
    return Places(none, none, n_token, none, None, about)
