"""Files that are there completely or not at all."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file, make it durable, then give it its name.

    An existing file of that name is replaced. After an error nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk does not name what it refused
        raise
    sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """`write_atomic` of bytes that are in memory."""
    write_atomic(path, lambda file: file.write(data))


def sync_file(path: Path) -> None:
    """Make the bytes of a file durable."""
    _sync(path)


def sync_folder(path: Path) -> None:
    """Make names in a folder durable."""
    _sync(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
