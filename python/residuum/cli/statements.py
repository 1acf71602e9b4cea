"""SQL statements: cutting them out of text, and running those that answer anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import duckdb

_RECEIPTS = (["Count"], ["Success"])
"""Columns of what a statement that changes something says when it asks for no rows."""


def cut_end(query: str) -> tuple[str, bool]:
    """A query without the semicolons and comments behind it, and whether a semicolon was there."""
    import duckdb

    text = query.encode()  # DuckDB counts in bytes
    end, closed = len(text), False
    for start, kind in reversed(duckdb.tokenize(query)):
        semicolon = text[start : start + 1] == b";"
        if not semicolon and kind != duckdb.token_type.comment:
            break
        end, closed = start, closed or semicolon
    return text[:end].decode(), closed


def may_answer(statement: duckdb.Statement) -> bool:
    """Whether a statement gives rows, as far as can be told before it runs."""
    from duckdb import ExpectedResultType, StatementType

    kinds = statement.expected_result_type
    if kinds[:1] == [ExpectedResultType.QUERY_RESULT] or statement.type == StatementType.MULTI:
        return True
    return ExpectedResultType.QUERY_RESULT in kinds and "returning" in statement.query.lower()


def answers(
    connection: duckdb.DuckDBPyConnection, statements: Iterable[duckdb.Statement]
) -> Iterator[duckdb.DuckDBPyRelation]:
    """Run statements in order; yields the results of those that have one.

    Raises:
        duckdb.Error: what DuckDB says, unchanged.
    """
    from duckdb import ExpectedResultType

    for statement in statements:
        # Shown as a table, the relation becomes a subquery, which ends with no semicolon.
        query, _ = cut_end(statement.query)
        # its stub knows no None, which older versions return for statements without a result
        relation = cast("duckdb.DuckDBPyRelation | None", connection.sql(query))
        if relation is None:
            continue
        changes = ExpectedResultType.QUERY_RESULT not in statement.expected_result_type[:1]
        if not (changes and relation.columns in _RECEIPTS):
            yield relation
