"""`S3Path`: a store in a bucket, or something in it, used as a `pathlib.Path` is.

Every method is a request to the server, but for those that make other paths. Server and credentials
come from the environment: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`,
`AWS_REGION`, `AWS_ENDPOINT_URL`, `AWS_SKIP_SIGNATURE`.
"""

import os
from collections.abc import Iterator
from functools import total_ordering
from pathlib import Path, PurePosixPath
from typing import Self, TypeAlias

from residuum import _residuum
from residuum.errors import StoreError

SCHEME = "s3://"


@total_ordering
class S3Path(os.PathLike[str]):
    """The URL of an object, or of what several begin with."""

    def __init__(self, url: str) -> None:
        """Take a URL such as `s3://bucket/run.residuum`."""
        self._url = SCHEME + url.removeprefix(SCHEME).strip("/")

    def __truediv__(self, name: str) -> Self:
        """The path of something below."""
        return type(self)(f"{self._url}/{name}")

    def __str__(self) -> str:
        """The URL."""
        return self._url

    def __repr__(self) -> str:
        """How it is made."""
        return f"S3Path({self._url!r})"

    def __fspath__(self) -> str:
        """The URL, which the core takes for a path."""
        return self._url

    def __eq__(self, other: object) -> bool:
        """Whether both are the same URL."""
        return isinstance(other, S3Path) and self._url == other._url

    def __lt__(self, other: Self) -> bool:
        """The order of the URLs."""
        return self._url < other._url

    def __hash__(self) -> int:
        """As the URL's."""
        return hash(self._url)

    @property
    def name(self) -> str:
        """The last part."""
        return self._url.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The last part without its extension."""
        return PurePosixPath(self.name).stem

    @property
    def parent(self) -> Self:
        """What it lies in."""
        return type(self)(self._url.rpartition("/")[0])

    @property
    def key(self) -> str:
        """Bucket and name without the scheme, as pyarrow writes it."""
        return self._url.removeprefix(SCHEME)

    def exists(self) -> bool:
        """Whether there is an object of exactly this name."""
        return _residuum.object_length(self) is not None

    def is_file(self) -> bool:
        """The same: objects are files."""
        return self.exists()

    def is_dir(self) -> bool:
        """Whether there is an object below."""
        return bool(self.objects())

    def size(self) -> int:
        """Length in bytes.

        Raises:
            StoreError: there is no such object.
        """
        length = _residuum.object_length(self)
        if length is None:
            message = f"{self} is missing"
            raise StoreError(message)
        return length

    def read_bytes(self) -> bytes:
        """All of the object."""
        return _residuum.object_read(self)

    def read_range(self, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of the object."""
        return _residuum.object_read(self, (start, end))

    def objects(self) -> list[tuple[Self, int, str]]:
        """Path, length and etag of every object below, sorted."""
        found = _residuum.object_list(self)
        return [(type(self)(url), length, etag) for url, length, etag in found]

    def glob(self, pattern: str) -> Iterator[Self]:
        """Objects below whose names fit, part by part."""
        n_part = pattern.count("/") + 1
        for path, _, _ in self.objects():
            rest = PurePosixPath(path._url[len(self._url) + 1 :])
            if len(rest.parts) == n_part and rest.match(pattern):
                yield path

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a bucket has no folders."""

    def unlink(self) -> None:
        """Remove the object; fine if it is not there."""
        _residuum.object_remove(self)


StorePath: TypeAlias = Path | S3Path
"""Where a store is, or a file of it."""


def store_path(path: str | os.PathLike[str]) -> StorePath:
    """The place of a store: a URL that begins with `s3://`, or else a folder, made absolute."""
    text = os.fspath(path)
    if text.startswith(SCHEME):
        return S3Path(text)
    return Path(text).absolute()
