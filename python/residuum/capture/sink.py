"""From a model's tensors to the writer's rows, one batch at a time.

On the CPU the writer copies straight out of the model's memory where its layout allows. From a GPU
only the rows that are stored are fetched, into pinned memory while the model goes on: ``drain``
hands a batch to the writer, and is called when the next batch has been launched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes
import numpy as np
import torch

from residuum.capture.tokenise import TokenisedText
from residuum.sites import RowSpace, Site
from residuum.store.writer import TARGET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from residuum.capture.plan import Placed

TORCH_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


_ROUNDED_BY_WRITER = (torch.float32, torch.float64)
"""What the writer rounds to the stored dtype while it copies, which saves a pass over memory."""


class RowWriter(Protocol):
    """What a sink needs of a store's writer."""

    def write(
        self,
        site: Site | str,
        layer: int | None,
        values: NDArray[Any],
        runs: NDArray[np.int64],
    ) -> None:
        """Copy rows of ``values`` ``[row, ...]``; ``runs`` is ``[run, (src_row, dst_row, n)]``."""


@dataclass(frozen=True)
class BatchRows:
    """Where the rows of a batch go.

    ``example`` and ``token`` ``[stored]`` index the stored rows in the padded batch. Runs are
    ``[run, (src_row, dst_row, n)]``: ``padded`` from ``[example * token, ...]``, ``packed`` from
    the stored rows alone, ``pooled`` from ``[example, ...]`` into the example row space.
    """

    example: NDArray[np.int64]
    token: NDArray[np.int64]
    padded: NDArray[np.int64]
    packed: NDArray[np.int64]
    pooled: NDArray[np.int64]

    @classmethod
    def of(cls, placed: Sequence[Placed]) -> BatchRows:
        """The rows of the examples of a batch, in its order."""
        width = max(p.item.n_token for p in placed)
        counts = np.array([len(p.item.positions) for p in placed], dtype=np.int64)
        example = np.repeat(np.arange(len(placed), dtype=np.int64), counts)
        token = np.concatenate([p.item.positions for p in placed]).astype(np.int64)
        row = np.concatenate([np.arange(p.first_row, p.stop_row, dtype=np.int64) for p in placed])
        pooled = np.array([(i, p.example_row, 1) for i, p in enumerate(placed)], dtype=np.int64)
        return cls(
            example=example,
            token=token,
            padded=_runs(example * width + token, row),
            packed=_runs(np.arange(len(row), dtype=np.int64), row),
            pooled=pooled,
        )


def _runs(src: NDArray[np.int64], dst: NDArray[np.int64]) -> NDArray[np.int64]:
    """Maximal runs in which both row numbers count up, ``[run, (src_row, dst_row, n)]``."""
    if len(src) == 0:
        return np.zeros((0, 3), dtype=np.int64)
    breaks = np.flatnonzero((np.diff(src) != 1) | (np.diff(dst) != 1)) + 1
    starts = np.concatenate([[0], breaks])
    lengths = np.diff(np.concatenate([starts, [len(src)]]))
    return np.stack([src[starts], dst[starts], lengths], axis=1).astype(np.int64)


@dataclass(frozen=True)
class _Fetch:
    """Rows on their way: a site, a layer, a host tensor ``[row, ...]`` and its runs."""

    site: Site
    layer: int | None
    tensor: torch.Tensor
    runs: NDArray[np.int64]


class RowSink:
    """Makes the sinks of batches.

    ``dtypes`` is what each site is stored as; ``n_key`` the width of the key axis in the store, if
    it has one.
    """

    def __init__(
        self, writer: RowWriter, dtypes: Mapping[Site, str], n_key: int | None, device: torch.device
    ) -> None:
        """Write to ``writer`` what a model on ``device`` computes."""
        self.writer = writer
        self.dtypes = {site: TORCH_DTYPES[name] for site, name in dtypes.items()}
        self.n_key = n_key
        self.cuda = device.type == "cuda"

    def batch(self, placed: Sequence[Placed]) -> BatchSink:
        """The sink of one batch, in the batch's order of examples."""
        return BatchSink(self, BatchRows.of(placed))

    def targets(self, placed: Sequence[Placed]) -> None:
        """Write the id of the token behind each stored token, -1 at the end of an example."""
        ids, rows = [], []
        for one in placed:
            text = one.item.content
            if not isinstance(text, TokenisedText):
                continue
            following = np.append(text.ids[1:], np.int32(-1))
            ids.append(following[one.item.positions])
            rows.append(np.arange(one.first_row, one.stop_row, dtype=np.int64))
        row = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        if len(row):
            runs = _runs(np.arange(len(row), dtype=np.int64), row)
            self.writer.write(TARGET, None, np.concatenate(ids).astype(np.int32), runs)


class BatchSink:
    """The sink that a ``Tracer`` calls during one batch."""

    def __init__(self, sink: RowSink, rows: BatchRows) -> None:
        """Send to the sink's writer."""
        self._sink = sink
        self._rows = rows
        self._fetches: list[_Fetch] = []
        self._fetched: torch.cuda.Event | None = None
        self.n_bytes = 0

    def __call__(self, site: Site, layer: int | None, tensor: torch.Tensor) -> None:
        """Take one site's tensor, ``[example, token, ...]``, or ``[example, ...]`` if pooled."""
        sink, rows = self._sink, self._rows
        dtype = sink.dtypes[site]
        if site.row_space is RowSpace.EXAMPLE:
            self._send(site, layer, tensor.to(dtype).contiguous(), rows.pooled)
            return
        missing = (sink.n_key or 0) - tensor.shape[-1] if "key" in site.axes else 0
        if not sink.cuda and tensor.dtype in _ROUNDED_BY_WRITER:
            dtype = tensor.dtype
        if tensor.is_contiguous() and tensor.dtype == dtype and not missing and not sink.cuda:
            self._send(site, layer, tensor.flatten(0, 1), rows.padded)
            return
        example, token = (torch.from_numpy(i).to(tensor.device) for i in (rows.example, rows.token))
        packed = tensor[example, token].to(dtype)
        if missing:
            packed = torch.nn.functional.pad(packed, (0, missing))
        self._send(site, layer, packed.contiguous(), rows.packed)

    def _send(
        self, site: Site, layer: int | None, tensor: torch.Tensor, runs: NDArray[np.int64]
    ) -> None:
        if len(runs) == 0:
            return
        self.n_bytes += int(runs[:, 2].sum()) * tensor[0].numel() * tensor.element_size()
        if not self._sink.cuda:
            self._sink.writer.write(site, layer, host_array(tensor), runs)
            return
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        self._fetches.append(_Fetch(site, layer, host, runs))

    def launched(self) -> None:
        """Note that the model has been told all of this batch; a GPU may still be at it."""
        if self._fetches:
            self._fetched = torch.cuda.Event()
            self._fetched.record()

    def drain(self) -> None:
        """Wait for the batch's rows and hand them to the writer."""
        if self._fetched is not None:
            self._fetched.synchronize()
        for fetch in self._fetches:
            self._sink.writer.write(fetch.site, fetch.layer, host_array(fetch.tensor), fetch.runs)
        self._fetches.clear()


def host_array(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor in host memory as an array, without a copy; bfloat16 is ``ml_dtypes.bfloat16``."""
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    array: NDArray[Any] = tensor.detach().numpy()
    return array
