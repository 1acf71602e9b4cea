"""Tables of the user in another store: what joins by `example` or `row` keeps joining."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from residuum.store.columns import integers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.exchange.rows import Rows


def renumbered(table: pa.Table, examples: NDArray[np.int64], rows: Rows) -> pa.Table:
    """A user table with the examples and rows of an export.

    Args:
        table: any table; columns `example` and `row` of whole numbers are ours to renumber.
        examples: the new number of each example, int64 `[example]`, -1 where it is left out.
        rows: the rows that were taken.

    Returns:
        Records of examples that are left out are dropped; of a row that is left out the number is
        null, or the record is dropped where it names no example.
    """
    has_example, has_row = (_is_number(table, name) for name in ("example", "row"))
    if has_example:
        number = _mapped(table, "example", examples)
        kept = pa.array(number >= 0)
        table = _replaced(table, "example", number).filter(kept)
    if has_row:
        place = rows.places(integers(table.column("row")))
        table = _replaced(table, "row", place)
        if not has_example:
            table = table.filter(pa.array(place >= 0))
    return table


def _is_number(table: pa.Table, name: str) -> bool:
    return name in table.column_names and pa.types.is_integer(table.schema.field(name).type)


def _mapped(table: pa.Table, name: str, new: NDArray[np.int64]) -> NDArray[np.int64]:
    """A column through a list of new numbers; -1 for what is outside of it."""
    old = integers(table.column(name))
    inside = (old >= 0) & (old < len(new))
    return np.where(inside, new[np.where(inside, old, 0)], -1)


def _replaced(table: pa.Table, name: str, values: NDArray[np.int64]) -> pa.Table:
    """The table with another column of that name, of the same type, -1 as null."""
    at = table.column_names.index(name)
    kind = table.schema.field(name).type
    column = pa.array(values, mask=values < 0).cast(kind)
    return table.set_column(at, name, column)
