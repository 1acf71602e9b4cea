"""Export as another store: fewer sites, layers or rows; another dtype, codec or cut.

    shards ──rows taken──▶ StoreWriter
    examples, tokens ──renumbered──▶ StoreWriter ──▶ commit
    weights, vocabulary, lenses, user tables ──▶ beside them

Results are left behind: they are answers about the other store.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa

from residuum.errors import ArgumentError
from residuum.exchange import blocks
from residuum.exchange.selection import batches, example_rows
from residuum.exchange.user_tables import renumbered
from residuum.sites import RowSpace, Site
from residuum.store import ArrayPlan, Store, StoreWriter, lens_files
from residuum.store.columns import integers, nullable
from residuum.store.lossy import INT8
from residuum.store.plan import CODECS
from residuum.store.s3_path import S3Path
from residuum.store.user_tables import names as user_table_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.exchange.job import Job
    from residuum.exchange.selection import Chosen, Selection
    from residuum.store.plan import Codec

EXAMPLES = 512  # that are read together: few, because each can be long
SHARE_OF_TABLES = 0.5  # of a block's memory, before they are committed


@dataclass(frozen=True)
class Cut:
    """How the new store is cut and coded; None is as the other one (`chunk_rows`: by size)."""

    shard_rows: int | None = None
    chunk_rows: int | None = None
    codec: str | None = None

    @property
    def given(self) -> dict[str, object]:
        """What was asked for, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def of(self, store: Store) -> Cut:
        """The same with what the store decides in the place of what was left out."""
        rows = self.shard_rows or store[store.sites[0]].shard_rows
        return Cut(rows, self.chunk_rows, self.codec or store.capture.get("codec", "none"))


def check(selection: Selection, cut: Cut) -> None:
    """Refuse what would be a wrong store.

    Raises:
        ArgumentError: a codec that is not known, numbers below one, a key axis whose keys are
            rows that would be left out, or int8 sites, whose error a copy would not know.
        StoreError: a lens that is damaged, or of another model.
    """
    for file in lens_files.files(selection.store.path):
        lens_files.read(file, selection.store.model)
    for chosen in selection.sites:
        if chosen.array.error is not None:
            message = (
                f"{chosen.name} is {INT8} ({chosen.array.error}), of which a copy could not say "
                "how far it is from what was captured: export the store that this one was made of."
            )
            raise ArgumentError(message)
    if cut.codec is not None and cut.codec not in CODECS:
        message = f"codec {cut.codec!r}: choose {', '.join(CODECS)}."
        raise ArgumentError(message)
    for name, value in (("shard_rows", cut.shard_rows), ("chunk_rows", cut.chunk_rows)):
        if value is not None and value < 1:
            message = f"{name} {value}: it must be 1 or more."
            raise ArgumentError(message)
    keyed = [c.name for c in selection.sites if "key" in c.array.axes]
    if selection.store.capture.get("keys") == "stored" and keyed and _loses_keys(selection):
        message = (
            f"the keys of {keyed[0]} are the stored tokens of each example, of which the rows "
            f"asked for leave some out: ask for whole examples, or leave out --site {keyed[0]}."
        )
        raise ArgumentError(message)


def _loses_keys(selection: Selection) -> bool:
    """Whether a taken example loses some of its rows."""
    if selection.examples is None:
        return False
    rows = selection.rows[RowSpace.TOKEN]
    return any(
        (selection.examples[example] & (rows.places(row) < 0)).any()
        for example, row in example_rows(selection.store, RowSpace.TOKEN)
    )


def write(job: Job, cut: Cut) -> None:
    """Make the store.

    Raises:
        ArgumentError: a cut that cannot be: `chunk_rows` that does not divide `shard_rows`.
    """
    selection = job.selection
    store = selection.store
    cut = cut.of(store)
    tokens = RowSpace.TOKEN in selection.spaces
    writer = StoreWriter.create(
        job.folder,
        model=store.model,
        capture=_facts(selection, cut),
        arrays=[_plan(chosen) for chosen in selection.sites],
        target=tokens and store.target is not None,
        shard_rows=cut.shard_rows or 0,
        chunk_rows=cut.chunk_rows,
        codec=cast("Codec", cut.codec),
        memory_bytes=2 * job.budget,
    )
    with writer:
        for space in selection.spaces:
            _write_rows(job, writer, space)
        _copy_files(job)
        numbering = _Numbering.of(selection)
        _write_tables(job, writer, numbering)
        writer.commit(complete=True, resume={})
    _copy_user_tables(job, numbering)


def _plan(chosen: Chosen) -> ArrayPlan:
    array = chosen.array
    n_layer = array.shape[1] if array.has_layers else None
    inner, dtype = array.row_shape, chosen.stored_dtype
    return ArrayPlan(Site(array.name), n_layer, chosen.layers, inner, dtype)


def _facts(selection: Selection, cut: Cut) -> dict[str, Any]:
    """The settings of the capture as they hold for what is left of it."""
    capture = selection.store.capture
    layers = sorted({layer for chosen in selection.sites for layer in chosen.layers})
    dtypes = {c.stored_dtype for c in selection.sites if c.name != Site.NORM_SCALE}
    one = INT8 if INT8 in dtypes else dtypes.pop() if len(dtypes) == 1 else capture.get("dtype")
    return {
        **capture,
        "sites": [chosen.name for chosen in selection.sites],
        "layers": layers,
        **({} if selection.examples is None else {"positions": "selected"}),
        "dtype": one,
        **vars(cut),
        "exported": {**selection.describe(), "residuum": version("residuum")},
    }


def _write_rows(job: Job, writer: StoreWriter, space: RowSpace) -> None:
    """Write all sites of a row space, block by block, and the target of token rows."""
    sites = [c for c in job.selection.sites if c.space is space]
    rows = job.selection.rows[space]
    held = max(blocks.held_bytes(c.array, 1, c.dtype) for c in sites)
    chunk = max(c.array.chunk_rows for c in sites) if rows.index is None else 1
    target = job.selection.store.target if space is RowSpace.TOKEN else None
    for start, stop in blocks.cut(rows.n, held, job.budget, chunk):
        runs = np.array([[0, start, stop - start]])
        for chosen in sites:
            for layer in chosen.each_layer:
                values = blocks.read(chosen.array, rows, (start, stop), layer, chosen.dtype)
                writer.write(chosen.name, layer, values, runs)
                n_row = stop - start
                job.bar.advance(done=n_row, rows=n_row, n_bytes=values.nbytes)
        if target is not None:
            writer.write_target(target.read(rows.source(start, stop)), runs)


def _copy_files(job: Job) -> None:
    """Copy weights, vocabulary and lenses, which are the model's: the same for some of its rows."""
    store = job.selection.store.path
    for file in [*(store / "weights").glob("[!.]*"), *lens_files.files(store)]:
        place = job.folder / file.parent.name / file.name
        place.parent.mkdir(exist_ok=True)
        if isinstance(file, S3Path):
            place.write_bytes(file.read_bytes())
        else:
            shutil.copyfile(file, place)


@dataclass(frozen=True)
class _Numbering:
    """The new numbers of the examples, and how many and which rows each has.

    All int64 `[example]` by old number: `example` is -1 where it is left out, `first_row` where
    none of it is stored.
    """

    example: NDArray[np.int64]
    n_row: NDArray[np.int64]
    first_row: NDArray[np.int64]

    @classmethod
    def of(cls, selection: Selection) -> _Numbering:
        """Count the rows that each example keeps."""
        store = selection.store
        n = store.n_example
        taken = np.ones(n, bool) if selection.examples is None else selection.examples
        number = np.where(taken, np.cumsum(taken) - 1, -1)
        n_row, first = np.zeros(n, np.int64), np.full(n, np.iinfo(np.int64).max)
        rows = selection.rows[RowSpace.TOKEN]
        for example, row in example_rows(store, RowSpace.TOKEN):
            place = rows.places(row)
            example, place = example[place >= 0], place[place >= 0]
            n_row += np.bincount(example, minlength=n)
            np.minimum.at(first, example, place)
        return cls(number, n_row, np.where(n_row > 0, first, -1))


def _write_tables(job: Job, writer: StoreWriter, numbering: _Numbering) -> None:
    """Write examples and tokens; commit on the way where they fill their share of the memory."""
    tokens = _tokens(job.selection, numbering)
    held, waiting = 0, next(tokens, None)
    step = _example_step(job)
    for examples in _examples(job.selection, numbering):
        writer.add_examples(examples)
        held += examples.nbytes
        last = examples.column("example")[-1].as_py()
        while waiting is not None and waiting.column("example")[0].as_py() <= last:
            writer.add_tokens(waiting)
            held += waiting.nbytes
            waiting = next(tokens, None)
        if held > job.budget * SHARE_OF_TABLES and _commit(job, writer, step):
            held = 0


def _example_step(job: Job) -> int:
    """Of which number of example rows commits show a multiple: an int8 chunk is shown whole."""
    new = Store(job.folder)
    coded = [c.name for c in job.selection.sites if c.stored_dtype == INT8]
    arrays = [new[name] for name in coded if new[name].row_space is RowSpace.EXAMPLE]
    return math.lcm(*(array.chunk_rows for array in arrays))


def _commit(job: Job, writer: StoreWriter, step: int) -> bool:
    """Commit the examples that lie in full shards, if there are new ones."""
    writer.flush()
    tokens = RowSpace.TOKEN in job.selection.spaces
    n = writer.n_within(writer.sealed_rows("token") if tokens else None, step)
    if n <= writer.n_example:
        return False
    writer.commit(n_example=n, resume={})
    return True


def _examples(selection: Selection, numbering: _Numbering) -> Iterator[pa.Table]:
    """The table of examples with their new numbers, in order."""
    data = selection.store.examples
    names = [name for name in data.schema.names if name != "n_row"]
    pooled = selection.rows[RowSpace.EXAMPLE]
    for batch in batches(data, names, EXAMPLES):
        table = pa.Table.from_batches([batch])
        old = integers(table.column("example"))
        table = table.filter(pa.array(numbering.example[old] >= 0))
        if not table.num_rows:
            continue
        old = integers(table.column("example"))
        place = pooled.places(integers(table.column("example_row")))
        new = {
            "example": pa.array(numbering.example[old]),
            "n_row": pa.array(numbering.n_row[old].astype(np.int32)),
            "first_row": nullable(numbering.first_row[old]),
            "example_row": nullable(place),
        }
        yield _with(table, new)


def _tokens(selection: Selection, numbering: _Numbering) -> Iterator[pa.Table]:
    """The table of tokens with new numbers, in order; tokens that lost their row stay."""
    data = selection.store.tokens
    rows = selection.rows[RowSpace.TOKEN]
    for batch in batches(data, data.schema.names, 1 << 15):
        table = pa.Table.from_batches([batch])
        number = numbering.example[integers(table.column("example"))]
        table = table.filter(pa.array(number >= 0))
        if not table.num_rows:
            continue
        place = rows.places(integers(table.column("row")))
        new = {"example": pa.array(number[number >= 0]), "row": nullable(place)}
        yield _with(table, new)


def _with(table: pa.Table, new: dict[str, pa.Array]) -> pa.Table:
    """The table with other columns of these names; `n_row` stands behind `n_token`."""
    for name, column in new.items():
        if name in table.column_names:
            at = table.column_names.index(name)
            field = table.schema.field(at).with_type(column.type)
            table = table.set_column(at, field, column)
        else:
            table = table.add_column(2, name, column)
    return table


def _copy_user_tables(job: Job, numbering: _Numbering) -> None:
    """Copy the user's tables; where rows were selected, with the new numbers."""
    selection = job.selection
    new = Store(job.folder)
    for name in user_table_names(selection.store.path / "tables"):
        table = selection.store.table(name)
        if selection.examples is not None:
            table = renumbered(table, numbering.example, selection.rows[RowSpace.TOKEN])
        new.add_table(name, table)
