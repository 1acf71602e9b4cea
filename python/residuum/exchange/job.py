"""An export with everything checked: what is taken, where it is made, within how much memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from residuum.errors import ArgumentError
from residuum.exchange import blocks
from residuum.exchange.records import records
from residuum.sites import RowSpace
from residuum.store.dtypes import BFLOAT16

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from residuum.exchange.selection import Chosen, Selection
    from residuum.progress import Reporter

MANIFEST = "export.json"
RECORDS = {RowSpace.TOKEN: "rows.parquet", RowSpace.EXAMPLE: "examples.parquet"}
"""What the rows are, one record each, in the order of the arrays."""


@dataclass(frozen=True)
class Job:
    """What a format writes, and where.

    Attributes:
        folder: becomes what was asked for when all of it is written.
        budget: bytes that blocks of rows may take.
        bar: told of every block.
    """

    selection: Selection
    folder: Path
    budget: int
    bar: Reporter

    def blocks(
        self, chosen: Chosen, layers: tuple[int, ...] | int | None
    ) -> Iterator[NDArray[np.generic]]:
        """All rows of a site, `[row, layer, ...]`, or without `layer` for one, in order."""
        rows = self.selection.rows_of(chosen)
        n_layer = len(layers) if isinstance(layers, tuple) else 1
        held = blocks.held_bytes(chosen.array, n_layer, chosen.dtype)
        chunk = chosen.array.chunk_rows if rows.index is None else 1
        for span in blocks.cut(rows.n, held, self.budget, chunk):
            values = blocks.read(chosen.array, rows, span, layers, chosen.dtype)
            yield values
            n_row = span[1] - span[0]
            self.bar.advance(done=n_row * n_layer, rows=n_row, n_bytes=values.nbytes)

    def write_records(self) -> None:
        """Write what the rows are, a file for each row space."""
        for space in self.selection.spaces:
            writer = None
            try:
                for table in records(self.selection.store, self.selection.rows[space], space):
                    if writer is None:
                        path = self.folder / RECORDS[space]
                        writer = pq.ParquetWriter(path, table.schema, compression="zstd")
                    writer.write_table(table)
            finally:
                if writer is not None:
                    writer.close()

    def manifest(self, form: str, arrays: dict[str, Any]) -> dict[str, Any]:
        """What an export says of itself."""
        store = self.selection.store
        model = {k: store.model.get(k) for k in ("name", "revision", "family", "weights_hash")}
        return {
            "format": form,
            "residuum": version("residuum"),
            "selection": self.selection.describe(),
            "model": model | {"n_layer": self._n_layer()},
            "capture": {k: store.capture.get(k) for k in ("positions", "keys", "dtype")},
            "arrays": arrays,
            "records": {space.value: RECORDS[space] for space in self.selection.spaces},
        }

    def write_manifest(self, form: str, arrays: dict[str, Any]) -> None:
        """Write `export.json`."""
        text = json.dumps(self.manifest(form, arrays), indent=2, ensure_ascii=False)
        (self.folder / MANIFEST).write_text(text + "\n", encoding="utf-8")

    def array(self, chosen: Chosen, file: str) -> dict[str, Any]:
        """A site as the manifest has it."""
        rows = self.selection.rows_of(chosen)
        return {
            "file": file,
            "axes": list(chosen.array.axes),
            "shape": [rows.n, *chosen.row_shape],
            "layers": list(chosen.layers) if chosen.array.has_layers else None,
            "dtype": chosen.dtype.name,
            # What an int8 store had lost before.
            **({} if chosen.array.error is None else {"error": chosen.array.error.to_json()}),
        }

    def _n_layer(self) -> int | None:
        lengths = [c.array.shape[1] for c in self.selection.sites if c.array.has_layers]
        return max(lengths, default=None)


def refuse_bfloat16(selection: Selection, form: str) -> None:
    """Check that no site would be bfloat16 in a format that has no such type.

    Raises:
        ArgumentError: a site that would be.
    """
    for chosen in selection.sites:
        if chosen.dtype == BFLOAT16:
            message = (
                f"{chosen.name} would be bfloat16, which {form} has no type for: --dtype float32 "
                "widens it without loss, --format safetensors keeps it."
            )
            raise ArgumentError(message)
