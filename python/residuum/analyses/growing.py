"""A table that grows block by block: in memory while it is small, then in a file of its own.

An analysis over more rows than memory holds makes tables as long as its rows. What exceeds the
limit goes to an Arrow file in the folder for temporary files (TMPDIR), which loses its name once
the table is finished: the table reads it through a map, so that the system can drop its pages.
"""

import tempfile
import weakref
from pathlib import Path

import pyarrow as pa

LIMIT = 32 << 20
"""Bytes of a table that are held in memory."""


class GrowingTable:
    """Rows of one schema, added in their final order."""

    def __init__(self, schema: pa.Schema, limit: int = LIMIT) -> None:
        """Start empty; `limit` is in bytes."""
        self._schema = schema
        self._limit = limit
        self._held: list[pa.Table] = []
        self._bytes = 0
        self._path: Path | None = None
        self._writer: pa.RecordBatchFileWriter | None = None

    def add(self, rows: pa.Table) -> None:
        """Add rows; columns may come in any order."""
        rows = rows.select(self._schema.names).cast(self._schema)
        self._held.append(rows)
        self._bytes += rows.nbytes
        if self._bytes > self._limit:
            self._spill()

    def finish(self) -> pa.Table:
        """All rows; nothing can be added afterwards."""
        if self._writer is None or self._path is None:
            return pa.concat_tables([self._schema.empty_table(), *self._held])
        self._spill()
        self._writer.close()
        with pa.memory_map(str(self._path)) as mapped:
            whole = pa.ipc.open_file(mapped).read_all()
        self._path.unlink()
        return whole

    def _spill(self) -> None:
        if self._writer is None:
            with tempfile.NamedTemporaryFile(prefix="residuum-", delete=False) as file:
                self._path = Path(file.name)
            # Also where the analysis fails, or the process ends, before the table is finished.
            weakref.finalize(self, self._path.unlink, missing_ok=True)
            self._writer = pa.ipc.new_file(str(self._path), self._schema)
        for rows in self._held:
            self._writer.write_table(rows)
        self._held, self._bytes = [], 0
