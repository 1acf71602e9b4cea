"""Images as inputs: where they come from, their content hash, and decoding."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TypeAlias, TypeGuard

import PIL.Image

from residuum.errors import InputError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

Image: TypeAlias = "PIL.Image.Image | bytes | Path"
"""A decoded image, its encoded bytes, or the path of a file that holds them."""


def list_folder(folder: Path) -> list[Path]:
    """The image files in a folder and the folders below it, sorted by path."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())


def is_image(value: object) -> TypeGuard[PIL.Image.Image]:
    """Whether a value is a PIL image."""
    return isinstance(value, PIL.Image.Image)


def content_hash(image: Image) -> bytes:
    """Hash of an image's encoded bytes, or of mode, size and pixels where it is decoded already."""
    digest = hashlib.blake2b(digest_size=16)
    if isinstance(image, PIL.Image.Image):
        digest.update(f"{image.mode} {image.size}".encode())
        digest.update(image.tobytes())
    else:
        digest.update(image if isinstance(image, bytes) else image.read_bytes())
    return digest.digest()


def decode(image: Image, row: int) -> PIL.Image.Image:
    """The image in RGB.

    Raises:
        InputError: the bytes of input `row` are not an image.
    """
    if isinstance(image, PIL.Image.Image):
        return image.convert("RGB")
    try:
        with PIL.Image.open(io.BytesIO(image) if isinstance(image, bytes) else image) as opened:
            return opened.convert("RGB")
    except (OSError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        what = f"{image}" if isinstance(image, Path) else "its bytes"
        message = f"row {row} is not a readable image ({what}): {error}"
        raise InputError(message) from error
