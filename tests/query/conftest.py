"""A store and a connection with the extension, for tests of its functions."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from query import tiny_store

import residuum


@pytest.fixture(scope="session")
def extension() -> Path:
    """The extension file of the installed package."""
    return Path(residuum.__file__).parent / "residuum.duckdb_extension"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tiny_store.TinyStore:
    """A store of float16 arrays in a folder whose name needs quoting."""
    return tiny_store.write(tmp_path_factory.mktemp("stores") / "tiny store é.residuum")


@pytest.fixture
def sql(extension: Path) -> Iterator["duckdb.DuckDBPyConnection"]:
    """A connection of the DuckDB in this environment, extension loaded."""
    with duckdb.connect(config={"allow_unsigned_extensions": "true"}) as connection:
        connection.execute(f"LOAD '{extension}'")
        yield connection
