"""How far a capture has got: which examples lie wholly in rows that are safe on disk."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from residuum.capture.plan import Placed


@dataclass(frozen=True)
class Mark:
    """A prefix of the examples: their number, and the rows that they take up in both row spaces."""

    n_example: int
    token_rows: int
    example_rows: int


class Ledger:
    """Examples that were captured but not committed, oldest first."""

    def __init__(self, committed: Mark) -> None:
        """Start behind what a commit holds already."""
        self.committed = committed
        self._token_rows: list[int] = []
        self._example_rows: list[int] = []

    def add(self, placed: Iterable[Placed]) -> None:
        """Note consecutive examples; those that are committed already are passed over."""
        last = self.end
        token_rows, example_rows = last.token_rows, last.example_rows
        for one in placed:
            if one.example < self.committed.n_example:
                continue
            # a repeat takes no rows: the prefix is as long as before it
            token_rows = max(token_rows, one.stop_row)
            example_rows = max(example_rows, one.example_row + 1)
            self._token_rows.append(token_rows)
            self._example_rows.append(example_rows)

    @property
    def end(self) -> Mark:
        """Everything that was added."""
        return self._mark(len(self._token_rows))

    def within(self, token_rows: int | None, example_rows: int | None) -> Mark:
        """The longest prefix that needs no more rows than given; None is a space without arrays."""
        n = len(self._token_rows)
        if token_rows is not None:
            n = min(n, bisect_right(self._token_rows, token_rows))
        if example_rows is not None:
            n = min(n, bisect_right(self._example_rows, example_rows))
        return self._mark(n)

    def commit(self, mark: Mark) -> None:
        """Forget the examples up to a mark."""
        n = mark.n_example - self.committed.n_example
        del self._token_rows[:n], self._example_rows[:n]
        self.committed = mark

    def _mark(self, n: int) -> Mark:
        if n == 0:
            return self.committed
        first = self.committed.n_example
        return Mark(first + n, self._token_rows[n - 1], self._example_rows[n - 1])
