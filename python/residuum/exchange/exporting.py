"""`residuum.export`: a part of a store as files that other tools read, or as another store.

select ──▶ Selection ──▶ Job ──▶ npy · safetensors · dataset · store ──▶ OUT
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from residuum.errors import ArgumentError
from residuum.exchange import dataset, draft, npy, safetensors_file, store_copy
from residuum.exchange.job import MANIFEST, RECORDS, Job
from residuum.exchange.selection import Selection, select
from residuum.exchange.store_copy import Cut
from residuum.quantities import parse_memory
from residuum.store import Store
from residuum.store.lossy import INT8

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from residuum.progress import Reporter
    from residuum.sites import Site
    from residuum.store.selection import Selector

FORMATS = ("npy", "safetensors", "dataset", "store")
SUFFIXES = {".npy": "npy", ".safetensors": "safetensors"}
SHARE = 4  # part of the memory that one block takes: it is read, written and held by the writer


def export(
    store: Store | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    format: str | None = None,
    sites: Iterable[Site | str] | Site | str | None = None,
    layers: str | int | Iterable[int] | None = None,
    rows: str | Selector = None,
    dtype: str | None = None,
    shard_rows: int | None = None,
    chunk_rows: int | None = None,
    codec: str | None = None,
    memory: str | int | None = None,
    progress: bool | None = None,
) -> Path:
    """Write a part of a store for other tools, or as another store.

    Rows come in ascending order and each once, whatever the order they were asked for in. Where a
    token site is exported `rows` are token rows, and of `pooled` come the examples that have one of
    them; where there is none, `rows` are those of `pooled`.

    Args:
        store: a store or its folder.
        out: where to; nothing may be there. A folder, or a file that ends in `.npy` (for one site)
            or `.safetensors`; what the rows are and `export.json` then stand beside it.
        format: `npy` (a file per site, `[row, layer, ...]`), `safetensors` (a tensor per site and
            layer, such as `z.5`, `[row, ...]`), `dataset` (for `datasets.load_from_disk`, a record
            per row) or `store`; by default what the name of `out` says.
        sites: which sites; all by default.
        layers: which layers, numbers or text such as `"0:12"`; those captured by default.
        rows: which rows: SQL that gives row numbers, an array, a boolean mask; all by default.
        dtype: `float32`, `float16` or `bfloat16`; as stored by default. `norm_scale` stays float32.
            Of a store also `int8`, which is lossy: a scale for each column of a chunk, the error
            measured and stated. `pattern`, `attn_scores`, `logits` and `norm_scale` stay exact.
        shard_rows: of a store: rows in a shard; as before by default.
        chunk_rows: of a store: rows in a chunk; by size by default.
        codec: of a store: `none` or `zstd`; as before by default.
        memory: what may be held, in bytes or as `"4GB"`; 1 GB by default. Row numbers come on top.
        progress: show a progress bar; by default where stderr is a terminal.

    Returns:
        The path of what was made.

    Raises:
        StoreError: something is at `out`, the store is damaged, or the disk is full.
        SiteError: a site or layer that the store does not hold.
        SelectionError: rows out of range, or none.
        ArgumentError: what the format cannot hold: bfloat16 in npy, int8 outside a store, sites of
            two kinds of rows in one dataset, a number too large for float16; or a store made of an
            int8 one.
        InputError: layers or a memory that cannot be read.
        ModuleNotFoundError: a dataset, where the library `datasets` is not installed.
        duckdb.Error: what DuckDB says about SQL in `rows`.
    """
    opened = store if isinstance(store, Store) else Store(store)
    place = Path(out)
    form, cut = _format(format, place), Cut(shard_rows, chunk_rows, codec)
    if dtype == INT8 and form != "store":
        message = (
            f"{INT8} has its scales in a store: say --format store, or another --dtype for {form}."
        )
        raise ArgumentError(message)
    budget = parse_memory(memory) // SHARE
    draft.refuse_taken(*_places(form, place).values())
    selection = select(opened, sites=sites, layers=layers, rows=rows, dtype=dtype)
    _check(form, place, selection, cut)
    from residuum.progress import reporter  # its library is slow to load

    with reporter("export", show=progress) as bar:
        bar.start(selection.n_vector, 0)
        _write(form, place, selection, cut, budget, bar)
    return place


def _format(asked: str | None, out: Path) -> str:
    """The format asked for, or the one that the name says."""
    said = SUFFIXES.get(out.suffix.lower())
    if asked is None and said is None:
        message = (
            f"{out}: say what to make, --format {', '.join(FORMATS)}, or end the name in "
            f"{' or '.join(SUFFIXES)}."
        )
        raise ArgumentError(message)
    form = asked or said or ""
    if form not in FORMATS:
        message = f"format {form!r}: choose {', '.join(FORMATS)}."
        raise ArgumentError(message)
    if said not in (None, form):
        message = f"{out}: a name that ends in {out.suffix} is for --format {said}, not {form}."
        raise ArgumentError(message)
    return form


def _places(form: str, out: Path) -> dict[str, Path]:
    """Where the files of an export to one file go, by their names in the folder; `out` is last."""
    if out.suffix.lower() not in SUFFIXES:
        return {out.name: out}
    beside = (*RECORDS.values(), MANIFEST)
    main = safetensors_file.FILE if form == "safetensors" else out.name
    return {name: out.with_name(f"{out.stem}.{name}") for name in beside} | {main: out}


def _check(form: str, out: Path, selection: Selection, cut: Cut) -> None:
    if form != "store" and cut.given:
        option = next(iter(cut.given)).replace("_", "-")
        message = f"--{option} is of a store: say --format store, or leave it out."
        raise ArgumentError(message)
    if out.suffix.lower() == ".npy" and len(selection.sites) > 1:
        names = ", ".join(c.name for c in selection.sites)
        message = (
            f"{out} holds one site, not {names}: choose one with --site, or name a folder and say "
            "--format npy."
        )
        raise ArgumentError(message)
    if form == "npy":
        npy.check(selection)
    elif form == "dataset":
        dataset.check(selection)
    elif form == "store":
        store_copy.check(selection, cut)


def _write(
    form: str, out: Path, selection: Selection, cut: Cut, budget: int, bar: Reporter
) -> None:
    places = _places(form, out)
    made = draft.files(places) if len(places) > 1 else draft.folder(out)
    with made as folder:
        job = Job(selection, folder, budget, bar)
        if form == "store":
            store_copy.write(job, cut)
            return
        folder.mkdir()
        if form == "npy":
            npy.write(job)
        elif form == "safetensors":
            safetensors_file.write(job)
        else:
            dataset.write(job)
        if out.suffix.lower() == ".npy":
            (folder / f"{selection.sites[0].name}.npy").rename(folder / out.name)
