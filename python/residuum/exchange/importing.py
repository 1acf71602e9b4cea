"""`residuum.import_activations`: arrays that people have already, as a store like any other.

arrays, files ──parts.py──▶ Part ──layout.py──▶ Laid ──┐
table ──tables.py──▶ Places ───────────────────────────┴──▶ StoreWriter ──▶ store
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from residuum.errors import InputError
from residuum.exchange import blocks, draft, facts, layout, parts, places, tables
from residuum.quantities import parse_layers, parse_memory
from residuum.sites import RowSpace, Site
from residuum.store import ArrayPlan, Store, StoreWriter
from residuum.store.lossy import INT8
from residuum.store.plan import CODECS, DEFAULT_SHARD_ROWS, DTYPES, MADE_BY_EXPORT

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from residuum.exchange.layout import Laid
    from residuum.exchange.parts import Part
    from residuum.exchange.places import Places
    from residuum.progress import Reporter
    from residuum.store.plan import Codec, Dtype

SHARE = 4  # part of the memory that one block takes
ROWS_TABLE = "rows"


def import_activations(
    out: str | os.PathLike[str],
    arrays: Mapping[Site | str, Any],
    *,
    table: Any = None,  # noqa: ANN401  a path, a pyarrow Table or a pandas DataFrame
    layers: str | int | Iterable[int] | None = None,
    n_layer: int | None = None,
    tensor: str | None = None,
    dtype: str | None = None,
    model_name: str | None = None,
    shard_rows: int | None = None,
    chunk_rows: int | None = None,
    codec: str = "none",
    memory: str | int | None = None,
    allow_nonfinite: bool = False,
    progress: bool | None = None,
) -> Store:
    """Make a store of activations that are there already.

    Arrays of one layer are `[row, ...]` or `[example, token, ...]`, with the site's own axes
    behind: `d_model`, or `head, d_head`. Arrays of several layers have `layer` before these.
    Nothing is read whole but the table.

    Args:
        out: folder of the store; nothing may be there.
        arrays: by site, an array, or one for each layer, `{5: array}`. An array is numpy's, a
            tensor, or the path of a file: `.npy`, `.safetensors` or what `torch.save` wrote. Of a
            file with several tensors those called `site.layer` (or `site`) are taken.
        table: what the rows are: a parquet, csv or jsonl file, a pyarrow Table or a DataFrame. With
            a column `token`, a record per row, in order: `example`, `token`, and if you have them
            `token_id`, `text` and more. Without one, a record per example, whose tokens `n_token`
            counts. Without a table a row is an example of one token, and in `[example, token, ...]`
            every token is one.
        layers: the layers along the axis of arrays that have one.
        n_layer: layers of the model; by default as many as are needed. With it, an array without a
            layer has an axis of all of them.
        tensor: which tensor of a file, where it is not called by its site.
        dtype: `float32`, `float16` or `bfloat16`; as the arrays are by default.
        model_name: the model they come from, for the record.
        shard_rows: rows in a shard; 8192 by default.
        chunk_rows: rows in a chunk; chosen by size by default.
        codec: `none` or `zstd`.
        memory: what may be held, in bytes or as `"4GB"`; 1 GB by default. The table comes on top.
        allow_nonfinite: keep NaN and infinite numbers instead of failing.
        progress: show a progress bar; by default where stderr is a terminal.

    Raises:
        InputError: files, arrays or a table that do not fit, with both numbers.
        SiteError: a site that does not exist.
        ArgumentError: a number that `dtype` cannot hold, or a cut that cannot be.
        StoreError: something is at `out`, or the disk is full.
        ModuleNotFoundError: a file of torch, where torch is not installed.
    """
    options = Options.checked(
        layers=layers,
        n_layer=n_layer,
        dtype=dtype,
        model_name=model_name,
        shard_rows=shard_rows,
        chunk_rows=chunk_rows,
        codec=codec,
        memory=memory,
        allow_nonfinite=allow_nonfinite,
    )
    draft.refuse_taken(Path(out))
    return make(Path(out), parts.of_arrays(arrays, tensor), table, options, show=progress)


def import_files(
    out: Path,
    files: Sequence[Path],
    *,
    sites: Sequence[str],
    of_layers: Sequence[int],
    tensor: str | None,
    table: Path | None,
    progress: bool | None = None,
    **options: Any,  # noqa: ANN401  as `Options`
) -> Store:
    """Make a store of files, as the command line names them.

    Args:
        out: folder of the store.
        files: activations, or one folder that `export` made, which says what is in it.
        sites: the site of all files, or one for each; none where their names say it.
        of_layers: likewise the layer.
        tensor: which tensor of a file.
        table: what the rows are; that of the folder by default.
        progress: show a progress bar; by default where stderr is a terminal.
        options: the fields of `Options`, all of them.

    Raises:
        As `import_activations`.
    """
    draft.refuse_taken(out)
    opened = parts.of_files(files, sites, of_layers, tensor)
    for name, said in (("n_layer", opened.n_layer), ("model_name", opened.model_name)):
        options[name] = said if options[name] is None else options[name]
    checked = Options.checked(**options)
    return make(out, opened.parts, table or opened.table, checked, show=progress)


@dataclass(frozen=True)
class Options:
    """How a store is made of parts; see `import_activations`."""

    layers: tuple[int, ...] | None
    n_layer: int | None
    dtype: str | None
    model_name: str | None
    shard_rows: int
    chunk_rows: int | None
    codec: str
    memory: int
    allow_nonfinite: bool

    @classmethod
    def checked(cls, **given: Any) -> Options:  # noqa: ANN401  as the fields, but for text
        """Parse and check.

        Raises:
            InputError: a value out of its range.
        """
        if given["dtype"] == INT8:
            message = f"an import cannot be int8: {MADE_BY_EXPORT}"
            raise InputError(message)
        if given["dtype"] not in (None, *DTYPES):
            message = f"dtype {given['dtype']!r}: choose {', '.join(DTYPES)}."
            raise InputError(message)
        if given["codec"] not in CODECS:
            message = f"codec {given['codec']!r}: choose {', '.join(CODECS)}."
            raise InputError(message)
        for name in ("n_layer", "shard_rows", "chunk_rows"):
            if given[name] is not None and given[name] < 1:
                message = f"{name} {given[name]}: it must be 1 or more."
                raise InputError(message)
        given["layers"] = parse_layers(given["layers"])
        given["memory"] = parse_memory(given["memory"])
        given["shard_rows"] = given["shard_rows"] or DEFAULT_SHARD_ROWS
        return cls(**given)


@dataclass(frozen=True)
class Import:
    """An import with everything checked that can be checked before it writes."""

    sites: dict[Site, list[Laid]]
    dtypes: dict[Site, np.dtype[Any]]
    places: Places
    n_layer: int
    table: str | None
    options: Options

    @property
    def spaces(self) -> list[RowSpace]:
        """The row spaces that it has."""
        return [space for space in RowSpace if any(s.row_space is space for s in self.sites)]

    def n_row(self, space: RowSpace) -> int:
        """Rows of a row space."""
        return self.places.n_row if space is RowSpace.TOKEN else self.places.n_example


def make(
    out: Path,
    given: Sequence[Part],
    table: Any,  # noqa: ANN401  as `import_activations`
    options: Options,
    *,
    show: bool | None,
) -> Store:
    """Check parts and table, and write the store.

    Raises:
        As `import_activations`.
    """
    prepared = _prepare(given, table, options)
    from residuum.progress import reporter  # its library is slow to load

    with draft.folder(out) as folder, reporter("import", show=show) as bar:
        n_vector = sum(
            prepared.n_row(site.row_space) * len(one.layers or (0,))
            for site, laid in prepared.sites.items()
            for one in laid
        )
        bar.start(n_vector, 0)
        _write(folder, prepared, bar)
    return Store(out)


def _prepare(given: Sequence[Part], table: Any, options: Options) -> Import:  # noqa: ANN401
    if not given:
        message = "there are no activations to import: name at least one array or file."
        raise InputError(message)
    laid = [layout.lay_out(part, options.layers, options.n_layer) for part in given]
    layout.check_together(laid)
    by_site: dict[Site, list[Laid]] = defaultdict(list)
    for one in laid:
        by_site[one.site].append(one)
    sites = {site: by_site[site] for site in Site if site in by_site}
    read, what = (None, "no table") if table is None else places.read_table(table)
    return Import(
        sites=sites,
        dtypes={site: layout.dtype_of(site, of, options.dtype) for site, of in sites.items()},
        places=_places(laid, read, what),
        n_layer=_n_layer(laid, options.n_layer),
        table=None if table is None else what,
        options=options,
    )


def _n_layer(laid: Sequence[Laid], asked: int | None) -> int:
    least, of = max(((max(one.layers, default=-1) + 1, one) for one in laid), key=lambda x: x[0])
    if asked is not None and asked < least:
        message = f"{of.part.what} is of layer {least - 1}, but the model is said to have {asked}."
        raise InputError(message)
    return least if asked is None else asked


def _places(laid: Sequence[Laid], table: pa.Table | None, what: str) -> Places:
    """What the rows are; arrays of examples have to be as many as the examples."""
    tokens = [one for one in laid if one.site.row_space is RowSpace.TOKEN]
    pooled = [one for one in laid if one.site.row_space is RowSpace.EXAMPLE]
    if not tokens:
        return places.of_examples(pooled[0], table, what)
    found = places.places(tokens[0], table, what)
    for one in pooled:
        if one.lead[0] != found.n_example:
            message = (
                f"{one.part.what} has {one.lead[0]} rows, one per example, but there are "
                f"{found.n_example} examples."
            )
            raise InputError(message)
    return found


def _write(folder: Path, job: Import, bar: Reporter) -> None:
    options, found = job.options, job.places
    what = job.table or "the table"
    target = tables.targets(found, what)
    examples = tables.example_table(
        found,
        what,
        example_rows=RowSpace.EXAMPLE in job.spaces,
        token_rows=RowSpace.TOKEN in job.spaces,
    )
    rows = tables.row_table(found, what)
    writer = StoreWriter.create(
        folder,
        model=facts.model(job),
        capture=facts.capture(job, text=tables.has_text(examples)),
        arrays=[_plan(job, site) for site in job.sites],
        target=target is not None,
        shard_rows=options.shard_rows,
        chunk_rows=options.chunk_rows,
        codec=cast("Codec", options.codec),
        memory_bytes=options.memory // 2,
    )
    with writer:
        for space in job.spaces:
            _write_rows(writer, job, space, target, bar)
        writer.flush()
        if not options.allow_nonfinite:
            _check_finite(writer)
        writer.add_examples(examples)
        if len(found.token):
            writer.add_tokens(tables.token_table(found, _texts(found, examples), what))
        writer.commit(complete=True)
    if rows is not None:
        Store(folder).add_table(ROWS_TABLE, rows)


def _texts(found: Places, examples: pa.Table) -> pa.ChunkedArray | None:
    """The texts of examples of one token each, which such a row stands for."""
    one_each = found.n_row == found.n_example and (found.n_token == 1).all()
    return examples.column("text") if one_each and tables.has_text(examples) else None


def _write_rows(
    writer: StoreWriter,
    job: Import,
    space: RowSpace,
    target: NDArray[np.int32] | None,
    bar: Reporter,
) -> None:
    """Write all arrays of a row space, block by block."""
    taken = [one for site, laid in job.sites.items() if site.row_space is space for one in laid]
    held = max(one.held_bytes for one in taken)
    for start, stop in blocks.cut(job.n_row(space), held, job.options.memory // SHARE):
        runs = np.array([[0, start, stop - start]])
        for one in taken:
            place = _place(job.places, one, start, stop)
            for layer in one.layers or (None,):
                what = one.part.what
                values = blocks.narrowed(one.read(place, layer), job.dtypes[one.site], what)
                writer.write(one.site, layer, values, runs)
                bar.advance(done=stop - start, rows=stop - start, n_bytes=values.nbytes)
            if one.part.mapped:
                blocks.let_go(one.part.array)
        if target is not None and space is RowSpace.TOKEN:
            writer.write_target(target[start:stop], runs)


def _place(found: Places, one: Laid, start: int, stop: int) -> tuple[Any, ...]:
    """The key of rows in an array: a slice of its rows, or pairs of example and token."""
    if len(one.lead) == 1:
        return (slice(start, stop),)
    return found.source[start:stop], found.token[start:stop]


def _check_finite(writer: StoreWriter) -> None:
    found = writer.nonfinite()
    if found:
        site, layer, nan, infinite = found[0]
        place = site if layer is None else f"{site} layer {layer}"
        more = f", and {len(found) - 1} more like it" if len(found) > 1 else ""
        message = (
            f"the activations are not all finite: {place} ({nan} NaN, {infinite} infinite){more}. "
            "--allow-nonfinite keeps them as they are."
        )
        raise InputError(message)


def _plan(job: Import, site: Site) -> ArrayPlan:
    laid = job.sites[site]
    layers = sorted(layer for one in laid for layer in one.layers)
    n_layer = job.n_layer if site.has_layers else None
    return ArrayPlan(site, n_layer, layers, laid[0].inner, cast("Dtype", job.dtypes[site].name))
