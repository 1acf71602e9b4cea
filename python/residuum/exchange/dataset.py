"""Export as a Hugging Face dataset on disk: a folder that `datasets.load_from_disk` opens.

    state.json · dataset_info.json · data-00000-of-00003.arrow …

One record per row: what the row is, and one list of fixed size per site and layer.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from residuum.errors import ArgumentError
from residuum.exchange import blocks
from residuum.exchange.job import refuse_bfloat16
from residuum.exchange.records import records
from residuum.exchange.safetensors_file import tensor_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from residuum.exchange.job import Job
    from residuum.exchange.selection import Selection

FILE_BYTES = 500_000_000  # of one Arrow file, as the library cuts them


def check(selection: Selection) -> None:
    """Refuse what the format cannot hold.

    Raises:
        ArgumentError: a site of bfloat16, or sites of both row spaces.
        ModuleNotFoundError: the library is not installed.
    """
    refuse_bfloat16(selection, "a dataset")
    if len(selection.spaces) > 1:
        names = [[c.name for c in selection.sites if c.space is s] for s in selection.spaces]
        message = (
            f"a record is one row, but the rows of {', '.join(names[0])} are tokens and those of "
            f"{', '.join(names[1])} are examples: export them apart, with --site."
        )
        raise ArgumentError(message)
    _library()


def write(job: Job) -> None:
    """Write the records in files of about 500 MB, and what the library keeps beside them."""
    library = _library()
    n_row = job.selection.rows[job.selection.spaces[0]].n
    per_file = max(1, FILE_BYTES // _vector_bytes(job.selection))
    n_file = -(-n_row // per_file)
    names = [f"data-{number:05d}-of-{n_file:05d}.arrow" for number in range(n_file)]
    features: Any = None
    writer: Any = None
    current = -1
    with ExitStack() as files:
        for number, table in _cut(_tables(job), per_file):
            if features is None:
                features = library.Features.from_arrow_schema(table.schema)
            if number != current:
                files.close()
                stream = files.enter_context((job.folder / names[number]).open("xb"))
                writer = files.enter_context(pa.ipc.new_stream(stream, features.arrow_schema))
                current = number
            writer.write_table(table.cast(features.arrow_schema))
    library.DatasetInfo(features=features).write_to_directory(str(job.folder))
    arrays = {c.name: job.array(c, "*.arrow") for c in job.selection.sites}
    _write_state(job, names, arrays)
    job.write_manifest("dataset", arrays)


def _tables(job: Job) -> Iterator[pa.Table]:
    """Records with their vectors, in order, a block at a time."""
    selection = job.selection
    space = selection.spaces[0]
    rows = selection.rows[space]
    held = sum(blocks.held_bytes(c.array, len(c.each_layer), c.dtype) for c in selection.sites)
    done = 0
    for described in records(selection.store, rows, space):
        for start, stop in blocks.cut(described.num_rows, held, job.budget):
            span = (done + start, done + stop)
            yield _with_vectors(job, described.slice(start, stop - start), span)
        done += described.num_rows


def _with_vectors(job: Job, table: pa.Table, span: tuple[int, int]) -> pa.Table:
    """The records of some rows, with a column per site and layer."""
    for chosen in job.selection.sites:
        rows = job.selection.rows_of(chosen)
        for layer in chosen.each_layer:
            values = blocks.read(chosen.array, rows, span, layer, chosen.dtype)
            flat = pa.array(values.reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, chosen.array.row_len)
            table = table.append_column(tensor_name(chosen.name, layer), column)
            n_row = span[1] - span[0]
            job.bar.advance(done=n_row, rows=n_row, n_bytes=values.nbytes)
    return table


def _cut(tables: Iterator[pa.Table], per_file: int) -> Iterator[tuple[int, pa.Table]]:
    """The tables with the numbers of their files, cut where a file ends."""
    done = 0
    for table in tables:
        start = 0
        while start < table.num_rows:
            number, within = divmod(done, per_file)
            part = table.slice(start, per_file - within)
            yield number, part
            start += part.num_rows
            done += part.num_rows


def _vector_bytes(selection: Selection) -> int:
    """Bytes of the vectors of one record."""
    lengths = (len(c.each_layer) * c.array.row_len * c.dtype.itemsize for c in selection.sites)
    return sum(lengths)


def _write_state(job: Job, names: list[str], arrays: dict[str, Any]) -> None:
    """What the library wants to know before it opens the files."""
    made = json.dumps(job.manifest("dataset", arrays), sort_keys=True)
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": hashlib.sha256(made.encode()).hexdigest()[:16],
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (job.folder / "state.json").write_text(json.dumps(state, indent=2), encoding="utf-8")


def _library() -> Any:  # noqa: ANN401  a library without types
    """The library, which says how a dataset's columns are described.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        message = (
            "--format dataset needs datasets, which is not installed: "
            "pip install 'residuum[datasets]'."
        )
        raise ModuleNotFoundError(message, name=error.name) from error
    return datasets
