"""The folder that a capture writes to: new, or a store that goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from residuum.errors import CaptureError, StoreError

if TYPE_CHECKING:
    from pathlib import Path

Json = dict[str, Any]


@dataclass(frozen=True)
class Place:
    """Where a capture goes; `existing` says whether a store is there to go on with."""

    path: Path
    existing: bool

    @classmethod
    def look(cls, path: Path, *, resume: bool, append: bool) -> Place:
        """Look at a path and say what may be done there.

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
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            message = f"{path}: {above} is a file, so that no store can be in it."
            raise StoreError(message)
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
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


def is_store(path: Path) -> bool:
    """Whether a folder has a root `zarr.json` with our marker."""
    try:
        root = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    attributes = root.get("attributes") if isinstance(root, dict) else None
    return isinstance(attributes, dict) and "residuum" in attributes
