"""`StoreWriter`: what a capture writes through.

    StoreWriter.create ──▶ write(site, layer, rows) ──▶ Rust writer ──▶ shards ─┐
                           add_examples, add_tokens ──▶ Pending ──▶ parts ──────┴──▶ commit

A store under creation is made beside its place and renamed there with an empty commit, so that
it opens from its first instant on. In a bucket, where nothing can be renamed, it is uploaded root
last, shards go up as they are finished, and the commit record is made only if there is none of its
number. Rows of activations come in any order; table rows wait until a
commit covers their activations.

`StoreWriter.grow` adds sites or layers to rows that are there. Its examples and rows count from 0
again, those of the new arrays alone, and its tables are not written: the store has them.
"""

import json
import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import ml_dtypes
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from residuum import _residuum
from residuum.errors import ArgumentError, StoreError
from residuum.sites import Site
from residuum.store import weights
from residuum.store.files import sync_folder, write_bytes
from residuum.store.parts import part_name, remove_unlisted, write_part
from residuum.store.pending import Pending
from residuum.store.plan import DEFAULT_SHARD_ROWS, ArrayPlan, Codec
from residuum.store.s3_path import S3Path, StorePath, store_path

FORMAT = 1
DEFAULT_MEMORY = 512 << 20
MAX_THREADS = 4
TARGET = "index/target"


class StoreWriter:
    """Writes a store. Use as a context manager: leaving it, also by an error, gives up the lock.

    What no commit covered is lost on leaving, and the store is as its last commit says.
    """

    def __init__(self, path: StorePath, core: _residuum.Writer) -> None:
        """Take over an open core writer; use `create` or `open` instead."""
        self.path = path
        self._core = core
        self._arrays = {name: number for number, name in enumerate(core.arrays)}
        self._last: dict[str, Any] = core.last_commit
        self._pending = Pending(self.n_example)
        self._n_shown = int(_written(_residuum.Store(path).commit)["n_example"])

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        model: Mapping[str, Any],
        capture: Mapping[str, Any],
        arrays: Sequence[ArrayPlan],
        target: bool = True,
        shard_rows: int = DEFAULT_SHARD_ROWS,
        chunk_rows: int | None = None,
        codec: Codec = "none",
        memory_bytes: int = DEFAULT_MEMORY,
        threads: int | None = None,
    ) -> Self:
        """Make a store with no rows at `path`, which must be free or an empty folder.

        Args:
            path: the store's folder.
            model: `attributes.residuum.model`: what made the activations.
            capture: `attributes.residuum.capture`: how they were made.
            arrays: one plan per site.
            target: also make `index/target`, the id of the token that follows each row's token.
            shard_rows: rows per shard file.
            chunk_rows: rows per inner chunk; None chooses by the size of a row.
            codec: "none" or "zstd".
            memory_bytes: budget for rows on their way to the disk.
            threads: background threads; None takes one per core, at most four.

        Raises:
            StoreError: something is at `path` already, or the disk refuses.
            ArgumentError: an array that cannot be stored.
        """
        place = store_path(path)
        if isinstance(place, S3Path):
            message = f"{place} is in a bucket: make the store in a folder and `upload` it"
            raise ArgumentError(message)
        path = place
        _refuse_taken(path)
        specs = [
            plan.spec(shard_rows=shard_rows, chunk_rows=chunk_rows, codec=codec) for plan in arrays
        ]
        if target:
            specs.append(_residuum.ArraySpec.for_target(shard_rows=shard_rows, codec=codec))
        attributes = {"format": FORMAT, "model": dict(model), "capture": dict(capture)}
        path.parent.mkdir(parents=True, exist_ok=True)
        making = path.with_name(f".{path.name}.{secrets.token_hex(4)}.making")
        making.mkdir()
        try:
            write_bytes(making / "zarr.json", _root(attributes))
            options = {"memory_bytes": memory_bytes, "threads": _threads(threads)}
            _residuum.Writer.create(making, specs, **options).close()
            making.rename(path)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        sync_folder(path.parent)
        return cls.open(path, memory_bytes=memory_bytes, threads=threads)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        memory_bytes: int = DEFAULT_MEMORY,
        threads: int | None = None,
    ) -> Self:
        """Go on from the last numbered commit of a store.

        What an interrupted capture saved behind it stays visible until the next commit.

        Raises:
            StoreError: no store, a damaged one, or one that another process writes.
        """
        place = store_path(path)
        core = _residuum.Writer.open(place, memory_bytes=memory_bytes, threads=_threads(threads))
        return cls(place, core)

    @staticmethod
    def upload(folder: Path, url: S3Path) -> None:
        """Copy the new store in a folder to a bucket; it can be opened there once it is whole.

        Raises:
            StoreError: a store is there, or is being made, or the server refuses.
        """
        _residuum.Writer.upload(folder, url)

    @classmethod
    def grow(
        cls,
        path: str | os.PathLike[str],
        *,
        arrays: Sequence[ArrayPlan],
        resume: Mapping[str, Any],
        shard_rows: int,
        chunk_rows: int | None = None,
        codec: Codec = "none",
        memory_bytes: int = DEFAULT_MEMORY,
        threads: int | None = None,
    ) -> Self:
        """Begin to add sites, or layers of sites, to all rows of a store.

        Readers see them once a commit covers every row; until then `open` goes on with them.

        Args:
            path: a store whose rows are all committed.
            arrays: one plan per site, of the layers that are new.
            resume: what a later process needs to go on.
            shard_rows: rows per shard, as the store has them; `chunk_rows` and `codec` likewise
                where layers are added to a site.
            chunk_rows: rows per inner chunk; None chooses by the size of a row.
            codec: "none" or "zstd".
            memory_bytes: budget for rows on their way to the disk.
            threads: background threads; None takes one per core, at most four.

        Raises:
            StoreError: a store to which these cannot be added, or one that another process writes.
            ArgumentError: an array that cannot be stored.
        """
        specs = [
            plan.spec(shard_rows=shard_rows, chunk_rows=chunk_rows, codec=codec) for plan in arrays
        ]
        core = _residuum.Writer.grow(
            store_path(path),
            specs,
            resume=dict(resume),
            memory_bytes=memory_bytes,
            threads=_threads(threads),
        )
        return cls(store_path(path), core)

    @property
    def growing(self) -> bool:
        """Whether what is written is added to rows that are there."""
        return self._last.get("growth") is not None

    @property
    def _own(self) -> dict[str, Any]:
        """Rows and examples in the last numbered commit: of what is being added, or the store's."""
        return _written(self._last)

    @property
    def commit_number(self) -> int:
        """Number of the last numbered commit."""
        return int(self._last["commit"])

    @property
    def n_example(self) -> int:
        """Examples in the last numbered commit."""
        return int(self._own["n_example"])

    @property
    def n_shown(self) -> int:
        """Examples that readers see: more than `n_example` after an interrupted capture."""
        return max(self.n_example, self._n_shown)

    @property
    def rows(self) -> dict[str, int]:
        """Rows in the last numbered commit, per row space."""
        return dict(self._own["rows"])

    @property
    def complete(self) -> bool:
        """Whether the last commit says that the capture is done."""
        return bool(self._last["complete"])

    @property
    def resume(self) -> dict[str, Any]:
        """What the last commit keeps for whoever goes on."""
        return dict(self._last["resume"] or {})

    def write(
        self,
        site: Site | str,
        layer: int | None,
        values: NDArray[Any],
        runs: NDArray[np.int64],
    ) -> None:
        """Queue rows of one layer of a site; they are copied before this returns.

        Blocks while the queue is full. Rows that are in published shards already are dropped.

        Args:
            site: a site of the store, or "index/target".
            layer: the layer; None for a site without layers.
            values: `[src_row, ...inner]`, float32, float16, float64 (rounded to the stored dtype),
                bfloat16 (as `ml_dtypes.bfloat16` or as its bits in uint16), int32 for the target.
            runs: int64 `[n, 3]` of (first source row, first row in the store, number of rows).

        Raises:
            StoreError: an earlier write failed, or a row came twice.
            ArgumentError: shapes or dtypes that do not fit.
        """
        name = site if site == TARGET else f"activations/{site}"
        if name not in self._arrays:
            known = ", ".join(array.rpartition("/")[2] for array in self._arrays)
            message = f"{self.path} has no array for `{site}`; it has {known}"
            raise ArgumentError(message)
        bits, half = _bits(values)
        row_len = int(np.prod(bits.shape[1:], dtype=np.int64))
        runs = np.ascontiguousarray(runs, dtype=np.int64)
        self._core.write(self._arrays[name], layer or 0, bits, row_len, runs, half=half)

    def write_target(self, ids: NDArray[np.int32], runs: NDArray[np.int64]) -> None:
        """Queue rows of `index/target`: int32 `[src_row]`, -1 where no token follows."""
        self.write(TARGET, None, np.ascontiguousarray(ids, dtype=np.int32), runs)

    def add_examples(self, table: pa.Table) -> None:
        """Queue rows of the table `examples`, in order.

        Raises:
            ArgumentError: numbers out of order, or a column name that residuum uses itself.
        """
        self._pending.add_examples(table)

    def add_tokens(self, table: pa.Table) -> None:
        """Queue rows of the table `tokens`, ordered by example.

        Raises:
            ArgumentError: rows out of order.
        """
        self._pending.add_tokens(table)

    def sealed_rows(self, row_space: str) -> int:
        """Rows from 0 on that lie in finished shards of every array of the row space."""
        return self._core.sealed_rows(row_space)

    def flush(self) -> None:
        """Wait until everything written is in its file; counts are exact then.

        Raises:
            StoreError: an earlier write failed.
        """
        self._core.flush()

    def n_within(self, token_rows: int | None = None, example_step: int = 1) -> int:
        """Number of examples from 0 that were queued and have no token row from `token_rows` on.

        With `example_step` so many that their example rows are a multiple of it.
        """
        return self._pending.n_below(token_rows, example_step)

    def commit(
        self,
        *,
        n_example: int | None = None,
        rows: Mapping[str, int] | None = None,
        complete: bool = False,
        publish_tail: bool = False,
        interrupted: bool = False,
        resume: Mapping[str, Any] | None = None,
    ) -> int:
        """Make what was written so far visible and durable.

        Without `n_example` the commit covers the longest run of queued examples whose rows lie in
        finished shards; with `publish_tail`, `complete` or `interrupted` all of them, and the
        shards that are not full are published as they are.

        Args:
            n_example: number of examples to show, chosen by the caller.
            rows: rows to show per row space; by default those of the examples shown.
            complete: the capture is done.
            publish_tail: publish shards that are not full yet.
            interrupted: save everything without a number: the next commit goes on from the last
                numbered one, so that the store's end does not tell of the interruption.
            resume: what a later process needs to go on; by default what the last commit kept.

        Returns:
            The commit's number.

        Raises:
            StoreError: a row was never written, the disk is full, or an earlier write failed.
        """
        if complete or publish_tail or interrupted:
            self._core.flush()
            publish_tail = True
        if n_example is None:
            n_example = self.n_within(None if publish_tail else self.sealed_rows("token"))
        if rows is None:
            ends = self._pending.end(n_example)
            rows = {space: max(n, ends[space]) for space, n in self.rows.items()}
        tables = self._write_parts(n_example, interrupted=interrupted)
        record = self._core.commit(
            token_rows=rows.get("token", 0),
            example_rows=rows.get("example", 0),
            n_example=n_example,
            tables=tables,
            complete=complete,
            publish_tail=publish_tail,
            interrupted=interrupted,
            resume=dict(self.resume if resume is None else resume),
        )
        self._pending.drop(n_example)
        self._n_shown = n_example
        if not interrupted:
            self._last = record
            remove_unlisted(self.path / "tables", tables)
        return self.commit_number

    def _write_parts(self, n_example: int, *, interrupted: bool) -> dict[str, list[str]]:
        """Write the table rows of a new commit; return all parts that it lists."""
        self._core.check_lock()
        parts = {name: list(names) for name, names in self._last["tables"].items()}
        name = part_name(self.commit_number + 1, n_example if interrupted else None)
        waiting = {} if self.growing else self._pending.below(n_example)
        for table, rows in waiting.items():
            write_part(self.path / "tables" / table, name, rows)
            parts.setdefault(table, []).append(name)
        return parts

    def abandon(self, resume: Mapping[str, Any]) -> None:
        """Give up what is being added: the store is complete again, as it was before `grow`.

        Raises:
            StoreError: nothing is being added, or the disk refuses.
        """
        self._last = self._core.abandon(resume=dict(resume))

    def nonfinite(self) -> list[tuple[str, int | None, int, int]]:
        """(site, layer, NaN values, infinite values) wherever this writer was given any."""
        return [
            (array.rpartition("/")[2], layer, nan, inf)
            for array, layer, nan, inf in self._core.nonfinite()
        ]

    def write_weights(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Write the readout weights, replacing those there.

        Raises:
            ArgumentError: a dtype that is no floating point of 16, 32 or 64 bits.
        """
        weights.write_weights(self.path / "weights" / weights.WEIGHTS_FILE, tensors)

    def write_vocabulary(self, words: Sequence[str]) -> None:
        """Write the decoded text of every token id, in order."""
        weights.write_vocabulary(self.path / "weights" / weights.VOCABULARY_FILE, words)

    def close(self) -> None:
        """Stop the background threads and give up the lock."""
        self._core.close()

    def __enter__(self) -> Self:
        """Return the writer itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; what was not committed is lost."""
        self.close()


def _written(record: dict[str, Any]) -> dict[str, Any]:
    """What a record says of the writer's own rows: of what is being added, where something is."""
    written: dict[str, Any] = record.get("growth") or record
    return written


def _bits(values: NDArray[Any]) -> tuple[NDArray[Any], bool]:
    """A C-contiguous array that the core takes, and whether its bits are IEEE halves."""
    array = np.ascontiguousarray(values)
    if array.dtype == np.float16:
        return array.view(np.uint16), True
    if array.dtype == ml_dtypes.bfloat16:
        return array.view(np.uint16), False
    if array.dtype not in (np.float32, np.float64, np.int32, np.uint16):
        message = (
            f"values are {array.dtype}; they must be float32, float16, float64, bfloat16 or its "
            "bits in uint16, or int32 for index/target"
        )
        raise ArgumentError(message)
    return array, False


def _refuse_taken(path: Path) -> None:
    if (path / "zarr.json").exists():
        message = (
            f"{path} exists already; go on with it (--resume, --append) or choose another folder"
        )
        raise StoreError(message)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        message = f"{path} exists and is not a residuum store; choose a free name"
        raise StoreError(message)


def _root(attributes: Mapping[str, Any]) -> bytes:
    root = {"zarr_format": 3, "node_type": "group", "attributes": {"residuum": attributes}}
    try:
        return json.dumps(root, indent=2, ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        message = f"the description of model and capture is not plain JSON: {error}"
        raise ArgumentError(message) from error


def _threads(threads: int | None) -> int:
    return threads or min(MAX_THREADS, os.cpu_count() or 1)
