"""Files that are there completely or not at all."""

import hashlib
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO

from residuum import _residuum
from residuum.store.s3_path import S3Path, StorePath

_BLOCK = 1 << 24  # bytes that are hashed at a time


def write_atomic(path: StorePath, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file, make it durable, then give it its name.

    An existing file of that name is replaced. After an error nothing is left behind. What is to lie
    in a bucket is written here first, and then uploaded.
    """
    if isinstance(path, S3Path):
        with TemporaryDirectory(prefix="residuum-") as folder:
            here = Path(folder) / path.name
            write_atomic(here, write)
            _residuum.object_upload(here, path)
        return
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


def write_bytes(path: StorePath, data: bytes) -> None:
    """`write_atomic` of bytes that are in memory."""
    write_atomic(path, lambda file: file.write(data))


def hash_files(files: Iterable[Path]) -> str:
    """Return a hash of files: their names and bytes, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(files, key=lambda file: file.name):
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return f"sha256-files:{digest.hexdigest()}"


def tree_bytes(path: StorePath) -> int:
    """Bytes of all files below a folder."""
    if isinstance(path, S3Path):
        return sum(length for _, length, _ in path.objects())
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def reserve(handle: int, size: int) -> None:
    """Give a file its length and the room for it on the disk, where the system can.

    What is then written through a memory map cannot meet a full disk, which would be a signal.

    Raises:
        OSError: the disk is full.
    """
    os.ftruncate(handle, size)
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)


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
