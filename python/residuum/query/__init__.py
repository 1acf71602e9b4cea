"""DuckDB views and SQL over a store."""

from residuum.query.connection import connect, extension_path

__all__ = ["connect", "extension_path"]
