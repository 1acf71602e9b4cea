"""Output that appears whole or not at all: made beside its place, then renamed."""

from __future__ import annotations

import errno
import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING

from residuum.errors import StoreError
from residuum.store.files import sync_file, sync_folder

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


def refuse_taken(*paths: Path) -> None:
    """Check that nothing is at some paths and that something can be made there.

    Raises:
        StoreError: something is there, or a folder on the way is a file.
    """
    for path in paths:
        if path.parts[:1] == ("s3:",):
            url = "s3://" + "/".join(path.parts[1:])
            message = f"{url} is in a bucket: write to this machine, and upload what was made."
            raise StoreError(message)
        if path.exists() or path.is_symlink():
            message = f"{path} exists already: nothing was written. Choose another name."
            raise StoreError(message)
        above = next(folder for folder in path.absolute().parents if folder.exists())
        if not above.is_dir():
            message = f"{path}: {above} is a file, so that nothing can be in it."
            raise StoreError(message)


@contextmanager
def folder(out: Path) -> Iterator[Path]:
    """Give a path to make a folder at; it becomes `out` when the block ends without an error.

    Raises:
        StoreError: something is at `out`, before or after.
    """
    with _beside(out) as draft:
        yield draft
        _make_durable(draft)
        refuse_taken(out)
        draft.rename(out)
        sync_folder(out.parent)


@contextmanager
def files(places: Mapping[str, Path]) -> Iterator[Path]:
    """Give a path to make a folder at, whose files go to their places when the block ends.

    The last one comes last: whoever sees it sees all of them.

    Raises:
        StoreError: something is at one of the places, before or after.
    """
    last = list(places.values())[-1]
    with _beside(last) as draft:
        yield draft
        _make_durable(draft)
        moved = {name: place for name, place in places.items() if (draft / name).exists()}
        refuse_taken(*moved.values())
        try:
            for name, place in moved.items():
                (draft / name).rename(place)
        except BaseException:
            for name, place in moved.items():
                if not (draft / name).exists():
                    place.unlink()
            raise
        sync_folder(last.parent)
        draft.rmdir()


def _make_durable(draft: Path) -> None:
    """Make the bytes of files durable before they get their names."""
    for path in draft.rglob("*"):
        if path.is_file():
            sync_file(path)


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A free path in the folder of `out`; what was made there is removed after an error."""
    refuse_taken(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.{secrets.token_hex(4)}.making")
    try:
        yield draft
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.add_note(
                f"The file system of {out} is full: nothing was written. Free some space."
            )
        raise
