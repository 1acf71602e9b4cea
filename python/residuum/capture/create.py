"""A new store: built beside its place, moved there when it can be opened."""

from __future__ import annotations

import errno
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from residuum.capture.readout import readout
from residuum.capture.sink import host_array
from residuum.errors import StoreError
from residuum.store.files import sync_folder
from residuum.store.s3_path import S3Path
from residuum.store.writer import StoreWriter

if TYPE_CHECKING:
    from residuum.capture.job import Job
    from residuum.store.s3_path import StorePath


def create(job: Job, *, empty: bool = False) -> None:
    """Make the job's store with its arrays, weights and first, empty commit.

    With `empty` arrays and readout weights come later. The folder appears in one step: whoever
    sees it can open it.

    Raises:
        StoreError: it cannot be written.
    """
    path = job.path
    if isinstance(path, S3Path):
        with tempfile.TemporaryDirectory(prefix="residuum-") as folder:
            made = Path(folder) / path.name
            _fill(job, made, empty=empty)
            StoreWriter.upload(made, path)
        return
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    try:
        _fill(job, draft, empty=empty)
        _give_name(draft, path)
        sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _give_name(draft: Path, path: Path) -> None:
    try:
        draft.rename(path)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        message = f"{path}: another capture made a store here meanwhile. Choose another folder."
        raise StoreError(message) from error


def discard(path: StorePath) -> None:
    """Remove a store that holds nothing."""
    if not isinstance(path, S3Path):
        shutil.rmtree(path)
        return
    (path / "zarr.json").unlink()  # first: without its root it is no store
    for found, _, _ in path.objects():
        found.unlink()


def _fill(job: Job, path: Path, *, empty: bool) -> None:
    cut = job.settings
    writer = StoreWriter.create(
        path,
        model=job.loaded.facts,
        capture=job.facts,
        arrays=[] if empty else job.arrays(),
        target=job.vocabulary is not None and job.layout.token_rows,
        shard_rows=cut.shard_rows,
        chunk_rows=cut.chunk_rows,
        codec=cut.codec,
    )
    with writer:
        if not empty:
            weights = readout(job.loaded.model, job.loaded.adapter).weights
            writer.write_weights({name: host_array(tensor) for name, tensor in weights.items()})
        if job.vocabulary is not None:
            writer.write_vocabulary(job.vocabulary)
