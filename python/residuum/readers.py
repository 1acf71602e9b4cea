"""Input files as Arrow: one function per kind of file, errors that name the line.

Text files are read whole (they are small beside what a model makes of them); Parquet is streamed.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from residuum.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

LINES_PER_TABLE = 16384
"""JSON lines parsed before they become Arrow: Python objects are ten times the size."""


@dataclass(frozen=True)
class ParquetSource:
    """A Parquet file that is read in batches, as often as asked."""

    path: Path
    schema: pa.Schema
    n_record: int

    def tables(self, batch: int) -> Iterator[pa.Table]:
        """Its rows in order, at most `batch` in a table."""
        with pq.ParquetFile(self.path) as file:
            for part in file.iter_batches(batch_size=batch):
                yield pa.Table.from_batches([part])


def read_file(path: Path, text_column: str) -> pa.Table | ParquetSource:
    """Read an input file by its suffix.

    Raises:
        InputError: a suffix that is not known, or a file that does not parse (with the line
        number).
    """
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return read_txt(path)
    if suffix in {".jsonl", ".ndjson"}:
        return read_jsonl(path)
    if suffix in {".csv", ".tsv"}:
        return read_csv(path, text_column)
    if suffix in {".parquet", ".pq"}:
        return open_parquet(path)
    message = (
        f"{path}: inputs are read from .txt (one a line), .jsonl, .csv, .tsv and .parquet files "
        "and from "
        f"folders of images, not from {suffix or 'a file without suffix'}."
    )
    raise InputError(message)


def read_txt(path: Path) -> pa.Table:
    """One input a line, in a column `text`; a newline at the end of the file adds no input."""
    lines = [line for _, line in _lines(path)]
    return pa.table({"text": pa.array(lines, pa.string())})


def read_jsonl(path: Path) -> pa.Table:
    """One JSON object a line; blank lines are passed over; a key that a line lacks is null."""
    tables: list[pa.Table] = []
    records: list[tuple[int, dict[str, object]]] = []
    for numbered in json_lines(path):
        records.append(numbered)
        if len(records) == LINES_PER_TABLE:
            tables.append(_table_of(path, records))
            records = []
    if records or not tables:
        tables.append(_table_of(path, records))
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        message = f"{path}: a column changes its type on the way: {error}"
        raise InputError(message) from error


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """The objects of a file of JSON lines with the numbers of their lines; blank ones are none.

    Raises:
        InputError: a line that is no JSON object, or a file that is not UTF-8.
    """
    for number, line in _lines(path):
        if line.strip():
            yield number, _json_object(path, number, line)


def _json_object(path: Path, number: int, line: str) -> dict[str, object]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        message = f"{path}: line {number} is not JSON: {error.msg} at column {error.colno}."
        raise InputError(message) from error
    if not isinstance(value, dict):
        message = f"{path}: line {number} is a JSON {type(value).__name__}, not an object."
        raise InputError(message)
    return value


def _table_of(path: Path, records: list[tuple[int, dict[str, object]]]) -> pa.Table:
    names = dict.fromkeys(key for _, record in records for key in record)
    columns = {}
    for name in names:
        try:
            columns[name] = pa.array([record.get(name) for _, record in records])
        except (pa.ArrowException, OverflowError) as error:
            first, last = records[0][0], records[-1][0]
            message = (
                f"{path}: the values of `{name}` in lines {first} to {last} are not of one type: "
                f"{error}"
            )
            raise InputError(message) from error
    return pa.table(columns)


def read_csv(path: Path, text_column: str) -> pa.Table:
    """A CSV or TSV file with a header; the text column stays text whatever it looks like."""
    try:
        return pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(
                delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={text_column: pa.string()}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as error:
        if path.stat().st_size == 0:
            message = f"{path}: there are no inputs in it, nothing to capture."
            raise InputError(message) from error
        message = f"{path}: not a readable CSV file: {error}"
        raise InputError(message) from error


def open_parquet(path: Path) -> ParquetSource:
    """Look at a Parquet file's footer."""
    try:
        with pq.ParquetFile(path) as file:
            return ParquetSource(path, file.schema_arrow, file.metadata.num_rows)
    except pa.ArrowInvalid as error:
        message = f"{path}: not a readable Parquet file: {error}"
        raise InputError(message) from error


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def table_digest(tables: Iterable[pa.Table]) -> str:
    """SHA-256 of tables as Arrow streams, in hex; independent of how buffers are sliced."""
    digest = hashlib.sha256()
    for table in tables:
        # through a list of batches made anew: slices carry their parents' offsets and padding
        fresh = (
            table.replace_schema_metadata(None)
            .combine_chunks()
            .take(pa.array(range(table.num_rows), pa.int64()))
        )
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, fresh.schema) as writer:
            writer.write_table(fresh)
        digest.update(sink.getvalue())
    return digest.hexdigest()


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, from 1, without their ends; only LF and CR LF end a line."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                message = f"{path}: line {number} is not UTF-8 text."
                raise InputError(message) from error
            yield number, text.removesuffix("\n").removesuffix("\r")
