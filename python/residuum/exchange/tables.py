"""The tables of an imported store: `examples`, `tokens`, and one of what else is known of rows."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from residuum.errors import InputError
from residuum.store.parts import BASE_SCHEMAS, EXAMPLE_COLUMNS, TOKENS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.exchange.places import Places


def token_table(places: Places, texts: pa.ChunkedArray | None, what: str) -> pa.Table:
    """The table `tokens`: every position of every example, those without a row included.

    `texts` are those of examples of one token, which stand for all of their text; `what` is the
    table of the import.

    Raises:
        InputError: texts that are none.
    """
    n_token = places.n_token
    total = int(n_token.sum())
    start = np.cumsum(n_token) - n_token
    record = np.full(total, -1, np.int64)
    record[start[places.example] + places.token] = np.arange(places.n_row)
    index = pa.array(record, mask=record < 0)
    columns: dict[str, Any] = {
        "example": np.repeat(np.arange(len(n_token)), n_token),
        "token": (np.arange(total) - np.repeat(start, n_token)).astype(np.int32),
        "row": index,
    }
    for name in ("token_id", "text"):
        kind = BASE_SCHEMAS[TOKENS].field(name).type
        told = texts if name == "text" else None
        if places.records is not None and name in places.records.column_names:
            told = places.records.column(name)
        try:
            columns[name] = pa.nulls(total, kind) if told is None else told.take(index).cast(kind)
        except pa.ArrowException as error:
            message = f"{what}: the column `{name}` is not of the type {kind}: {error}."
            raise InputError(message) from error
    for name in ("char_start", "char_end"):
        columns[name] = pa.nulls(total, pa.int32())
    return pa.table(columns).cast(BASE_SCHEMAS[TOKENS])


def targets(places: Places, what: str) -> NDArray[np.int32] | None:
    """The id of the token behind each row's, int32 `[row]`, -1 where it is not known; None: no ids.

    Raises:
        InputError: ids that are no whole numbers of 32 bits.
    """
    ids = _token_ids(places, what)
    if ids is None:
        return None
    follows = (np.diff(places.example) == 0) & (np.diff(places.token) == 1)
    target = np.full(places.n_row, -1, np.int32)
    target[:-1][follows] = ids[1:][follows]
    return target


def _token_ids(places: Places, what: str) -> NDArray[np.int32] | None:
    """The id of each row's token, int32 `[row]`, -1 where it is null; None where there is none."""
    records = places.records
    if records is None or "token_id" not in records.column_names:
        return None
    column = records.column("token_id")
    if column.null_count == len(column):
        return None
    try:
        return np.asarray(column.cast(pa.int32()).fill_null(-1))
    except pa.ArrowException as error:
        message = f"{what}: the column `token_id` is not of whole numbers of 32 bits: {error}."
        raise InputError(message) from error


def example_table(places: Places, what: str, *, example_rows: bool, token_rows: bool) -> pa.Table:
    """The table `examples`: our columns, then those of the user.

    Raises:
        InputError: a column of the user's with the name of one of ours.
    """
    n = places.n_example
    about = _told(places.about, n, what)
    n_row = np.bincount(places.example, minlength=n) if token_rows else np.zeros(n, np.int64)
    first = np.cumsum(n_row) - n_row
    hashes = about.column("content_hash") if "content_hash" in about.column_names else None
    if hashes is None or hashes.null_count:
        hashes = _hashes(places, about, what)
    columns = {
        "example": np.arange(n),
        "n_token": places.n_token.astype(np.int32),
        "n_row": n_row.astype(np.int32),
        "first_row": pa.array(first, mask=n_row == 0),
        "example_row": pa.array(np.arange(n), mask=np.full(n, not example_rows)),
        "content_hash": hashes,
    }
    user = {name: about.column(name) for name in about.column_names if name != "content_hash"}
    return pa.table(columns | user)


def _told(about: pa.Table, n: int, what: str) -> pa.Table:
    """The user's columns; numbers of ours are kept under another name where they say something."""
    for name in ("example", "example_row"):
        if name not in about.column_names:
            continue
        at = about.column_names.index(name)
        column = about.column(name)
        counts = pa.types.is_integer(column.type) and column.equals(
            pa.chunked_array([pa.array(np.arange(n)).cast(column.type)])
        )
        if counts:
            about = about.remove_column(at)
        else:
            about = about.rename_columns(
                [*about.column_names[:at], f"source_{name}", *about.column_names[at + 1 :]]
            )
    names = about.column_names
    clash = [f.name for f in about.schema if f.name in EXAMPLE_COLUMNS and not _is_hash(f)]
    clash += [name for name in names if names.count(name) > 1]
    if clash:
        message = (
            f"{what} has a column `{clash[0]}`, which the table of examples has too: rename it."
        )
        raise InputError(message)
    return about


def _is_hash(field: pa.Field) -> bool:
    """Whether this is what an export knows of the contents of examples."""
    return field.name == "content_hash" and bool(pa.types.is_string(field.type))


def _hashes(places: Places, about: pa.Table, what: str) -> list[str]:
    """A hash of each example: of its token ids as a capture makes it, else of text or number."""
    ids, whole = _token_ids(places, what), places.n_row == int(places.n_token.sum())
    if ids is not None and whole and (ids >= 0).all():
        parts = np.split(ids.astype("<i4"), np.cumsum(places.n_token)[:-1])
        return [_hash(part.tobytes()) for part in parts]
    if has_text(about):
        texts = about.column("text").to_pylist()
        return [
            _hash(f"text {i if text is None else text}".encode()) for i, text in enumerate(texts)
        ]
    return [_hash(f"example {i}".encode()) for i in range(places.n_example)]


def has_text(about: pa.Table) -> bool:
    """Whether the examples have a text of their own."""
    return "text" in about.column_names and pa.types.is_string(about.schema.field("text").type)


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def row_table(places: Places, what: str) -> pa.Table | None:
    """The user's columns by row, for a table of their own; None where there are none.

    Raises:
        InputError: two columns called `row`.
    """
    records = places.records
    if records is None:
        return None
    names = [name for name in records.column_names if name not in ("token_id", "text")]
    rows = np.arange(places.n_row)
    if "row" in names:
        column = records.column("row")
        counts = pa.types.is_integer(column.type) and np.array_equal(np.asarray(column), rows)
        names.remove("row")
        if not counts:
            records = records.append_column("source_row", column)
            names.append("source_row")
    if len(set(names)) < len(names):
        message = f"{what} has two columns called `source_row`: rename one."
        raise InputError(message)
    return records.select(names).add_column(0, "row", pa.array(rows)) if names else None
