"""A checkpoint's safetensors files, read tensor by tensor."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING

import torch

from residuum.capture.layerwise.raw import empty, fill
from residuum.errors import ModelError, StoreError
from residuum.store import tensor_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"


class Checkpoint:
    """The tensors of one folder by name. Nothing is read before it is asked for.

    A tensor is read straight into its own memory: a map would leave it to the system how often
    the bytes come from the disk, and a file cut short under it would end the process.

    Attributes:
        n_read: bytes read so far, by tensor.
    """

    def __init__(self, folder: Path) -> None:
        """Read the headers of the files that transformers would load.

        Raises:
            ModelError: no safetensors there, or files that do not hold what they should.
        """
        self.folder = folder
        self.n_read: Counter[str] = Counter()
        self._tensors: dict[str, tuple[Path, tensor_file.Tensor]] = {}
        for path in _files(folder):
            try:
                header = tensor_file.read_header(path)
            except (StoreError, OSError) as error:
                message = f"the model folder {folder} cannot be read layer by layer: {error}"
                raise ModelError(message) from error
            self._tensors |= {name: (path, tensor) for name, tensor in header.items()}

    @property
    def names(self) -> list[str]:
        """Names of the tensors, in the order of the files."""
        return list(self._tensors)

    @property
    def dtype(self) -> torch.dtype | None:
        """That of the first floating-point tensor."""
        kinds = (tensor.kind for _, tensor in self._tensors.values())
        floating = (DTYPES[k] for k in kinds if k in DTYPES and DTYPES[k].is_floating_point)
        return next(floating, None)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor.

        Raises:
            ModelError: it is of a type that cannot be computed with, or does not fit its bytes.
        """
        path, tensor = self._tensors[name]
        dtype = DTYPES.get(tensor.kind)
        n_bytes = tensor.end - tensor.begin
        if dtype is None or torch.Size(tensor.shape).numel() * dtype.itemsize != n_bytes:
            message = (
                f"{path}: {name} is {tensor.kind} {list(tensor.shape)} in {n_bytes} bytes; it "
                f"must be of one of {', '.join(DTYPES)}"
            )
            raise ModelError(message)
        return tensor.shape

    def n_bytes(self, name: str) -> int:
        """Bytes of a tensor in its file."""
        tensor = self._tensors[name][1]
        return tensor.end - tensor.begin

    def place(self, name: str, dtype: torch.dtype) -> int:
        """Byte of the file where a tensor lies if it is computed with as it is there, else 0."""
        tensor = self._tensors[name][1]
        return tensor.begin if DTYPES.get(tensor.kind) == dtype else 0

    def read(self, name: str) -> torch.Tensor:
        """Read a tensor, in the dtype of the file."""
        return next(self.parts(name, self.n_bytes(name)))[1]

    def parts(self, name: str, n_bytes: int) -> Iterator[tuple[int, torch.Tensor]]:
        """Read a tensor in parts of at most so many bytes along its first axis, or one row.

        Yields (first row, rows).

        Raises:
            ModelError: the file is damaged, or has a type that cannot be computed with.
        """
        shape = self.shape(name)
        path, tensor = self._tensors[name]
        dtype = DTYPES[tensor.kind]
        n_row, *row = shape or (1,)
        size = torch.Size(row).numel() * dtype.itemsize
        step = max(1, n_bytes // max(1, size))
        with path.open("rb", buffering=0) as file:
            file.seek(tensor.begin)
            for first in range(0, max(1, n_row), step):
                part = torch.Size((min(step, n_row - first), *row))
                out = empty(part, dtype, at=file.tell())
                if not fill(file, out):
                    message = f"{path} is damaged: it ends in the middle of {name}"
                    raise ModelError(message)
                self.n_read[name] += out.numel() * out.element_size()
                yield first, out if shape else out[0]


def damage(folder: Path) -> str | None:
    """What is wrong with the safetensors of a folder, by file; None where that is not known."""
    try:
        for path in _files(folder):
            tensor_file.read_header(path)
    except (ModelError, StoreError, OSError) as error:
        return str(error)
    return None


def _files(folder: Path) -> list[Path]:
    if (folder / _WHOLE).is_file():
        return [folder / _WHOLE]
    index = folder / _INDEX
    if index.is_file():
        try:
            listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return [folder / name for name in sorted({str(name) for name in listed})]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            message = f"{index} is no index of safetensors files: {error}"
            raise ModelError(message) from error
    other = sorted(file.name for file in folder.glob("*.bin"))
    message = (
        f"the schedule layerwise reads {_WHOLE} or {_INDEX}, and the model folder {folder} has "
        f"{'only ' + other[0] if other else 'neither'}: load the model and save it again with "
        "save_pretrained, which writes safetensors, or use the schedule forward"
    )
    raise ModelError(message)
