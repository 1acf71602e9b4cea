"""What each exported row is: its token, its example and the columns of the input.

tokens ──first occurrence of each row──▶ records, in the order of the rows
examples ──────────────beside them─────────▲
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from residuum.errors import StoreError
from residuum.exchange.selection import batches
from residuum.sites import RowSpace
from residuum.store.columns import integers
from residuum.store.parts import EXAMPLE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.exchange.rows import Rows
    from residuum.store import Store

_TOKEN = ("row", "example", "token", "token_id", "text")
_EXAMPLE = ("example_row", "example", "n_token", "content_hash")
_BATCH = 1 << 14


def records(store: Store, rows: Rows, space: RowSpace) -> Iterator[pa.Table]:
    """One record per row, in order, a table at a time.

    Token rows: `row, example, token, token_id, text`; example rows: `example_row, example, n_token,
    content_hash`; then the columns of the input, called `example_<name>` where we use the name. A
    row that several examples share is named by the first.

    Raises:
        StoreError: a row that the tables do not name.
    """
    ours = _TOKEN if space is RowSpace.TOKEN else _EXAMPLE
    data = store.tokens if space is RowSpace.TOKEN else store.examples
    user = _user_names(store, ours)
    beside = _Beside(store, list(user))
    done = 0
    for batch in batches(data, list(ours), _BATCH):
        place = rows.places(integers(batch.column(ours[0])))
        first = _first(place, done)
        if not len(first):
            continue
        found = pa.Table.from_batches([batch]).take(pa.array(first))
        wrong = np.flatnonzero(place[first] != np.arange(done, done + len(first)))
        if len(wrong):
            _refuse(store, rows, done + int(wrong[0]))
        done += len(first)
        columns = beside.take(integers(found.column("example")))
        for name, column in zip(user.values(), columns, strict=True):
            found = found.append_column(name, column)
        yield found
    if done < rows.n:
        _refuse(store, rows, done)


def _first(place: NDArray[np.int64], done: int) -> NDArray[np.int64]:
    """Where each new row from `done` on occurs first, ascending."""
    found, first = np.unique(place, return_index=True)
    return np.sort(first[found >= done])


def _refuse(store: Store, rows: Rows, done: int) -> None:
    row = int(rows.numbers(done, done + 1)[0])
    message = f"{store.path} is damaged: its tables do not name row {row} where it should be."
    raise StoreError(message)


def _user_names(store: Store, ours: tuple[str, ...]) -> dict[str, str]:
    """Columns of the examples that are not residuum's, and what they are called beside ours."""
    names = [name for name in store.examples.schema.names if name not in EXAMPLE_COLUMNS]
    taken = {*ours, *names}
    called = {}
    for name in names:
        new = name
        while new in ours or (new != name and new in taken):
            new = f"example_{new}"
        taken.add(new)
        called[name] = new
    return called


class _Beside:
    """Columns of the examples, read once along with rows that ask for ascending examples."""

    def __init__(self, store: Store, columns: list[str]) -> None:
        """Begin at the first example."""
        self._store = store
        self._columns = columns
        self._batches = batches(store.examples, ["example", *columns], 1 << 12)
        self._held: pa.Table | None = None

    def take(self, example: NDArray[np.int64]) -> list[pa.ChunkedArray]:
        """The columns for some examples, ascending, and not below those asked for before."""
        if not self._columns:
            return []
        parts = [] if self._held is None else [self._held]
        last = -1 if self._held is None else _last(self._held)
        while last < example[-1]:
            batch = next(self._batches, None)
            if batch is None:
                message = f"{self._store.path} is damaged: it has no example {example[-1]}."
                raise StoreError(message)
            parts.append(pa.Table.from_batches([batch]))
            last = _last(parts[-1])
        held = pa.concat_tables(parts)
        numbers = integers(held.column("example"))
        taken = held.take(pa.array(np.searchsorted(numbers, example)))
        # A copy of the rest, so that what is behind does not stay in memory.
        rest = held.slice(int(np.searchsorted(numbers, example[-1])))
        self._held = rest.take(pa.array(np.arange(rest.num_rows)))
        return [taken.column(name) for name in self._columns]


def _last(table: pa.Table) -> int:
    return int(table.column("example")[-1].as_py()) if table.num_rows else -1
