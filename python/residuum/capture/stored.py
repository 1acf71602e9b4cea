"""What an unfinished or finished store says to a capture that goes on with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from residuum.capture.plan import Mark, repeat_key
from residuum.capture.wanted import Wanted
from residuum.errors import CaptureError
from residuum.sites import Site
from residuum.store import Store

if TYPE_CHECKING:
    from residuum.store.s3_path import StorePath

Json = dict[str, Any]


@dataclass(frozen=True)
class Stored:
    """A store at its last commit.

    `committed` is what readers see; published shards may hold more rows than that.
    """

    store: Store

    @classmethod
    def read(cls, path: StorePath) -> Stored:
        """Open a store.

        Raises:
            StoreError: it is damaged, or of a newer format.
            CaptureError: it is int8, to which nothing can be added.
        """
        store = Store(path)
        if store.lossy is not None:
            message = (
                f"{path}: {store.lossy.name} is int8, to which nothing can be added: add to the "
                "store that it was exported from, then export that again with --dtype int8."
            )
            raise CaptureError(message)
        return cls(store)

    @property
    def settings(self) -> Json:
        """The settings that it was captured with."""
        return self.store.capture

    @property
    def complete(self) -> bool:
        """Whether the last capture into it came to its end."""
        return self.store.complete

    @property
    def segments(self) -> list[Json]:
        """Its inputs, one segment for each capture; empty before rows were committed."""
        return list(self.store.resume.get("segments", []))

    def record(self, segments: list[Json]) -> Json:
        """What its commits keep, with these segments."""
        return {**self.store.resume, "segments": segments}

    @property
    def grown(self) -> list[Json]:
        """What was added to its rows later, oldest first; the last of an unfinished one is on."""
        return list(self.store.resume.get("grown", []))

    @property
    def there(self) -> Wanted:
        """The sites and layers that readers see."""
        return Wanted.stored(self.store)

    @property
    def asked(self) -> list[Wanted]:
        """What the captures into it asked for, oldest first."""
        facts = self.settings
        n_layer = self.store.model.get("n_layer") or 0
        first = Wanted.of((Site(name) for name in facts["sites"]), facts["layers"], n_layer)
        return [first, *(Wanted.parse(entry["arrays"]) for entry in self.grown)]

    @property
    def missing(self) -> Wanted:
        """What an unfinished capture asked for and readers do not see yet."""
        return Wanted({}) if self.complete else self.asked[-1].minus(self.there)

    @property
    def schedule(self) -> str:
        """How an unfinished capture runs the model."""
        last = self.grown[-1] if self.grown and self.missing else self.settings
        return str(last.get("schedule", "forward"))

    @property
    def growing(self) -> Wanted:
        """What is being added to its rows."""
        arrays = (self.store.growth or {"arrays": {}})["arrays"]
        return Wanted.parse(
            {name.rpartition("/")[2]: one.get("layers") for name, one in arrays.items()}
        )

    @property
    def committed(self) -> Mark:
        """The examples and rows of the last commit."""
        rows = self.store.rows
        return Mark(self.store.n_example, rows["token"], rows["example"])

    @property
    def marked(self) -> bool:
        """Whether a column of the inputs says which tokens have rows."""
        return str(self.settings["positions"]).startswith("column:")

    @property
    def key_width(self) -> int | None:
        """Length of the axis `key`; None where no site has it."""
        for name in self.store.sites:
            if "key" in self.store[name].axes:
                return self.store[name].shape[-1]
        return None

    def content_hashes(self, first: int) -> list[str]:
        """Content hashes of the examples from number `first` on, in order."""
        if first >= self.committed.n_example:
            return []
        table = self._examples(["example", "content_hash"])
        hashes: list[str] = table.column("content_hash").to_pylist()[first:]
        return hashes

    def known(self, before: int) -> dict[bytes, tuple[int, int]]:
        """Where examples before number `before` are: repeat key to (first_row, example_row)."""
        if before == 0:
            return {}
        table = self._examples(["example", "content_hash", "first_row", "example_row"])
        table = table.slice(0, before)
        positions = self._positions() if self.marked else None
        known: dict[bytes, tuple[int, int]] = {}
        for row in table.to_pylist():
            kept = None if positions is None else positions.get(row["example"], _NONE_KEPT)
            key = repeat_key(bytes.fromhex(row["content_hash"]), kept)
            known.setdefault(key, (row["first_row"] or 0, row["example_row"] or 0))
        return known

    def _examples(self, columns: list[str]) -> pa.Table:
        return self.store.examples.to_table(columns=columns).sort_by("example")

    def _positions(self) -> dict[int, np.ndarray[Any, np.dtype[np.int32]]]:
        """Stored positions of every example that has some."""
        tokens = self.store.tokens.to_table(columns=["example", "token", "row"])
        tokens = tokens.filter(pc.is_valid(tokens.column("row")))
        tokens = tokens.sort_by([("example", "ascending"), ("token", "ascending")])
        example = tokens.column("example").to_numpy()
        token = tokens.column("token").to_numpy().astype(np.int32)
        starts = np.flatnonzero(np.diff(example, prepend=-1))
        return dict(zip(example[starts].tolist(), np.split(token, starts[1:]), strict=True))


_NONE_KEPT = np.zeros(0, dtype=np.int32)
