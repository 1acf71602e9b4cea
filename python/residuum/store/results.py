"""Results of analyses: tables in the store, under the analysis' name and a key of what was asked.

results/<analysis>/<key>/<table>.parquet
                         provenance.json    parameters, commit, versions, time
"""

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from residuum import _residuum
from residuum.errors import ArgumentError, StoreError
from residuum.store.files import sync_folder, write_bytes
from residuum.store.parts import read_parquet, write_part
from residuum.store.s3_path import S3Path, StorePath

PROVENANCE = "provenance.json"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_LIBRARIES = ("residuum", "numpy", "pyarrow", "duckdb")


def key_of(
    analysis: str,
    version: int | str,
    parameters: Mapping[str, Any],
    commit: int,
    n_example: int = 0,
) -> str:
    """Return the key of a question: 16 hex digits that change with any of the five.

    `n_example` tells what an interrupted capture saved behind a commit from the commit itself.
    """
    asked = json.dumps([analysis, version, dict(parameters), commit, n_example], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class StoredResult:
    """Where one result lies and what made it."""

    analysis: str
    key: str
    path: StorePath
    tables: tuple[str, ...]
    provenance: Mapping[str, Any]


class Results:
    """The results of one store."""

    def __init__(self, folder: StorePath) -> None:
        """Look below `folder`, which need not exist."""
        self._folder = folder

    def put(
        self,
        analysis: str,
        key: str,
        tables: Mapping[str, pa.Table],
        provenance: Mapping[str, Any],
    ) -> StoredResult:
        """Keep a result; versions of libraries and the time are added to its provenance.

        Written aside and renamed, so that it is there completely or not at all. If another process
        kept the same result in the meantime, that one stays.

        Raises:
            ArgumentError: a name that cannot be a file's.
        """
        for name in (analysis, key, *tables):
            _check_name(name)
        folder = self._folder / analysis / key
        stamped = {**provenance, "libraries": _versions(), "time": _now()}
        described = json.dumps(stamped, indent=2).encode()
        if isinstance(folder, S3Path):
            return self._put_objects(folder, tables, described)
        folder.parent.mkdir(parents=True, exist_ok=True)
        making = folder.with_name(f".{key}.{secrets.token_hex(4)}.making")
        making.mkdir()
        try:
            for name, table in tables.items():
                write_part(making, f"{name}.parquet", table)
            write_bytes(making / PROVENANCE, described)
            try:
                making.rename(folder)
            except OSError:
                if not (folder / PROVENANCE).exists():
                    raise
        finally:
            shutil.rmtree(making, ignore_errors=True)
        sync_folder(folder.parent)
        return self._read(folder)

    def _put_objects(
        self, folder: S3Path, tables: Mapping[str, pa.Table], described: bytes
    ) -> StoredResult:
        """Keep a result in a bucket; it is there once its provenance is, which comes last."""
        if not (folder / PROVENANCE).exists():
            for name, table in tables.items():
                write_part(folder, f"{name}.parquet", table)
            _residuum.object_create(described, folder / PROVENANCE)
        return self._read(folder)

    def get(self, analysis: str, key: str) -> tuple[dict[str, pa.Table], dict[str, Any]] | None:
        """Return the tables and the provenance of a result; None if it was never kept.

        Raises:
            StoreError: a file of it is damaged.
        """
        folder = self._folder / analysis / key
        if not (folder / PROVENANCE).is_file():
            return None
        found = self._read(folder)
        try:
            tables = {name: read_parquet(folder / f"{name}.parquet") for name in found.tables}
        except (pa.ArrowException, OSError) as error:
            message = f"{folder} is damaged: {error}; remove it and ask again"
            raise StoreError(message) from error
        return tables, dict(found.provenance)

    def remove(self, analysis: str, key: str) -> None:
        """Take a result away that counts no more; one that is not there is no error."""
        folder = self._folder / analysis / key
        if not (folder / PROVENANCE).is_file():
            return
        # Without its provenance it is not there, whatever happens next.
        (folder / PROVENANCE).unlink()
        if not isinstance(folder, S3Path):
            shutil.rmtree(folder)

    def list(self, analysis: str | None = None) -> list[StoredResult]:
        """Return the kept results, oldest first, of one analysis or of all."""
        # A result in the making begins with a dot.
        pattern = f"{analysis or '*'}/[!.]*/{PROVENANCE}"
        found = [self._read(path.parent) for path in self._folder.glob(pattern)]
        return sorted(found, key=lambda r: (r.provenance.get("time", ""), r.analysis, r.key))

    def latest(self, analysis: str) -> StoredResult | None:
        """Return the result of an analysis that was kept last."""
        found = self.list(analysis)
        return found[-1] if found else None

    def __repr__(self) -> str:
        """One line per result."""
        lines = [f"{r.analysis} {r.key}: {', '.join(r.tables)}" for r in self.list()]
        return "\n".join(lines) or "no results"

    def _read(self, folder: StorePath) -> StoredResult:
        try:
            provenance = json.loads((folder / PROVENANCE).read_bytes())
        except ValueError as error:
            message = f"{folder / PROVENANCE} is damaged: {error}; remove the folder and ask again"
            raise StoreError(message) from error
        tables = tuple(sorted(path.stem for path in folder.glob("*.parquet")))
        return StoredResult(folder.parent.name, folder.name, folder, tables, provenance)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        message = f"{name!r} cannot be the name of a result: use letters, digits, _ and -"
        raise ArgumentError(message)


def _versions() -> dict[str, str]:
    return {name: version(name) for name in _LIBRARIES}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
