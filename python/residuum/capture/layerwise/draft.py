"""The readout weights of a layerwise capture: filled in as they come by, published at the end.

`staging/stream/readout.safetensors` has its whole length from the start; each weight is written
into its place when a stage reads it, so that none is read for this alone but those of no stage.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, BinaryIO

import ml_dtypes
import numpy as np
import torch

from residuum.capture.layerwise.streams import FOLDER
from residuum.capture.readout import Part, parts
from residuum.capture.sink import host_array
from residuum.store import tensor_file
from residuum.store.files import reserve, sync_file, sync_folder, write_atomic
from residuum.store.weights import WEIGHTS_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from residuum.capture.adapters import Adapter
    from residuum.capture.layerwise.shell import Shell, Weight

_STORED = {
    torch.float64: np.dtype("<f4"),
    torch.float32: np.dtype("<f4"),
    torch.float16: np.dtype("<f2"),
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
}
_PART_BYTES = 64 << 20
"""Memory for a weight that no stage reads."""


class Draft:
    """The file of one store's readout weights while its capture lasts."""

    def __init__(self, store: Path, shell: Shell, adapter: Adapter) -> None:
        """Go on with the file, or begin it."""
        self._place = store / "weights" / WEIGHTS_FILE
        self._path = store / FOLDER / WEIGHTS_FILE
        self._shell = shell
        held = {
            (id(module), name): weight for weight in shell.weights for module, name in weight.places
        }
        self._parts = [
            (part, held[id(part.module), part.name]) for part in parts(shell.model, adapter)
        ]
        self._left = list(self._parts)
        self._published = self._place.exists()
        if not self._published and not self._path.exists():
            self._begin()

    def skip(self, weights: Iterable[Weight]) -> None:
        """Take these for done: an earlier sitting filled them in."""
        done = {id(weight) for weight in weights}
        self._left = [(part, weight) for part, weight in self._left if id(weight) not in done]

    def fill(self, weight: Weight, value: torch.Tensor) -> None:
        """Fill a weight that was read in, where it is one of the readout."""
        if self._published:
            return
        for part, of in self._parts:
            if of is weight:
                self._slot(part)[...] = _host(part.arrange(value.cpu()))
        self.skip([weight])

    def sync(self) -> None:
        """Make what was filled in durable."""
        if not self._published:
            sync_file(self._path)

    def publish(self) -> None:
        """Read what no stage has read, and give the file its name."""
        if self._published:
            return
        for part, weight in self._left:
            slot = self._slot(part)
            for first, rows in self._shell.checkpoint.parts(weight.source, _PART_BYTES):
                value = rows.to(weight.meta.dtype)
                if part.transposed:
                    slot.reshape(-1, slot.shape[-1])[:, first : first + len(rows)] = _host(value.T)
                else:
                    flat = slot.reshape(len(weight.meta), -1)
                    flat[first : first + len(rows)] = _host(value).reshape(len(rows), -1)
        self._left = []
        self.sync()
        self._place.parent.mkdir(parents=True, exist_ok=True)
        self._path.replace(self._place)
        sync_folder(self._place.parent)
        self._published = True

    def _begin(self) -> None:
        shapes = self._shapes()
        header = tensor_file.header_bytes(shapes)
        size = sum(dtype.itemsize * int(np.prod(shape)) for dtype, shape in shapes.values())
        self._path.parent.mkdir(parents=True, exist_ok=True)

        def write(file: BinaryIO) -> None:
            reserve(file.fileno(), len(header) + size)
            file.write(header)

        write_atomic(self._path, write)

    def _shapes(self) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
        shapes: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        for part, weight in self._parts:
            inner = tuple(part.arrange(weight.meta).shape)
            layers = () if part.layer is None else (part.layer + 1,)
            shapes[part.weight] = (_STORED[weight.meta.dtype], (*layers, *inner))
        return dict(sorted(shapes.items()))

    def _slot(self, part: Part) -> np.ndarray[Any, Any]:
        """A part's place in the file, mapped, and no more of it."""
        tensor = tensor_file.read_header(self._path)[part.weight]
        kind = tensor_file.KINDS[tensor.kind]
        begin, shape = tensor.begin, tensor.shape
        if part.layer is not None:
            shape = shape[1:]
            begin += part.layer * kind.itemsize * math.prod(shape)
        return np.memmap(self._path, _plain(kind), "r+", begin, shape)


def _plain(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Bits instead of 16-bit floating point: numpy copies them faster."""
    return np.dtype("<u2") if dtype.itemsize == 2 else dtype


def _host(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    array = host_array(tensor)
    return array.view(np.uint16) if array.dtype.itemsize == 2 else array
