"""The residual stream between two stages: a file of all batches, one after another, padded.

`staging/stream/<l>.bin` is what enters block l (for l = n_layer, the readout). It gets its name
when it is whole and durable, and is removed when the stage that read it is committed.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

import torch

from residuum.capture.layerwise.raw import fill, raw
from residuum.errors import CaptureError
from residuum.store.files import sync_folder

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

FOLDER = "staging/stream"


class Streams:
    """The files of one store's stream."""

    def __init__(self, store: Path) -> None:
        """Look at a store; nothing is made."""
        self.folder = store / FOLDER

    def path(self, number: int) -> Path:
        """The file of what enters a block."""
        return self.folder / f"{number}.bin"

    def latest(self, number: int) -> int | None:
        """The last block up to `number` whose input is there whole; None if there is none."""
        return next((n for n in range(number, -1, -1) if self.path(n).is_file()), None)

    def any_block(self) -> bool:
        """Whether some block is through: what leaves it is there whole."""
        return any(path != self.path(0) for path in self.folder.glob("*.bin"))

    def remove(self, number: int) -> None:
        """Remove what entered a block, if it is there."""
        self.path(number).unlink(missing_ok=True)

    def save(self, name: str, tensor: torch.Tensor) -> None:
        """Keep a tensor until it is needed again, durably."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / name).open("wb") as file:
            file.write(_bytes(tensor))
            file.flush()
            os.fsync(file.fileno())

    def load(self, name: str, out: torch.Tensor) -> None:
        """Fill a tensor with what `save` kept."""
        path = self.folder / name
        with path.open("rb", buffering=0) as file:
            _read(path, file, out)


class Crossing:
    """One stage's reading of the stream that enters it and writing of the one that leaves it."""

    def __init__(self, streams: Streams, enters: int | None, leaves: int | None) -> None:
        """Number of the stream that enters and of the one that leaves, None where there is none."""
        self.streams = streams
        self.enters = enters
        self.leaves = leaves
        self._files = ExitStack()

    def __enter__(self) -> Crossing:
        """Open the files."""
        self.streams.folder.mkdir(parents=True, exist_ok=True)
        if self.enters is not None:
            path = self.streams.path(self.enters)
            self._in: FileIO = self._files.enter_context(path.open("rb", buffering=0))
        if self.leaves is not None:
            path = self.streams.path(self.leaves).with_suffix(".part")
            self._out: BinaryIO = self._files.enter_context(path.open("wb"))
        return self

    def __exit__(self, *_error: object) -> None:
        """Close them; what was written without `finish` is nothing."""
        self._files.close()

    def read(self, shape: torch.Size, dtype: torch.dtype) -> torch.Tensor:
        """The next batch, `[example, token, d_model]`."""
        if self.enters is None:
            message = "nothing enters the embedding"
            raise CaptureError(message)
        out = torch.empty(shape, dtype=dtype)
        _read(self.streams.path(self.enters), self._in, out)
        return out

    def write(self, tensor: torch.Tensor) -> None:
        """Append a batch."""
        self._out.write(_bytes(tensor))

    def finish(self) -> None:
        """Make what was written durable, then give it its name.

        Raises:
            CaptureError: the stream that entered was not read to its end.
        """
        if self.enters is not None and self._in.read(1):
            message = (
                f"{self.streams.path(self.enters)} holds more than these inputs: resume with the "
                "inputs and settings that the capture was started with."
            )
            raise CaptureError(message)
        if self.leaves is not None:
            self._out.flush()
            os.fsync(self._out.fileno())
            path = self.streams.path(self.leaves)
            path.with_suffix(".part").replace(path)
            sync_folder(path.parent)


def _bytes(tensor: torch.Tensor) -> memoryview:
    return raw(tensor.detach().cpu().contiguous())


def _read(path: Path, file: FileIO, out: torch.Tensor) -> None:
    if not fill(file, out):
        message = f"{path} is damaged: it ends in the middle of a batch"
        raise CaptureError(message)
