"""What of a store is exported: sites, layers, rows, and the dtype of each site."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from residuum.errors import ArgumentError, SelectionError, SiteError
from residuum.exchange.rows import Rows
from residuum.quantities import parse_layers
from residuum.query import quote
from residuum.sites import RowSpace, Site
from residuum.store.dtypes import numpy_dtype
from residuum.store.lossy import INT8
from residuum.store.plan import DTYPES, NEVER_INT8
from residuum.store.selection import Axis, Selector, pick
from residuum.store.show import count

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import duckdb
    from numpy.typing import NDArray

    from residuum.store import SiteArray, Store
    from residuum.store.plan import StoredDtype


@dataclass(frozen=True)
class Chosen:
    """One site of an export.

    Attributes:
        layers: empty for a site without them.
        dtype: of the numbers that are written.
        stored_dtype: its name; int8 where a store is to have codes of these numbers.
    """

    array: SiteArray
    layers: tuple[int, ...]
    dtype: np.dtype[Any]
    stored_dtype: StoredDtype

    @property
    def name(self) -> str:
        """The site."""
        return self.array.name

    @property
    def space(self) -> RowSpace:
        """What its rows are."""
        return RowSpace(self.array.row_space)

    @property
    def each_layer(self) -> tuple[int | None, ...]:
        """The layers, or a single None for a site without them."""
        return self.layers or (None,)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Lengths of the axes behind `row`: the layers that were chosen, then the site's own."""
        return (*((len(self.layers),) if self.array.has_layers else ()), *self.array.row_shape)


@dataclass(frozen=True)
class Selection:
    """What an export takes of a store.

    Attributes:
        rows: the rows of each row space; none of a space without a chosen site.
        examples: whether each example is taken, bool `[example]`; None is all of them.
        asked: what `rows` was, for the record: SQL, or a count; None is all rows.
    """

    store: Store
    sites: tuple[Chosen, ...]
    rows: Mapping[RowSpace, Rows]
    examples: NDArray[np.bool_] | None
    asked: str | None

    def rows_of(self, chosen: Chosen) -> Rows:
        """The rows of a site."""
        return self.rows[chosen.space]

    @property
    def spaces(self) -> tuple[RowSpace, ...]:
        """The row spaces of the chosen sites."""
        return tuple(space for space in RowSpace if any(c.space is space for c in self.sites))

    @property
    def n_vector(self) -> int:
        """Rows of all sites and layers: what a progress bar counts."""
        return sum(self.rows_of(c).n * len(c.each_layer) for c in self.sites)

    def describe(self) -> dict[str, Any]:
        """What was selected from what, as JSON."""
        store = self.store
        segments = store.resume.get("segments", [])
        return {
            "from": store.path.name,
            "commit": store.commit,
            "complete": store.complete,
            "inputs": [segment["inputs"] for segment in segments if "inputs" in segment],
            "rows": self.asked,
            "n_row": {space.value: self.rows[space].n for space in self.spaces},
            "sites": {c.name: list(c.layers) if c.layers else None for c in self.sites},
        }


def select(
    store: Store,
    *,
    sites: Iterable[Site | str] | Site | str | None,
    layers: str | int | Iterable[int] | None,
    rows: str | Selector,
    dtype: str | None,
) -> Selection:
    """Check what was asked for and find its rows.

    Raises:
        SiteError: a site or layer that the store does not hold.
        SelectionError: rows out of range, or none.
        ArgumentError: a dtype that is not known, or SQL that gives no row numbers.
        duckdb.Error: what DuckDB says about the SQL.
    """
    if dtype is not None and dtype not in (*DTYPES, INT8):
        message = f"dtype {dtype!r}: choose {', '.join(DTYPES)}, or {INT8} of a store."
        raise ArgumentError(message)
    numbers = parse_layers(layers)
    if numbers == ():
        message = "no layer is asked for: name some, or leave out the layers for all."
        raise SiteError(message)
    chosen = tuple(_chosen(store[name], numbers, dtype) for name in _names(store, sites))
    if numbers is not None and not any(c.layers for c in chosen):
        names = ", ".join(c.name for c in chosen)
        message = f"{names} exists once, not in every layer: leave out the layers."
        raise SiteError(message)
    spaces = {c.space for c in chosen}
    space = RowSpace.TOKEN if RowSpace.TOKEN in spaces else RowSpace.EXAMPLE
    if not any(store.rows[one] for one in spaces):
        message = f"{store.path} holds no row of {', '.join(c.name for c in chosen)} to export."
        raise SelectionError(message)
    found = None if rows is None else _found(store, rows, space)
    taken = {one: Rows(store.rows[one]) if one in spaces else Rows.none() for one in RowSpace}
    if found is None:
        return Selection(store, chosen, taken, None, None)
    taken[space] = found
    examples = _examples(store, found, space)
    if space is RowSpace.TOKEN and RowSpace.EXAMPLE in spaces:
        taken[RowSpace.EXAMPLE] = _example_rows(store, examples)
    asked = rows if isinstance(rows, str) else f"{found.n} of {store.rows[space]}"
    return Selection(store, chosen, taken, examples, asked)


def _names(store: Store, sites: Iterable[Site | str] | Site | str | None) -> list[str]:
    """The sites asked for, in the order of the store; all of them if none was named."""
    if not store.sites:
        message = f"{store.path} holds no site: there is nothing to export."
        raise SiteError(message)
    if sites is None:
        return list(store.sites)
    asked = {Site.parse(site) for site in ([sites] if isinstance(sites, str) else sites)}
    if not asked:
        message = "no site is asked for: name some, or leave out the sites for all."
        raise SiteError(message)
    for site in asked:
        store[site]  # one that is not there is an error that lists those that are
    return [name for name in store.sites if name in asked]


def _chosen(array: SiteArray, layers: tuple[int, ...] | None, dtype: str | None) -> Chosen:
    taken = () if not array.has_layers else array.layers if layers is None else layers
    missing = [layer for layer in taken if layer not in array.layers]
    if missing:
        there = ", ".join(map(str, array.layers))
        message = f"layer {missing[0]} of {array.name} is not in the store; it has {there}."
        raise SiteError(message)
    if dtype == INT8 and array.name not in NEVER_INT8:
        return Chosen(array, taken, array.dtype, INT8)
    # Norm scales are few and divide everything: they stay what they are.
    stays = dtype in (None, INT8) or array.name == Site.NORM_SCALE
    written = array.dtype if stays else numpy_dtype(dtype or "")
    return Chosen(array, taken, written, cast("StoredDtype", written.name))


def _found(store: Store, rows: str | Selector, space: RowSpace) -> Rows:
    n_all = store.rows[space]
    selector = _asked(store, rows) if isinstance(rows, str) else rows
    picked = pick(selector, Axis("row", n_all, f"the {space.value} sites"))
    if not picked.n:
        message = f"no row is selected: the rows asked for are none of the {count(n_all, 'row')}."
        raise SelectionError(message)
    index = np.arange(*picked.index) if isinstance(picked.index, tuple) else picked.index
    return Rows.of(index.astype(np.int64), n_all)


def _asked(store: Store, query: str) -> pa.ChunkedArray:
    """The column of row numbers that a query gives."""
    relation: duckdb.DuckDBPyRelation | None = store.sql(query)  # None where nothing is asked
    columns = [] if relation is None else relation.columns
    if relation is None or ("row" not in columns and len(columns) != 1):
        there = ", ".join(columns) or "no columns"
        message = f"the query for rows gives {there}; it must give one column, or one called row."
        raise ArgumentError(message)
    name = "row" if "row" in columns else columns[0]
    found: pa.ChunkedArray = relation.project(quote.name(name)).to_arrow_table().column(0)
    if not pa.types.is_integer(found.type):
        message = f"the query for rows gives `{name}` of type {found.type}; rows are whole numbers."
        raise ArgumentError(message)
    least = pc.min(found).as_py()
    if least is not None and least < 0:
        message = f"the query for rows gives the row {least}; rows count from 0."
        raise SelectionError(message)
    return found


def _examples(store: Store, rows: Rows, space: RowSpace) -> NDArray[np.bool_]:
    """Whether each example has one of the rows."""
    taken = np.zeros(store.n_example, bool)
    for example, row in example_rows(store, space):
        taken[example[rows.places(row) >= 0]] = True
    return taken


def _example_rows(store: Store, examples: NDArray[np.bool_]) -> Rows:
    """The rows, in the example row space, of some examples."""
    found = [row[examples[example]] for example, row in example_rows(store, RowSpace.EXAMPLE)]
    return Rows.of(np.concatenate(found), store.rows["example"])


def example_rows(
    store: Store, space: RowSpace
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(example, row) pairs of a row space, int64 `[pair]` each, in order and in batches."""
    token = space is RowSpace.TOKEN
    data = store.tokens if token else store.examples
    columns = ["example", "row" if token else "example_row"]
    for batch in batches(data, columns):
        example, row = (np.asarray(c.cast("int64").fill_null(-1)) for c in batch.columns)
        yield example[row >= 0], row[row >= 0]


def batches(data: Any, columns: list[str], n: int = 1 << 16) -> Iterator[pa.RecordBatch]:  # noqa: ANN401  a pyarrow dataset
    """A dataset's rows in order, a few at a time and none ahead."""
    scanner = data.scanner(
        columns=columns, batch_size=n, batch_readahead=1, fragment_readahead=1, use_threads=False
    )
    yield from scanner.to_batches()
