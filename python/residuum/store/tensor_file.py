"""safetensors files: a header that says where each tensor lies, and the tensors one after another.

length of the header (u64) · header (JSON) · data
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from residuum.errors import StoreError
from residuum.store.s3_path import S3Path, StorePath

KINDS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""The floating-point types of the format that numpy can hold."""

_MAX_HEADER = 100 << 20
_METADATA = "__metadata__"


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: its type by the format's name, its shape, and its bytes in the file."""

    kind: str
    shape: tuple[int, ...]
    begin: int
    end: int

    def map(self, path: StorePath) -> NDArray[Any]:
        """The tensor, memory-mapped, out of a bucket read; one without elements is made.

        Raises:
            StoreError: a type that is not among `KINDS`, or bytes that do not fit it.
        """
        dtype = KINDS.get(self.kind)
        if dtype is None:
            message = f"{path} holds a tensor of type {self.kind}, not one of {', '.join(KINDS)}"
            raise StoreError(message)
        if self.end - self.begin != dtype.itemsize * _n_element(self.shape):
            message = f"{path} is damaged: {list(self.shape)} does not fit its bytes"
            raise StoreError(message)
        if self.begin == self.end:
            return np.empty(self.shape, dtype)
        if isinstance(path, S3Path):
            data = np.frombuffer(path.read_range(self.begin, self.end), dtype)
            return data.reshape(self.shape)
        data = np.memmap(path, dtype, "r", offset=self.begin, shape=self.shape)
        # A plain array over the same map: np.memmap's subclass survives arithmetic and surprises.
        return np.asarray(data)


def read_header(path: StorePath) -> dict[str, Tensor]:
    """The tensors of a file by name; nothing of them is read.

    Raises:
        StoreError: the header is not believable.
    """
    size = path.size() if isinstance(path, S3Path) else path.stat().st_size
    header, start = _header(path, size)
    header.pop(_METADATA, None)
    try:
        tensors = {name: _tensor(entry, start, size) for name, entry in header.items()}
        _check_end_to_end(tensors, start, size)
    except (ValueError, OverflowError, TypeError, KeyError, AttributeError) as error:
        message = f"{path} is damaged: its header is wrong: {error}"
        raise StoreError(message) from error
    return tensors


def read_metadata(path: StorePath) -> dict[str, str]:
    """The texts that a file keeps beside its tensors.

    Raises:
        StoreError: the header is not believable.
    """
    size = path.size() if isinstance(path, S3Path) else path.stat().st_size
    metadata = _header(path, size)[0].get(_METADATA)
    return metadata if isinstance(metadata, dict) else {}


def _header(path: StorePath, size: int) -> tuple[dict[str, Any], int]:
    """The header, and where the data start."""
    length = int.from_bytes(_read(path, 0, min(8, size)), "little")
    if length > min(_MAX_HEADER, size - 8):
        message = f"{path} is damaged: its header claims {length} bytes"
        raise StoreError(message)
    try:
        header = json.loads(_read(path, 8, 8 + length))
    except (ValueError, RecursionError) as error:
        message = f"{path} is damaged: its header is wrong: {error}"
        raise StoreError(message) from error
    if not isinstance(header, dict):
        message = f"{path} is damaged: its header is wrong: it is no object"
        raise StoreError(message)
    return header, 8 + length


def _read(path: StorePath, start: int, end: int) -> bytes:
    if isinstance(path, S3Path):
        return path.read_range(start, end)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _tensor(entry: Mapping[str, Any], start: int, size: int) -> Tensor:
    shape = tuple(int(length) for length in entry["shape"])
    begin, end = (start + int(offset) for offset in entry["data_offsets"])
    kind = str(entry["dtype"])
    if min(shape, default=0) < 0 or not start <= begin <= end <= size:
        message = f"{list(shape)} at {begin - start}..{end - start} of {size - start} bytes"
        raise ValueError(message)
    return Tensor(kind, shape, begin, end)


def _check_end_to_end(tensors: Mapping[str, Tensor], start: int, size: int) -> None:
    """Check that tensors fill the file from `start` on, as the format wants it.

    Raises:
        ValueError: they overlap, or there are bytes that belong to none.
    """
    end = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end:
            message = f"`{name}` begins at {tensor.begin - start}, not at {end - start}"
            raise ValueError(message)
        end = tensor.end
    if end != size:
        message = f"its tensors end at {end - start} of {size - start} bytes"
        raise ValueError(message)


def header_bytes(
    tensors: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]],
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """What stands before the data of tensors that follow in this order, by (dtype, shape)."""
    header: dict[str, Any] = {} if metadata is None else {_METADATA: dict(metadata)}
    kinds = {dtype: kind for kind, dtype in KINDS.items()}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        ends = [offset, offset + dtype.itemsize * _n_element(shape)]
        header[name] = {"dtype": kinds[dtype], "shape": list(shape), "data_offsets": ends}
        offset = ends[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _n_element(shape: tuple[int, ...]) -> int:
    n = 1
    for length in shape:
        n *= length
    return n
