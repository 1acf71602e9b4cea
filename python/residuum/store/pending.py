"""Rows of `examples` and `tokens` that wait for the commit that covers their activations."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from residuum.errors import ArgumentError
from residuum.store.columns import integers
from residuum.store.parts import EXAMPLES, TOKENS


@dataclass
class Pending:
    """Table rows by table, oldest first, and where the rows of each example end.

    `token_end[e]` and `example_end[e]` are one past the last stored row of an example in either row
    space, 0 where nothing of it is stored.
    """

    n_example: int
    tables: dict[str, list[pa.Table]] = field(default_factory=lambda: {EXAMPLES: [], TOKENS: []})
    token_end: dict[int, int] = field(default_factory=dict)
    example_end: dict[int, int] = field(default_factory=dict)

    def add_examples(self, table: pa.Table) -> None:
        """Queue rows of `examples`, which must go on where the last ones ended.

        Raises:
            ArgumentError: numbers out of order, or a column of the user's with the name of ours.
        """
        _refuse_repeated_names(table, EXAMPLES)
        number = _integers(table, "example")
        expected = np.arange(len(number)) + self.n_example + len(self.example_end)
        if not np.array_equal(number, expected):
            wrong = int(np.flatnonzero(number != expected)[0])
            message = (
                f"row {wrong} of the examples has the number {number[wrong]}, "
                f"expected {expected[wrong]}"
            )
            raise ArgumentError(message)
        rows = (
            _integers(table, "example_row")
            if "example_row" in table.column_names
            else number * 0 - 1
        )
        self.example_end.update(zip(number.tolist(), (rows + 1).tolist(), strict=True))
        self.tables[EXAMPLES].append(table)

    def add_tokens(self, table: pa.Table) -> None:
        """Queue rows of `tokens`, ordered by example.

        Raises:
            ArgumentError: rows that are not ordered by example.
        """
        _refuse_repeated_names(table, TOKENS)
        number, rows = _integers(table, "example"), _integers(table, "row")
        if (np.diff(number) < 0).any():
            message = "the rows of tokens are not ordered by example"
            raise ArgumentError(message)
        starts = np.flatnonzero(np.diff(number, prepend=-1))
        ends = np.maximum.reduceat(rows, starts) + 1 if len(rows) else rows
        for example, end in zip(number[starts].tolist(), ends.tolist(), strict=True):
            self.token_end[example] = max(end, self.token_end.get(example, 0))
        self.tables[TOKENS].append(table)

    def n_below(self, token_rows: int | None = None, example_step: int = 1) -> int:
        """Number of examples, from 0, that came and whose token rows lie below `token_rows`.

        Their example rows end at a multiple of `example_step`.
        """
        found = number = self.n_example
        end = 0
        while number in self.example_end:
            if token_rows is not None and self.token_end.get(number, 0) > token_rows:
                break
            end = max(end, self.example_end[number])
            number += 1
            found = found if end % example_step else number
        return found

    def end(self, n_example: int) -> dict[str, int]:
        """One past the last row, per row space, among waiting examples below `n_example`."""
        return {
            "token": max((e for n, e in self.token_end.items() if n < n_example), default=0),
            "example": max((e for n, e in self.example_end.items() if n < n_example), default=0),
        }

    def below(self, n_example: int) -> dict[str, pa.Table]:
        """The rows of examples below `n_example`; empty tables are absent."""
        found = {name: _split(tables, n_example)[0] for name, tables in self.tables.items()}
        return {
            name: pa.concat_tables(tables, promote_options="permissive")
            for name, tables in found.items()
            if tables
        }

    def drop(self, n_example: int) -> None:
        """Forget examples below `n_example`, which are committed."""
        self.tables = {name: _split(tables, n_example)[1] for name, tables in self.tables.items()}
        for ends in (self.token_end, self.example_end):
            for number in [n for n in ends if n < n_example]:
                del ends[number]
        self.n_example = max(self.n_example, n_example)


def _split(tables: list[pa.Table], n_example: int) -> tuple[list[pa.Table], list[pa.Table]]:
    before, behind = [], []
    for table in tables:
        n = int(np.searchsorted(_integers(table, "example"), n_example))
        before.append(table.slice(0, n))
        behind.append(table.slice(n))
    return [t for t in before if t.num_rows], [t for t in behind if t.num_rows]


def _integers(table: pa.Table, name: str) -> NDArray[np.int64]:
    if name not in table.column_names:
        message = f"the table lacks the column `{name}`; it has {', '.join(table.column_names)}"
        raise ArgumentError(message)
    return integers(table.column(name))


def _refuse_repeated_names(table: pa.Table, name: str) -> None:
    repeated = sorted({n for n in table.column_names if table.column_names.count(n) > 1})
    if repeated:
        message = (
            f"the table {name} would have two columns called `{repeated[0]}`, one of them "
            "residuum's own: rename the column of the input"
        )
        raise ArgumentError(message)
