"""From a model's tensors to the writer's rows.

On the CPU the writer copies straight out of the model's memory where its layout allows. From a GPU
only the rows that are stored are fetched, into pinned memory while the model goes on, and written
in the order in which they were asked for; what is on its way is bounded in bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
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
        """Copy rows of `values` `[row, ...]`; `runs` is `[run, (src_row, dst_row, n)]`."""


@dataclass(frozen=True)
class BatchRows:
    """Where the rows of a batch go.

    `example` and `token` `[stored]` index the stored rows in the padded batch. Runs are
    `[run, (src_row, dst_row, n)]`: `padded` from `[example * token, ...]`, `packed` from
    the stored rows alone, `pooled` from `[example, ...]` into the example row space.
    `keys` `[stored, key]` are the stored tokens of each row's example, -1 behind the last.
    """

    example: NDArray[np.int64]
    token: NDArray[np.int64]
    keys: NDArray[np.int64]
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
            keys=_stored_tokens(placed)[example],
            padded=_runs(example * width + token, row),
            packed=_runs(np.arange(len(row), dtype=np.int64), row),
            pooled=pooled,
        )


def _stored_tokens(placed: Sequence[Placed]) -> NDArray[np.int64]:
    """The stored tokens of each example, `[example, stored]`, -1 behind the last."""
    tokens = np.full((len(placed), max(len(p.item.positions) for p in placed)), -1, dtype=np.int64)
    for row, one in zip(tokens, placed, strict=True):
        row[: len(one.item.positions)] = one.item.positions
    return tokens


def _runs(src: NDArray[np.int64], dst: NDArray[np.int64]) -> NDArray[np.int64]:
    """Maximal runs in which both row numbers count up, `[run, (src_row, dst_row, n)]`."""
    if len(src) == 0:
        return np.zeros((0, 3), dtype=np.int64)
    breaks = np.flatnonzero((np.diff(src) != 1) | (np.diff(dst) != 1)) + 1
    starts = np.concatenate([[0], breaks])
    lengths = np.diff(np.concatenate([starts, [len(src)]]))
    return np.stack([src[starts], dst[starts], lengths], axis=1).astype(np.int64)


@dataclass(frozen=True)
class Fetched:
    """Rows on their way from a device: `tensor` is theirs once `wait` has returned."""

    tensor: torch.Tensor
    wait: Callable[[], None]


Fetch = Callable[[torch.Tensor], Fetched]
"""Starts to copy a tensor from a device to the host."""


class CudaFetch:
    """Copies into pinned memory on a stream of its own, while the model goes on.

    Pinned buffers come from torch's pool, which hands them out again once they were written.
    """

    def __init__(self, device: torch.device) -> None:
        """Copy from `device`."""
        self._device = device
        self._stream = torch.cuda.Stream(device)

    def __call__(self, tensor: torch.Tensor) -> Fetched:
        """Start to copy; nobody may change the tensor afterwards."""
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            host.copy_(tensor, non_blocking=True)
            copied = self._stream.record_event()
        # The model's stream must not hand out this memory anew before it was copied.
        tensor.record_stream(self._stream)
        return Fetched(host, copied.synchronize)


def fetch_at_once(tensor: torch.Tensor) -> Fetched:
    """Copy and wait, on devices that know no better."""
    return Fetched(tensor.cpu(), lambda: None)


def fetch_of(device: torch.device) -> Fetch | None:
    """How rows come from a device; None on the CPU, where they are there already."""
    if device.type == "cpu":
        return None
    return CudaFetch(device) if device.type == "cuda" else fetch_at_once


@dataclass(frozen=True)
class _Waiting:
    site: Site
    layer: int | None
    fetched: Fetched
    runs: NDArray[np.int64]
    n_bytes: int


class RowSink:
    """Makes the sinks of batches, and holds the rows that are still on their way from a device.

    `dtypes` is what each site is stored as; `n_key` the width of the key axis in the store, if
    it has one; with `stored_keys` it holds stored tokens alone. At most `in_flight` bytes are on
    their way, or one tensor.
    """

    def __init__(
        self,
        writer: RowWriter,
        dtypes: Mapping[Site, str],
        n_key: int | None,
        *,
        stored_keys: bool = False,
        fetch: Fetch | None = None,
        in_flight: int = 0,
    ) -> None:
        """Write to `writer`; `fetch` is None for a model on the CPU."""
        self.writer = writer
        self.dtypes = {site: TORCH_DTYPES[name] for site, name in dtypes.items()}
        self.n_key = n_key
        self.stored_keys = stored_keys
        self.fetch = fetch
        self._in_flight = in_flight
        self._waiting: deque[_Waiting] = deque()
        self._bytes = 0

    def batch(self, placed: Sequence[Placed]) -> BatchSink:
        """The sink of one batch, in the batch's order of examples."""
        return BatchSink(self, BatchRows.of(placed))

    def send(
        self, site: Site, layer: int | None, tensor: torch.Tensor, runs: NDArray[np.int64]
    ) -> None:
        """Write rows of a tensor, or start to fetch them from their device."""
        if self.fetch is None:
            self.writer.write(site, layer, host_array(tensor), runs)
            return
        n_bytes = tensor.numel() * tensor.element_size()
        self._waiting.append(_Waiting(site, layer, self.fetch(tensor), runs, n_bytes))
        self._bytes += n_bytes
        while self._bytes > self._in_flight and len(self._waiting) > 1:
            self._write_oldest()

    def flush(self) -> None:
        """Hand everything that is on its way to the writer."""
        while self._waiting:
            self._write_oldest()

    def _write_oldest(self) -> None:
        one = self._waiting.popleft()
        self._bytes -= one.n_bytes
        one.fetched.wait()
        self.writer.write(one.site, one.layer, host_array(one.fetched.tensor), one.runs)

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
    """The sink that a `Tracer` calls during one batch."""

    def __init__(self, sink: RowSink, rows: BatchRows) -> None:
        """Send to the sink's writer."""
        self._sink = sink
        self._rows = rows
        self._index: tuple[torch.Tensor, torch.Tensor] | None = None
        self.n_bytes = 0

    def __call__(self, site: Site, layer: int | None, tensor: torch.Tensor) -> None:
        """Take one site's tensor, `[example, token, ...]`, or `[example, ...]` if pooled."""
        sink, rows = self._sink, self._rows
        dtype, on_host = sink.dtypes[site], sink.fetch is None
        if on_host and tensor.dtype in _ROUNDED_BY_WRITER:
            dtype = tensor.dtype
        if site.row_space is RowSpace.EXAMPLE:
            # What is fetched must last until it is: the model may reuse its memory.
            pooled = tensor.to(dtype, copy=not on_host)
            self._send(site, layer, pooled.contiguous(), rows.pooled)
            return
        if "key" in site.axes and (sink.stored_keys or tensor.shape[-1] != sink.n_key):
            packed = self._with_keys(tensor[self._stored(tensor.device)]).to(dtype)
        elif on_host and tensor.is_contiguous() and tensor.dtype == dtype:
            self._send(site, layer, tensor.flatten(0, 1), rows.padded)
            return
        else:
            packed = tensor[self._stored(tensor.device)].to(dtype)
        self._send(site, layer, packed.contiguous(), rows.packed)

    def _with_keys(self, packed: torch.Tensor) -> torch.Tensor:
        """Bring `[stored, head, key]` to the store's keys, 0 where an example has fewer."""
        if self._sink.stored_keys:
            keys = torch.from_numpy(self._rows.keys).to(packed.device)[:, None]
            packed = packed.gather(-1, keys.clamp(min=0).expand(-1, packed.shape[1], -1))
            packed = packed.masked_fill(keys < 0, 0)
        return torch.nn.functional.pad(packed, (0, (self._sink.n_key or 0) - packed.shape[-1]))

    def _stored(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Index of the stored rows in `[example, token]`, on the tensors' device."""
        if self._index is None:
            example, token = self._rows.example, self._rows.token
            self._index = torch.from_numpy(example).to(device), torch.from_numpy(token).to(device)
        return self._index

    def _send(
        self, site: Site, layer: int | None, tensor: torch.Tensor, runs: NDArray[np.int64]
    ) -> None:
        if len(runs):
            self.n_bytes += int(runs[:, 2].sum()) * tensor[0].numel() * tensor.element_size()
            self._sink.send(site, layer, tensor, runs)


def host_array(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor in host memory as an array, without a copy; bfloat16 is `ml_dtypes.bfloat16`."""
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    array: NDArray[Any] = tensor.detach().numpy()
    return array
