"""Whole numbers of a table, -1 where they are null."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def integers(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    """A column as int64 `[row]`, -1 where it is null."""
    return np.asarray(column.cast(pa.int64()).fill_null(-1))


def nullable(values: NDArray[np.int64] | NDArray[np.int32]) -> pa.Array:
    """An Arrow array of the same numbers in which -1 is null."""
    return pa.array(values, mask=values < 0)
