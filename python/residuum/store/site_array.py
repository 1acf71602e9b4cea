"""`SiteArray`: one site of a store, read by rows, layers and heads."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, NoReturn, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from residuum import _residuum
from residuum.errors import ArgumentError, SiteError
from residuum.store import batches, show, tensors
from residuum.store.dtypes import BFLOAT16, numpy_dtype
from residuum.store.lossy import INT8, StoredError
from residuum.store.selection import HEAD_AXES, Axis, Key, Picked, Selector, pick, spread

if TYPE_CHECKING:
    import torch  # noqa: TID251  for the type of a result; tensors.py imports it when asked

_READ_AXES = ("row", "layer")


class SiteArray:
    """What one site did, `[row, layer, head, feature]`; the axes it has are in `axes`.

    Nothing is read until asked for, and only chunks that hold what was asked for.
    """

    def __init__(self, core: _residuum.SiteArray) -> None:
        """Wrap an array of the core; use `store["z"]` instead."""
        self.core = core
        self.name: str = core.name
        self.axes: tuple[str, ...] = tuple(core.axes)
        self.layers: tuple[int, ...] = tuple(core.layers)
        self.row_space: str = core.row_space
        self.chunk_rows: int = core.chunk_rows
        self.shard_rows: int = core.shard_rows
        self.shape: tuple[int, ...] = tuple(core.shape)
        """Lengths of the axes. The layer axis has the model's length, captured or not."""
        self.stored_dtype: str = core.dtype
        """Name of the type on disk."""
        self.dtype: np.dtype[Any] = _dtype(core.dtype)
        """Type of the stored numbers; `ml_dtypes.bfloat16` where they are that, float32 of int8."""
        self.error: StoredError | None = (
            StoredError.of(self.layers, core.errors) if core.dtype == INT8 else None
        )
        """How far the numbers are from the captured ones; None where they are the same."""
        lengths = zip(self.axes, self.shape, strict=True)
        self._axes = [Axis(name, length, self.name) for name, length in lengths]

    @property
    def n_row(self) -> int:
        """Rows that the store's last commit shows."""
        return self.shape[0]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Lengths of the axes behind row and layer."""
        return self.shape[2:] if self.has_layers else self.shape[1:]

    @property
    def row_len(self) -> int:
        """Numbers in one row of one layer."""
        return int(np.prod(self.row_shape, dtype=np.int64))

    @property
    def has_layers(self) -> bool:
        """Whether there is a layer axis."""
        return "layer" in self.axes

    @property
    def nbytes(self) -> int:
        """Bytes of the captured numbers, before any compression."""
        n_layer = len(self.layers) if self.has_layers else 1
        itemsize = 1 if self.error is not None else self.dtype.itemsize
        return self.n_row * n_layer * self.row_len * itemsize

    def read(
        self,
        rows: Selector = None,
        layers: Selector = None,
        heads: Selector = None,
        *,
        out: NDArray[Any] | None = None,
        dtype: DTypeLike | None = None,
        verify: bool = False,
    ) -> NDArray[Any]:
        """Read rows as a numpy array `[row, layer, head, feature]`.

        Each selector is an integer, which drops its axis, or a slice, list, array, boolean mask or
        Arrow column, which keeps it, as in numpy indexing along each axis on its own. Rows may come
        in any order and repeat; each chunk is read once.

        Args:
            rows: which rows; None is all of them.
            layers: which layers; None is all captured ones (see `layers`).
            heads: which heads, for sites with a `head` or `kv_head` axis.
            out: a C-contiguous array of the right shape to fill; its dtype is the result's.
            dtype: dtype of the result. By default the stored one, except bfloat16, which is widened
                to float32 (ask for "bfloat16" to keep it), and int8, of which the numbers that its
                codes stand for are float32.
            verify: check the checksum of every chunk that is touched, for which all of it is read.
                Without it, rows asked for by number and heads, taken out of a chunk that is not
                compressed, are not checked; chunks that lie in a slice of rows are, once while the
                store is open.

        Raises:
            SiteError: a layer or head that does not exist or was not captured, or an axis that the
                site does not have.
            SelectionError: a row out of range, or what cannot select.
            ArgumentError: an `out` that does not fit.
            StoreError: a shard that is missing, cut short or altered.
        """
        if heads is None and out is None and dtype is None and not verify:
            found = self._rows_of_layer(rows, layers)
            if found is not None:
                return found
        picked = self._pick(rows, layers, heads)
        shape = self._shape(*picked)
        if out is None:
            out = np.empty(shape, self._result_dtype(dtype))
        else:
            _check_out(out, shape, dtype)
        self._fill(out, *picked, verify=verify)
        return out

    def _rows_of_layer(self, rows: Selector, layer: Selector) -> NDArray[Any] | None:
        """Some rows of a layer by plain numbers; None where something else is asked.

        The most frequent small read: the core checks its numbers in less time than numpy takes to
        look for the largest.
        """
        if type(rows) is not np.ndarray or rows.dtype != np.int64 or rows.ndim != 1:
            return None
        if type(layer) is not int or not self.has_layers:
            return None
        out: NDArray[Any] = np.empty((len(rows), *self.row_shape), self._result_dtype(None))
        target = out.view(np.uint16) if out.itemsize == 2 else out
        return out if self.core.read_rows(target, rows, layer) else None

    def torch(
        self, rows: Selector = None, layers: Selector = None, heads: Selector = None
    ) -> "torch.Tensor":
        """Read as `read` does, as a torch tensor of the site's `dtype`, bfloat16 kept; no copy.

        Raises:
            ImportError: torch is not installed.
        """
        return tensors.from_numpy(self.read(rows, layers, heads, dtype=self.dtype))

    @overload
    def stream(
        self,
        layer: int | None = ...,
        *,
        batch_rows: int = ...,
        shuffle: bool = ...,
        seed: int = ...,
        with_rows: Literal[False] = ...,
        heads: Selector = ...,
        dtype: DTypeLike | None = ...,
        window_rows: int | None = ...,
        start: int = ...,
        verify: bool = ...,
    ) -> Iterator[NDArray[Any]]: ...
    @overload
    def stream(
        self,
        layer: int | None = ...,
        *,
        batch_rows: int = ...,
        shuffle: bool = ...,
        seed: int = ...,
        with_rows: Literal[True],
        heads: Selector = ...,
        dtype: DTypeLike | None = ...,
        window_rows: int | None = ...,
        start: int = ...,
        verify: bool = ...,
    ) -> Iterator[tuple[NDArray[Any], NDArray[np.int64]]]: ...
    def stream(
        self,
        layer: int | None = None,
        *,
        batch_rows: int = 4096,
        shuffle: bool = False,
        seed: int = 0,
        with_rows: bool = False,
        heads: Selector = None,
        dtype: DTypeLike | None = None,
        window_rows: int | None = None,
        start: int = 0,
        verify: bool = False,
    ) -> Iterator[Any]:
        """Iterate over all rows in batches, every row once; the last batch may be smaller.

        The next batches are read in the background. `shuffle` draws the order of the chunks and
        then of the rows inside each window of them; rows whose chunks fall into different windows
        are never mixed. A window is the larger of 128 MiB and a batch with one chunk, or what
        `window_rows` says: an array within it is permuted as a whole. The order is a function of
        `seed`, the number of rows, `chunk_rows`, `batch_rows` and the window. Out of plain chunks
        rows are copied straight into their batches; of compressed ones, and of those
        in a bucket, up to three windows are in memory, so choose `window_rows` by that.

        Args:
            layer: the layer; None reads all captured layers, or a site without layers.
            batch_rows: rows per batch.
            shuffle: whether rows come in random instead of stored order.
            seed: seed of that order.
            with_rows: yield (batch, row numbers int64 `[batch]`) instead of batches.
            heads: as for `read`.
            dtype: as for `read`.
            window_rows: rows that are mixed with one another, rounded down to whole chunks.
            start: batches of the epoch to leave out, to go on where another stream stopped; they
                are not read.
            verify: as for `read`. Without it a shuffled stream of plain chunks checks no checksum,
                one in stored order those of chunks that lie in a batch as a whole.

        Yields:
            Arrays `[batch, head, feature]`, without `layer` axis if `layer` was given.

        Raises:
            SiteError: a layer that was not captured, or an axis that the site does not have.
            ArgumentError: `batch_rows` or `window_rows` below one, or `start` below zero.
        """
        for name, n, least in (
            ("batch_rows", batch_rows, 1),
            ("window_rows", window_rows, 1),
            ("start", start, 0),
        ):
            if n is not None and n < least:
                message = f"{name} is {n}, but must be at least {least}"
                raise ArgumentError(message)
        # Nothing is read, but wrong arguments fail here and not at the first batch.
        self.read(slice(0, 0), layer, heads, dtype=dtype)
        n_layer = len(self.layers) if layer is None and self.has_layers else 1
        order = batches.Order.of(
            self.n_row,
            self.chunk_rows,
            self.dtype.itemsize * n_layer * self.row_len,
            batch_rows,
            window_rows=window_rows,
            shuffle=shuffle,
            seed=seed,
        )
        layers = self._pick_layers(layer)
        layer_list = [] if layers is None else layers.tolist()

        def read(rows: NDArray[np.int64], chunks: NDArray[np.int64]) -> NDArray[Any]:
            if len(chunks):
                self.core.warm(chunks.tolist(), layer_list)
            picked = rows if shuffle else slice(int(rows[0]), int(rows[-1]) + 1)
            return self.read(picked, layer, heads, dtype=dtype, verify=verify)

        first_row = start * batch_rows
        if self.core.reads_rows_alone:
            found = batches.ahead(order.batches(first_row), read, batches.AHEAD)
        else:
            # Rows come best with all of their chunk: it is compressed, or lies in a bucket.
            windows = ((rows, rows[:0]) for _, rows in order.windows(first_row))
            found = batches.cut(batches.ahead(windows, read, 1), batch_rows)
        if with_rows:
            return ((values, rows) for rows, values in found)
        return (values for _, values in found)

    def views(self, layer: int | None = None) -> Iterator[NDArray[Any]]:
        """Iterate over the rows of a layer where they lie in the shards' files: nothing is copied.

        For code that takes the stored type, 16 bits too. Arrays are read-only and may be kept: the
        file stays mapped for as long. Checksums are not checked; `verify` does that.

        Args:
            layer: the layer; None for a site without layers.

        Yields:
            The rows of one chunk, `[row, head, feature]`, in order; bfloat16 as `ml_dtypes`' type.

        Raises:
            SiteError: a layer that was not captured, or one for a site without layers.
            ArgumentError: chunks that are compressed, int8, or in a bucket.
            StoreError: a shard was cut short while its last array was looked at, which then held
                zeros.
        """
        one = self.one_layer(layer)

        def found() -> Iterator[NDArray[Any]]:
            for chunk in range(-(-self.n_row // self.chunk_rows)):
                view = self.core.view(chunk, one)
                yield view.bytes().view(self.dtype).reshape(view.n_row, *self.row_shape)
                view.check()

        if self.n_row:
            self.core.view(0, one)  # wrong arguments fail here and not at the first array
        return found()

    def __getitem__(self, key: Key) -> Any:  # noqa: ANN401  an array, or a number
        """Read `site[rows, layers, heads, ...]`, as from a numpy array of this shape.

        An integer drops its axis; a slice, list, array, mask or Arrow column keeps it. Several
        lists each select along their own axis, as in zarr's `oindex` (numpy would pair them):
        `z[[3, 8], [0, 1]]` is two layers of two rows. Only chunks of the rows, layers and heads
        asked for are decoded.

        A place along `layer` is the layer's number, so that `:` there needs every layer; `read`
        takes those that were captured.

        Raises:
            SiteError: a layer or head that does not exist or was not captured.
            SelectionError: another number out of range, or what cannot select.
        """
        axes, heads = self._axes, self._head_axis
        chosen = dict(zip(axes, spread(key, axes), strict=True))
        read = {axis.name: chosen.pop(axis) for axis in axes if axis.name in _READ_AXES}
        of_heads = None if heads is None else chosen.pop(heads)
        rest = [pick(selector, axis) for axis, selector in chosen.items()]
        out = self.read(read["row"], read.get("layer"), of_heads)
        # From the last axis to the first, so that a dropped axis moves no axis still to come.
        for axis, picked in reversed(list(enumerate(rest, out.ndim - len(rest)))):
            out = out[(slice(None),) * axis + (picked.key,)]
        return out[()]

    def __array__(
        self,
        dtype: DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001  numpy's protocol
    ) -> NDArray[Any]:
        """Read everything, for `np.asarray(site)`; the dtype is that of `read`.

        Raises:
            SiteError: not every layer was captured; `read` takes those that were.
            ArgumentError: `copy=False`, because what is on disk has to be copied.
        """
        if copy is False:
            message = (
                f"{self.name} is on disk: reading it makes a copy, so that copy=False cannot be"
            )
            raise ArgumentError(message)
        return self.read(layers=slice(None) if self.has_layers else None, dtype=dtype)

    def __len__(self) -> int:
        """Number of rows."""
        return self.n_row

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the rows, read a chunk at a time."""
        for start in range(0, self.n_row, self.chunk_rows):
            yield from self[start : start + self.chunk_rows]

    def __repr__(self) -> str:
        """Name, axes, dtype and size."""
        return show.site_text(self)

    def _repr_html_(self) -> str:
        return show.site_html(self)

    def one_layer(self, layer: int | None) -> int:
        """The number of the layer that is meant; 0 for a site without layers, where it is None.

        Negative numbers count from the end. Whether the layer was captured, the core says.

        Raises:
            SiteError: a layer of a site that has none, or before the first.
            ArgumentError: no layer, of a site that has layers.
        """
        if layer is None and self.has_layers:
            message = f"`{self.name}` has layers: say which"
            raise ArgumentError(message)
        if layer is not None and self.has_layers and layer >= 0:
            return layer
        picked = self._pick_layers(layer)
        return 0 if picked is None else picked.tolist()[0]

    def _pick(
        self, rows: Selector, layers: Selector, heads: Selector
    ) -> tuple[Picked, Picked | None, Picked | None]:
        picked = pick(rows, self._axes[0])
        return picked, self._pick_layers(layers), self._pick_heads(heads)

    def _pick_layers(self, layers: Selector) -> Picked | None:
        if not self.has_layers:
            if layers is not None:
                self._refuse_axis("layer")
            return None
        if layers is None:
            return Picked(np.array(self.layers, np.uint64), len(self.layers))
        return pick(layers, self._axes[1])

    def _pick_heads(self, heads: Selector) -> Picked | None:
        axis = self._head_axis
        if axis is None:
            if heads is not None:
                self._refuse_axis("head")
            return None
        return pick(heads, axis)

    @property
    def _head_axis(self) -> Axis | None:
        """The axis that a selection of heads is along: heads of a row, not of its tokens."""
        inner = self._axes[1 + self.has_layers :]  # of one number a row there is none
        return inner[0] if inner and inner[0].name in HEAD_AXES else None

    def _refuse_axis(self, name: str) -> NoReturn:
        axes = ", ".join(self.axes)
        message = f"`{self.name}` has no axis `{name}` to select on; its axes are {axes}"
        raise SiteError(message)

    def _shape(self, rows: Picked, layers: Picked | None, heads: Picked | None) -> tuple[int, ...]:
        picked = [p for p in (rows, layers, heads) if p is not None]
        rest = self.row_shape if heads is None else self.row_shape[1:]
        return (*(p.n for p in picked if not p.drop), *rest)

    def _result_dtype(self, dtype: DTypeLike | None) -> np.dtype[Any]:
        if dtype is None:
            return np.dtype(np.float32) if self.dtype == BFLOAT16 else self.dtype
        return numpy_dtype(dtype)

    def _fill(
        self,
        out: NDArray[Any],
        rows: Picked,
        layers: Picked | None,
        heads: Picked | None,
        *,
        verify: bool,
    ) -> None:
        layer_list = layers.tolist() if layers is not None else []
        head_list = None if heads is None or heads.is_whole(self.row_shape[0]) else heads.tolist()
        wide = np.dtype(np.int32 if self.dtype == np.int32 else np.float32)
        raw = out.dtype == self.dtype and out.dtype.itemsize == 2
        if raw or out.dtype == wide:
            target = out.view(np.uint16) if raw else out
            self.core.read_into(target, rows.index, layer_list, head_list, verify)
        else:
            widened: NDArray[Any] = np.empty(out.shape, wide)
            self.core.read_into(widened, rows.index, layer_list, head_list, verify)
            out[...] = widened


def _dtype(stored: str) -> np.dtype[Any]:
    """The type of the numbers that a type on disk stands for."""
    if stored == INT8:
        return np.dtype(np.float32)
    return numpy_dtype(stored)


def _check_out(out: NDArray[Any], shape: tuple[int, ...], dtype: DTypeLike | None) -> None:
    if out.shape != shape:
        message = f"out has the shape {list(out.shape)}, but what is read has {list(shape)}"
        raise ArgumentError(message)
    if not out.flags.c_contiguous or not out.flags.writeable:
        message = "out must be C-contiguous and writeable"
        raise ArgumentError(message)
    if dtype is not None and out.dtype != numpy_dtype(dtype):
        message = f"out is {out.dtype}, but dtype asks for {dtype}; leave one of them out"
        raise ArgumentError(message)
