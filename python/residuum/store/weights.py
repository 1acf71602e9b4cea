"""The readout weights, `weights/readout.safetensors`, read tensor by tensor, and the vocabulary."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from residuum.errors import ArgumentError, StoreError
from residuum.store import tensor_file
from residuum.store.files import write_atomic, write_bytes
from residuum.store.s3_path import StorePath

WEIGHTS_FILE = "readout.safetensors"
VOCABULARY_FILE = "vocabulary.json"

_DTYPES = (np.dtype("<f4"), np.dtype("<f2"), np.dtype(ml_dtypes.bfloat16))


class Weights(Mapping[str, NDArray[np.float32]]):
    """Tensors by name, such as `weights["W_U"]`; float32, 16-bit tensors widened when asked for."""

    def __init__(self, path: StorePath) -> None:
        """Read the header; a store without weights has an empty mapping.

        Raises:
            StoreError: the file is damaged.
        """
        self._path = path
        self._tensors = tensor_file.read_header(path) if path.exists() else {}
        for name, tensor in self._tensors.items():
            _check(path, name, tensor)

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """Return a tensor, float32; without a copy if it is stored as that.

        Raises:
            KeyError: there is no such tensor; the message lists those there are.
        """
        if name not in self._tensors:
            message = f"no weight `{name}` in {self._path}; there are {', '.join(self) or 'none'}"
            raise KeyError(message)
        return self._tensors[name].map(self._path).astype(np.float32, copy=False)

    def __iter__(self) -> Iterator[str]:
        """Names of the tensors, sorted."""
        return iter(sorted(self._tensors))

    def __len__(self) -> int:
        """Number of tensors."""
        return len(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return self._tensors[name].shape

    def __repr__(self) -> str:
        """Names and shapes."""
        inner = ", ".join(f"{name} {list(self.shape(name))}" for name in self)
        return f"Weights({inner})"


def write_weights(path: StorePath, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write tensors of float32, float16 or bfloat16 (float64 is rounded to float32) as safetensors.

    Raises:
        ArgumentError: another dtype, or a tensor without elements.
    """
    arrays = {name: _storable(name, tensors[name]) for name in sorted(tensors)}
    shapes = {name: (array.dtype, array.shape) for name, array in arrays.items()}

    def write(file: BinaryIO) -> None:
        file.write(tensor_file.header_bytes(shapes))
        for array in arrays.values():
            file.write(array.view(np.uint8).data if array.ndim else array.tobytes())

    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, write)


def _storable(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
    array = np.ascontiguousarray(tensor)
    if array.dtype == np.float64:
        array = array.astype(np.float32)
    if array.dtype not in _DTYPES or not array.size:
        message = (
            f"weight `{name}` is {array.dtype} {list(array.shape)}; "
            "it must be float32, float16, bfloat16 or float64 and have elements"
        )
        raise ArgumentError(message)
    return array


def _check(path: StorePath, name: str, tensor: tensor_file.Tensor) -> None:
    """Refuse a tensor that is no weight of ours, or whose bytes do not fit its shape."""
    dtype = tensor_file.KINDS.get(tensor.kind)
    n_bytes = tensor.end - tensor.begin
    if dtype not in _DTYPES or n_bytes != dtype.itemsize * math.prod(tensor.shape) or not n_bytes:
        message = (
            f"{path} is damaged: its header is wrong: {name} is {tensor.kind} "
            f"{list(tensor.shape)} in {n_bytes} bytes"
        )
        raise StoreError(message)


def write_vocabulary(path: StorePath, words: Sequence[str]) -> None:
    """Write the decoded text of every token id, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, json.dumps(list(words), ensure_ascii=False).encode())


def read_vocabulary(path: StorePath) -> list[str]:
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
