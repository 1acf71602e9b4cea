"""A DuckDB connection in which a store's sites, tables, results and functions have names.

    connect(store) ──▶ LOAD extension ──▶ views.py    examples, tokens, one per site, results
                                      └─▶ macros.py   logit_lens(…), head_logits(…), nearest(…)

What a question costs is what is decoded for it. Where a join picks few rows, let it pick first:
`WITH few AS MATERIALIZED (SELECT row FROM tokens WHERE text = 'Paris') SELECT row,
vec('resid_post', row, 5) FROM few`; from Python, `store.vectors`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import residuum
from residuum.errors import QueryError
from residuum.query import macros, quote, views
from residuum.store import Store

if TYPE_CHECKING:
    import duckdb

EXTENSION_FILE = "residuum.duckdb_extension"


def extension_path() -> Path:
    """Path of the DuckDB extension that is part of residuum, for `LOAD` in any client.

    Raises:
        QueryError: the file is not there.
    """
    path = Path(residuum.__file__).parent / EXTENSION_FILE
    if not path.is_file():
        message = (
            f"{path} is missing, so that there is no SQL; install residuum from a wheel, or build "
            "the file with `python build_backend.py`"
        )
        raise QueryError(message)
    return path


def connect(store: Store) -> "duckdb.DuckDBPyConnection":
    """Return a new connection, in memory, in which the store can be asked.

    Raises:
        QueryError: the extension is missing.
        duckdb.Error: DuckDB refuses the extension or a file of the store.
    """
    import duckdb  # slow to import, and not every store is asked in SQL

    path = extension_path()
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    try:
        connection.execute(f"LOAD {quote.text(str(path))}")
        found = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() "
            "WHERE starts_with(function_name, 'residuum_')"
        ).fetchall()
        for statement in views.statements(store, {name for (name,) in found}):
            connection.execute(statement)
        for name, data in views.datasets(store):
            connection.register(name, data)
        for statement in macros.statements(store):
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def refresh(store: Store, connection: "duckdb.DuckDBPyConnection") -> None:
    """Show a connection of the store the user tables and results that came after it was made.

    Raises:
        duckdb.Error: DuckDB refuses a file of the store.
    """
    for statement in views.added(store):
        connection.execute(statement)
    for name, data in views.added_datasets(store):
        connection.register(name, data)


Store.connector = staticmethod(connect)
Store.refresher = staticmethod(refresh)
