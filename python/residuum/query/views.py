"""Views over a store: its sites, its tables and the results kept in it.

A site's view is an index scan under a scalar function, `SELECT row, layer, residuum_vec(…) AS vec`:
DuckDB filters and joins the numbers first, and only rows that survive are decoded.
"""

from collections.abc import Iterator, Set

import pyarrow as pa
import pyarrow.dataset

from residuum.query import quote
from residuum.store import SiteArray, Store
from residuum.store.parts import BASE_SCHEMAS, dataset, require
from residuum.store.s3_path import S3Path, StorePath

MAX_ARRAY = 32_768
"""The widest vector that the extension gives as an array; wider ones, such as logits, are lists."""

_SQL_TYPES = {pa.int64(): "BIGINT", pa.int32(): "INTEGER", pa.string(): "VARCHAR"}


def statements(store: Store, functions: Set[str]) -> Iterator[str]:
    """Yield a `CREATE VIEW` per table, site and result; `functions` are those the extension has.

    Of a store in a bucket only the sites: its tables are `datasets`.
    """
    if not isinstance(store.path, S3Path):
        for name in BASE_SCHEMAS:
            yield _view(name, _table(store, name))
    for name in store.sites:
        yield _view(name, site(store, store[name], functions))
    yield from added(store)


def added(store: Store) -> Iterator[str]:
    """Yield a `CREATE VIEW` per user table and result: what a store can gain after its capture."""
    if not isinstance(store.path, S3Path):
        for name, parts in _added_parts(store):
            yield _view(name, f"SELECT * FROM {quote.parquet(parts)}")


def datasets(store: Store) -> Iterator[tuple[str, pyarrow.dataset.Dataset]]:
    """Yield name and data of every table and result of a store in a bucket.

    DuckDB has no way of its own to a bucket: its extension for that is another download. It scans
    a dataset through pyarrow instead, columns and filters pushed down, nothing read before.
    """
    if isinstance(store.path, S3Path):
        for name in BASE_SCHEMAS:
            yield name, store.dataset(name)
    yield from added_datasets(store)


def added_datasets(store: Store) -> Iterator[tuple[str, pyarrow.dataset.Dataset]]:
    """Yield those that a store in a bucket can gain after its capture."""
    if isinstance(store.path, S3Path):
        for name, parts in _added_parts(store):
            yield name, dataset(parts, pa.schema([]))


def _added_parts(store: Store) -> Iterator[tuple[str, list[StorePath]]]:
    for name in store.tables:
        if name not in BASE_SCHEMAS:
            yield name, store.parts(name)
    yield from _newest_results(store).items()


def site(store: Store, array: SiteArray, functions: Set[str]) -> str:
    """The query behind a site's view: `row, layer[, head], vec`."""
    numbers = ["row"]
    if array.has_layers:
        numbers.append("layer")
    whole = "token" in array.axes  # an image's tokens and heads are one vector
    width = array.row_len if whole else array.row_shape[-1]
    numbers.extend(axis for axis in array.axes if axis in ("head", "kv_head") and not whole)
    where = f"{quote.text(str(store.path))}, {quote.text(array.name)}"
    # A site without layers has the layer 0 for the function, so that a head could follow.
    places = numbers if array.has_layers else ["row", *(["0", *numbers[1:]] if numbers[1:] else [])]
    vector = _vector(f"{where}, {', '.join(places)}", width, functions)
    return f"SELECT {', '.join(numbers)}, {vector} AS vec FROM residuum_activations({where})"


def _vector(arguments: str, width: int, functions: Set[str]) -> str:
    """The cheapest call that gives an array: a function of that width, or the general one, cast."""
    if f"residuum_vec{width}" in functions:
        return f"residuum_vec{width}({arguments})"
    cast = f"::FLOAT[{width}]" if width <= MAX_ARRAY else ""
    return f"residuum_vec({arguments}){cast}"


def _table(store: Store, name: str) -> str:
    parts = store.parts(name)
    require(parts)
    if parts:
        return f"SELECT * FROM {quote.parquet(parts)}"
    columns = ", ".join(
        f"NULL::{_SQL_TYPES[f.type]} AS {quote.name(f.name)}" for f in BASE_SCHEMAS[name]
    )
    return f"SELECT {columns} WHERE false"


def _newest_results(store: Store) -> dict[str, list[StorePath]]:
    """The file of each result table, `<analysis>_<table>`; of several keys the newest.

    A table that the newest was not asked for is that of the newest that was.
    """
    taken, asked = {*store.sites, *store.tables}, set()
    found: dict[str, list[StorePath]] = {}
    for result in store.results.list():
        for table in result.tables:
            name = f"{result.analysis}_{table}"
            unasked = table in result.provenance.get("unasked", ())
            if name not in taken and not (unasked and name in asked):
                found[name] = [result.path / f"{table}.parquet"]
            if not unasked:
                asked.add(name)
    return found


def _view(name: str, query: str) -> str:
    return f"CREATE OR REPLACE VIEW {quote.name(name)} AS {query}"
