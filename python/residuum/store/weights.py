"""The readout weights: `weights/readout.safetensors`, memory-mapped, and the vocabulary."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from residuum.errors import ArgumentError, StoreError
from residuum.store.files import write_atomic, write_bytes

WEIGHTS_FILE = "readout.safetensors"
VOCABULARY_FILE = "vocabulary.json"

_MAX_HEADER = 100 << 20
_NAMES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


class Weights(Mapping[str, NDArray[np.float32]]):
    """Tensors by name, such as `weights["W_U"]`; float32, 16-bit tensors widened when asked for."""

    def __init__(self, path: Path) -> None:
        """Read the header; a store without weights has an empty mapping.

        Raises:
            StoreError: the file is damaged.
        """
        self._path = path
        self._start, self._tensors = _read_header(path) if path.exists() else (0, {})

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return a tensor, float32; without a copy if it is stored as that.

        Raises:
            KeyError: there is no such tensor; the message lists those there are.
        """
        if name not in self._tensors:
            message = f"no weight `{name}` in {self._path}; there are {', '.join(self) or 'none'}"
            raise KeyError(message)
        dtype, shape, offset = self._tensors[name]
        data = np.memmap(self._path, dtype, "r", offset=self._start + offset, shape=shape)
        # A plain array over the same map: np.memmap's subclass survives arithmetic and surprises.
        return np.asarray(data).astype(np.float32, copy=False)

    def __iter__(self) -> Iterator[str]:
        """Names of the tensors, sorted."""
        return iter(sorted(self._tensors))

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._tensors[name][1]

    def __repr__(self) -> str:
        """Names and shapes."""
        inner = ", ".join(f"{name} {list(self.shape(name))}" for name in self)
        return f"Weights({inner})"


def write_weights(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write tensors of float32, float16 or bfloat16 (float64 is rounded to float32) as safetensors.

    Raises:
        ArgumentError: another dtype, or a tensor without elements.
    """
    arrays = {name: _storable(name, tensors[name]) for name in sorted(tensors)}
    header: dict[str, Any] = {}
    offset = 0
    for name, array in arrays.items():
        kind = next(k for k, dtype in _NAMES.items() if dtype == array.dtype)
        ends = [offset, offset + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": ends}
        offset = ends[1]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for array in arrays.values():
            file.write(array.view(np.uint8).data if array.ndim else array.tobytes())

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, write)


def _storable(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    array = np.ascontiguousarray(tensor)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    if array.dtype not in _NAMES.values() or not array.size:
        message = (
            f"weight `{name}` is {array.dtype} {list(array.shape)}; "
            "it must be float32, float16, bfloat16 or float64 and have elements"
        )
        raise ArgumentError(message)
    return array


def _read_header(path: Path) -> tuple[int, dict[str, tuple[np.dtype[Any], tuple[int, ...], int]]]:
    """Where data starts, and (dtype, shape, offset behind that) of every tensor; all checked."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(_MAX_HEADER, size - 8):
            message = f"{path} is damaged: its header claims {length} bytes"
            raise StoreError(message)
        text = file.read(length)
    start = 8 + length
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        tensors = {name: _tensor(entry, size - start) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        message = f"{path} is damaged: its header is wrong: {error}"
        raise StoreError(message) from error
    return start, tensors


def _tensor(entry: Mapping[str, Any], available: int) -> tuple[np.dtype[Any], tuple[int, ...], int]:
    dtype = _NAMES[entry["dtype"]]
    shape = tuple(int(length) for length in entry["shape"])
    begin, end = entry["data_offsets"]
    n_bytes = dtype.itemsize
    for length in shape:
        n_bytes *= length
    if min(shape, default=1) < 1 or end - begin != n_bytes or not 0 <= begin <= end <= available:
        message = f"{list(shape)} at {begin}..{end} of {available} bytes"
        raise ValueError(message)
    return dtype, shape, begin


def write_vocabulary(path: Path, words: Sequence[str]) -> None:
    """Write the decoded text of every token id, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(list(words), ensure_ascii=False).encode())


def read_vocabulary(path: Path) -> list[str]:
    """Read the decoded text of every token id; empty where the model has no tokens.

    Raises:
        StoreError: the file is no list of strings.
    """
    if not path.exists():
        return []
    try:
        words = json.loads(path.read_bytes())
    except ValueError as error:
        message = f"{path} is damaged: {error}"
        raise StoreError(message) from error
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        message = f"{path} is damaged: it is no list of strings"
        raise StoreError(message)
    return words
