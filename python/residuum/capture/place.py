"""Where a capture writes to: a new store, or one that goes on; a folder or in a bucket."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from residuum.errors import CaptureError, StoreError
from residuum.store.s3_path import S3Path

if TYPE_CHECKING:
    from residuum.store.s3_path import StorePath

Json = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a capture goes; `existing` says whether a store is there to go on with."""

    path: StorePath
    existing: bool

    @classmethod
    def look(cls, path: StorePath, *, resume: bool, append: bool) -> Place:
        """Look at a place and say what may be done there.

        Raises:
            CaptureError: a store is there and neither `resume` nor `append` was asked for, or
                there is none to append to.
            StoreError: something else is there.
        """
        if resume and append:
            message = (
                "--resume goes on with a capture, --append adds to a finished one: choose one."
            )
            raise CaptureError(message)
        if _is_free(path):
            if append:
                message = f"{path}: there is no store to append to."
                raise CaptureError(message)
            return cls(path, existing=False)
        if not is_store(path):
            message = (
                f"{path} exists and is not a residuum store: nothing was written. Choose another "
                "folder for the capture."
            )
            raise StoreError(message)
        if not (resume or append):
            message = (
                f"{path} holds a store already: go on with --resume, add examples with --append, "
                "or choose another folder."
            )
            raise CaptureError(message)
        return cls(path, existing=True)


def is_store(path: StorePath) -> bool:
    """Whether there is a root `zarr.json` with our marker.

    Raises:
        StoreError: a bucket's server refuses.
    """
    file = path / "zarr.json"
    try:
        if not file.exists():
            return False
        root = json.loads(file.read_bytes())
    except ValueError:
        return False
    attributes = root.get("attributes") if isinstance(root, dict) else None
    return isinstance(attributes, dict) and "residuum" in attributes


def _is_free(path: StorePath) -> bool:
    """Whether a new store can be made here.

    Raises:
        StoreError: the folder would lie in a file, or a bucket's server refuses.
    """
    if isinstance(path, S3Path):
        # A lock without a root is what a writer left that was killed while it made the store.
        found = {found for found, _, _ in path.objects()}
        locked = path / "staging" / "writer.lock" in found
        return not found or (locked and path / "zarr.json" not in found)
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        message = f"{path}: {above} is a file, so that no store can be in it."
        raise StoreError(message)
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))
