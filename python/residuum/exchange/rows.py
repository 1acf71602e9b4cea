"""The rows that an export takes: all of a row space, some, or none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Rows:
    """Rows of one row space of a store, ascending, each once; their place here is the new row.

    `index` is int64 `[row]`, None for all of them.
    """

    n: int
    index: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, rows: NDArray[np.int64], n_all: int) -> Rows:
        """Rows in any order, possibly repeated, of a space of `n_all`."""
        index = np.unique(rows)
        return cls(n_all) if len(index) == n_all else cls(len(index), index)

    @classmethod
    def none(cls) -> Rows:
        """No row: of a space of which nothing is exported."""
        return cls(0, np.zeros(0, np.int64))

    def source(self, start: int, stop: int) -> slice | NDArray[np.int64]:
        """Rows of the store that become the rows from `start` to `stop`."""
        return slice(start, stop) if self.index is None else self.index[start:stop]

    def numbers(self, start: int, stop: int) -> NDArray[np.int64]:
        """The same as numbers, int64 `[row]`."""
        return np.arange(start, stop) if self.index is None else self.index[start:stop]

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The new number of each row of the store, -1 where it is -1 or not taken."""
        if self.index is None:
            return rows
        if not self.n:
            return np.full(len(rows), -1, np.int64)
        at = np.minimum(np.searchsorted(self.index, rows), self.n - 1)
        return np.where(self.index[at] == rows, at, -1)
