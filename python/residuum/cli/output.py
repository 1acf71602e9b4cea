"""DuckDB results as a table, CSV, JSON or Parquet: to a file or to stdout, in batches."""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import duckdb

FORMATS = ("table", "csv", "json", "parquet")
SUFFIXES = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".txt": "table"}
BATCH_ROWS = 2048


def choose_format(asked: str | None, out: Path | None) -> str:
    """The format asked for, else that of the file's suffix, else a table.

    Raises:
        UsageError: a suffix that says nothing.
    """
    if asked is not None or out is None:
        return asked or "table"
    if out.suffix.lower() not in SUFFIXES:
        message = f"-o {out}: end the name in {', '.join(SUFFIXES)}, or choose with --format."
        raise click.UsageError(message)
    return SUFFIXES[out.suffix.lower()]


def write_relation(relation: duckdb.DuckDBPyRelation, form: str, out: Path | None) -> None:
    """Write a query's result.

    Raises:
        UsageError: Parquet to a terminal.
    """
    if form == "parquet":
        if out is None and sys.stdout.isatty():
            message = "--format parquet needs -o FILE: a terminal cannot show it."
            raise click.UsageError(message)
        _to(out, lambda stream: _parquet(relation, stream), binary=True)
    else:
        writer = {"table": _table, "csv": _csv, "json": _json}[form]
        _to(out, lambda stream: writer(relation, stream), binary=False)


def _to(out: Path | None, write: Callable[[IO[Any]], object], *, binary: bool) -> None:
    """Write to stdout, or to a file that appears when it is whole."""
    if out is None:
        write(sys.stdout.buffer if binary else sys.stdout)
        sys.stdout.flush()
        return
    if out.is_symlink() or (out.exists() and not out.is_file()):
        _fill(out, write, binary=binary)  # a rename would replace the link, device or pipe
        return
    if not out.parent.is_dir():
        message = f"{out}: there is no folder {out.parent}"
        raise FileNotFoundError(message)
    handle, name = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")
    os.close(handle)
    part = Path(name)
    try:
        part.chmod(0o666 & ~_umask())  # mkstemp's files are for their owner alone
        _fill(part, write, binary=binary)
        part.replace(out)
    except BaseException as error:
        part.unlink(missing_ok=True)
        error.add_note(f"{out} was not written.")
        raise


def _fill(path: Path, write: Callable[[IO[Any]], object], *, binary: bool) -> None:
    if path.is_dir():
        message = f"{path} is a folder; name a file"
        raise IsADirectoryError(message)
    mode, encoding, newline = ("wb", None, None) if binary else ("w", "utf-8", "")
    with path.open(mode, encoding=encoding, newline=newline) as stream:
        write(stream)


def _umask() -> int:
    """What the process takes from the mode of a new file; it can only be read by setting it."""
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


def write_text(out: Path, text: str) -> None:
    """Write a text file that appears when it is whole."""
    _to(out, lambda stream: stream.write(text), binary=False)


def _table(relation: duckdb.DuckDBPyRelation, stream: IO[str]) -> None:
    stream.write(f"{relation}\n")


def _csv(relation: duckdb.DuckDBPyRelation, stream: IO[str]) -> None:
    writer = csv.writer(stream, lineterminator="\n")
    batches = _batches(relation)
    first = list(itertools.islice(batches, 1))  # a query that fails has then written no header
    writer.writerow(relation.columns)
    for rows in itertools.chain(first, batches):
        writer.writerows(rows)


def _json(relation: duckdb.DuckDBPyRelation, stream: IO[str]) -> None:
    names = distinct(relation.columns)
    separator = "[\n"
    for rows in _batches(relation):
        for row in rows:
            record = dict(zip(names, map(plain, row), strict=True))
            stream.write(separator + json.dumps(record, ensure_ascii=False))
            separator = ",\n"
    stream.write("[]\n" if separator == "[\n" else "\n]\n")


def _parquet(relation: duckdb.DuckDBPyRelation, stream: IO[bytes]) -> None:
    import pyarrow.parquet as pq

    reader = relation.to_arrow_reader(BATCH_ROWS)
    with pq.ParquetWriter(stream, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def _batches(relation: duckdb.DuckDBPyRelation) -> Iterator[Iterable[tuple[Any, ...]]]:
    """Rows as Python values; the query runs once and is never held whole."""
    for batch in relation.to_arrow_reader(BATCH_ROWS):
        yield zip(*(column.to_pylist() for column in batch.columns), strict=True)


def distinct(names: Iterable[str]) -> list[str]:
    """Column names as JSON keys: a repeated name gets a number, as in DuckDB's subqueries."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, -1) + 1
        out.append(name if seen[name] == 0 else f"{name}_{seen[name]}")
    return out


def plain(value: object) -> object:
    """A value that JSON has: what is not finite is null, what has no JSON type is text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value.hex() if isinstance(value, bytes) else str(value)


def print_json(document: object) -> None:
    """Print one JSON document on stdout."""
    click.echo(json.dumps(plain(document), ensure_ascii=False, indent=2))
