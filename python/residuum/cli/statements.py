"""Running SQL statements: which of them answer anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

    import duckdb

_RECEIPTS = (["Count"], ["Success"])
"""Columns of what a statement that changes something says when it asks for no rows."""


def answers(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[duckdb.DuckDBPyRelation]:
    """Run the statements of a query in order; yields the results of those that have one.

    Raises:
        duckdb.Error: what DuckDB says, unchanged.
    """
    from duckdb import ExpectedResultType

    for statement in connection.extract_statements(query):
        # its stub knows no None, which older versions return for statements without a result
        relation = cast("duckdb.DuckDBPyRelation | None", connection.sql(statement))
        if relation is None:
            continue
        changes = ExpectedResultType.QUERY_RESULT not in statement.expected_result_type[:1]
        if not (changes and relation.columns in _RECEIPTS):
            yield relation
