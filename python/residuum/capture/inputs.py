"""What a capture reads: text and image inputs, in order, with the user's columns untouched.

`open_inputs` turns a path, a list, a table or a dataset into `Inputs`: a schema, a digest and
`batches()`, which can be walked more than once (not for a one-shot stream) and yields
`Records`: an Arrow table of the user's columns beside the payload that the model will see.

    path | list | table | dataset ──open_inputs──▶ Inputs ──batches()──▶ Records(table, payload)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from residuum import readers
from residuum.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


BATCH_RECORDS = 1024
"""Records per batch: enough for a tokenizer's own threads, small enough to hold twice."""

Kind = Literal["text", "chat", "image"]
Payload = Any
"""A `str` (text), a list of `{role, content}` (chat) or an image: path, bytes or PIL image."""


@dataclass(frozen=True)
class Records:
    """Consecutive inputs: `table` has the user's columns, `payload` what the model reads."""

    table: pa.Table
    payload: list[Payload]


@dataclass(frozen=True)
class Inputs:
    """An opened source of inputs.

    `schema` is that of the user's columns, `column` the one that the model reads (None for bare
    images); `n_record` and `digest` are None for a stream,
    whose end is not known before it has been read.
    """

    name: str
    kind: Kind
    column: str | None
    schema: pa.Schema
    n_record: int | None
    digest: str | None
    _tables: Callable[[], Iterator[pa.Table]] = field(repr=False)
    _payload: Callable[[pa.Table, int], list[Payload]] = field(repr=False)

    def batches(self) -> Iterator[Records]:
        """Walk the inputs from the start; the first record of the first batch is record 0."""
        first = 0
        for table in self._tables():
            conformed = _conform(table, self.schema, first)
            yield Records(conformed, self._payload(conformed, first))
            first += conformed.num_rows

    @property
    def streaming(self) -> bool:
        """Whether the length of the inputs is unknown until they have been read."""
        return self.n_record is None


def open_inputs(source: object, *, text_column: str | None = None) -> Inputs:
    """Open any accepted source of inputs.

    Args:
        source: a path (txt, jsonl, csv, tsv, parquet, a folder of images), a list or tuple of
            strings or PIL images, a pyarrow Table, a pandas DataFrame, or a `datasets` Dataset or
            IterableDataset.
        text_column: the column that holds the text or the chat messages; by default `text`, else
            `messages`, else (for images) `image`: encoded bytes, or paths from the file's folder.

    Raises:
        InputError: unknown kind of source, no inputs in it, a column that is not there, a line that
            cannot be parsed.
    """
    if isinstance(source, str | Path):
        return _open_path(Path(source), text_column)
    if isinstance(source, list | tuple):
        return _open_list(source, text_column)
    if isinstance(source, pa.Table):
        return _open_table(source, "table", text_column, None)
    return _open_foreign(source, text_column)


def _open_path(path: Path, text_column: str | None) -> Inputs:
    if not path.exists():
        message = f"{path}: no such file or folder to read inputs from."
        raise InputError(message)
    if path.is_dir():
        return _open_image_folder(path)
    source = readers.read_file(path, text_column or "text")
    if isinstance(source, readers.ParquetSource):
        return _from_tables(
            path.name,
            source.schema,
            source.n_record,
            lambda: source.tables(BATCH_RECORDS),
            text_column,
            readers.file_digest(path),
            path.parent,
        )
    return _open_table(source, path.name, text_column, readers.file_digest(path), path.parent)


def _open_image_folder(folder: Path) -> Inputs:
    from residuum.capture import images

    paths = images.list_folder(folder)
    if not paths:
        known = ", ".join(sorted(images.SUFFIXES))
        message = f"{folder}: no images in this folder; looked for {known}."
        raise InputError(message)
    table = pa.table({"path": [str(p.relative_to(folder)) for p in paths]})
    digest = hashlib.sha256()
    for path in paths:
        digest.update(str(path.relative_to(folder)).encode() + b"\0")
        digest.update(bytes.fromhex(readers.file_digest(path)))
    return _image_inputs(folder.name, table, list(paths), digest.hexdigest())


def _open_list(items: Sequence[object], text_column: str | None) -> Inputs:
    from residuum.capture import images

    if not items:
        message = "the list of inputs is empty: nothing to capture."
        raise InputError(message)
    if all(isinstance(item, str) for item in items):
        return _open_table(
            pa.table({"text": pa.array(items, pa.string())}), "list", text_column, None
        )
    if all(images.is_image(item) for item in items):
        pictures = [item for item in items if images.is_image(item)]
        digest = hashlib.sha256(b"".join(images.content_hash(p) for p in pictures)).hexdigest()
        table = pa.table({"index": list(range(len(items)))}).select([])  # rows without columns
        return _image_inputs("list", table, pictures, digest)
    kinds = ", ".join(sorted({type(item).__name__ for item in items}))
    message = f"a list of inputs must hold strings only or PIL images only; this one holds {kinds}."
    raise InputError(message)


def _image_inputs(name: str, table: pa.Table, pictures: list[Any], digest: str) -> Inputs:
    def tables() -> Iterator[pa.Table]:
        for first in range(0, len(pictures), BATCH_RECORDS):
            yield table.slice(first, BATCH_RECORDS)

    def payload(part: pa.Table, first: int) -> list[Payload]:
        return pictures[first : first + part.num_rows]

    return Inputs(name, "image", None, table.schema, len(pictures), digest, tables, payload)


def _open_foreign(source: object, text_column: str | None) -> Inputs:
    """Sources from libraries that need not be installed, told apart by the class they inherit."""
    bases = {f"{c.__module__.split('.')[0]}.{c.__name__}" for c in type(source).__mro__}
    if "pandas.DataFrame" in bases:
        table = pa.Table.from_pandas(source, preserve_index=False)
        return _open_table(table, "dataframe", text_column, None)
    if "datasets.Dataset" in bases:
        return _open_dataset(source, text_column)
    if "datasets.IterableDataset" in bases:
        return _open_stream(source, text_column)
    message = (
        f"cannot read inputs from a {type(source).__name__}: give a path (txt, jsonl, csv, "
        "parquet, a folder of images), a list of strings or PIL images, a pyarrow Table, a pandas "
        "DataFrame or a datasets.Dataset."
    )
    raise InputError(message)


def _open_dataset(
    source: Any,  # noqa: ANN401 - datasets need not be installed
    text_column: str | None,
) -> Inputs:
    tables = _arrow_tables(source)
    if len(source) == 0:
        name = "dataset"
        raise _empty(name)
    schema = next(tables()).schema
    digest = readers.table_digest(tables())
    return _from_tables("dataset", schema, len(source), tables, text_column, digest)


def _open_stream(
    source: Any,  # noqa: ANN401 - datasets need not be installed
    text_column: str | None,
) -> Inputs:
    tables = _arrow_tables(source)
    head = next(tables(), None)
    if head is None:
        name = "stream"
        raise _empty(name)
    return _from_tables("stream", head.schema, None, tables, text_column, None)


def _arrow_tables(source: Any) -> Callable[[], Iterator[pa.Table]]:  # noqa: ANN401
    """A function that walks a dataset from its beginning."""
    arrow = source.with_format("arrow")
    return lambda: arrow.iter(batch_size=BATCH_RECORDS)


def _open_table(
    table: pa.Table,
    name: str,
    text_column: str | None,
    digest: str | None,
    beside: Path | None = None,
) -> Inputs:
    def tables() -> Iterator[pa.Table]:
        for first in range(0, table.num_rows, BATCH_RECORDS):
            yield table.slice(first, BATCH_RECORDS)

    if digest is None:
        digest = readers.table_digest(tables())
    return _from_tables(name, table.schema, table.num_rows, tables, text_column, digest, beside)


def _from_tables(
    name: str,
    schema: pa.Schema,
    n_record: int | None,
    tables: Callable[[], Iterator[pa.Table]],
    text_column: str | None,
    digest: str | None,
    beside: Path | None = None,
) -> Inputs:
    """Inputs of tables; paths of images that are relative start in the folder `beside`."""
    if n_record == 0:
        raise _empty(name)
    schema = schema.remove_metadata()
    column, kind = _choose_column(name, schema, text_column)

    def payload(part: pa.Table, first: int) -> list[Payload]:
        return _column_payload(part, column, kind, first, beside or Path())

    return Inputs(name, kind, column, schema, n_record, digest, tables, payload)


def _choose_column(name: str, schema: pa.Schema, text_column: str | None) -> tuple[str, Kind]:
    wanted = [text_column] if text_column is not None else ["text", "messages", "image"]
    for column in wanted:
        if column in schema.names:
            kind = _kind_of(column, schema.field(column).type)
            # Strings of a column that is called so are paths, unless it was named as text.
            is_path = kind == "text" and column == "image" and text_column is None
            return column, "image" if is_path else kind
    there = ", ".join(f"`{c}`" for c in schema.names)
    message = (
        f"{name}: there is no column `{wanted[0]}`; the columns are {there}. Name the one that "
        "holds the "
        "text with --text-column (text_column=)."
    )
    raise InputError(message)


def _kind_of(column: str, kind: pa.DataType) -> Kind:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        item = kind.value_type
        if pa.types.is_struct(item) and item.get_field_index("role") >= 0:
            return "chat"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "image"
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return "image"
    message = (
        f"column `{column}` is {kind}: text must be a string, a chat a list of "
        f"{{role, content}}, an image "
        "its encoded bytes."
    )
    raise InputError(message)


def _column_payload(
    table: pa.Table, column: str, kind: Kind, first: int, beside: Path
) -> list[Payload]:
    values = table.column(column)
    if kind == "text":
        values = values.cast(pa.large_string())
    out = values.to_pylist()
    for offset, value in enumerate(out):
        if value is None:
            message = f"row {first + offset} has no value in column `{column}`."
            raise InputError(message)
    if kind == "image":
        return [_encoded_image(value, first + i, beside) for i, value in enumerate(out)]
    return list(out)


def _encoded_image(value: object, row: int, beside: Path) -> bytes | Path:
    """What a column of images holds: encoded bytes or their path, alone or as `{bytes, path}`."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, dict):
        if value.get("bytes") is not None:
            return bytes(value["bytes"])
        value = value.get("path")
    if isinstance(value, str):
        path = beside / value
        if not path.is_file():
            message = f"row {row}: there is no image {path}."
            raise InputError(message)
        return path
    message = f"row {row} has neither the bytes nor the path of an image."
    raise InputError(message)


def _conform(table: pa.Table, schema: pa.Schema, first: int) -> pa.Table:
    """The table in the schema of the first batch; a stream may infer other types further on."""
    if table.schema.equals(schema):  # metadata aside
        return table.replace_schema_metadata(None) if table.schema.metadata else table
    try:
        columns = [
            table.column(f.name).cast(f.type)
            if f.name in table.schema.names
            else pa.nulls(table.num_rows, f.type)
            for f in schema
        ]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        message = f"the rows from {first} on do not have the types of the first ones: {error}"
        raise InputError(message) from error
    return pa.table(columns, schema=schema)


def _empty(name: str) -> InputError:
    return InputError(f"{name}: there are no inputs in it, nothing to capture.")
