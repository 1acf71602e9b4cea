"""The formats that people keep activations in, each as its own library reads and writes it.

All hold the same `[row, layer, feature]` in float16, cut as residuum cuts where the format lets one
choose: 256 rows of one layer in a chunk, 8192 rows in a shard.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import residuum
from residuum.sites import Site
from residuum.store import ArrayPlan, StoreWriter

Rows = NDArray[np.int64]
Half = NDArray[np.float16]

CHUNK, SHARD = 256, 8192
WRITE_ROWS = 2048
"""Rows that a format is handed at a time, unless it can only take all of them."""


class Format(ABC):
    """One way to store `[row, layer, feature]`. What is opened stays open between questions."""

    name: str

    def __init__(self, folder: Path) -> None:
        """Keep everything below a folder."""
        self.path = folder / self.name.replace(" ", "_").replace(",", "")

    @abstractmethod
    def write(self, data: Half) -> None:
        """Store all of `[row, layer, feature]`."""

    @abstractmethod
    def open(self) -> None:
        """Open what was written."""

    @abstractmethod
    def scan(self) -> Half:
        """Everything."""

    @abstractmethod
    def layer(self, layer: int) -> Half:
        """All rows of a layer."""

    @abstractmethod
    def gather(self, rows: Rows, layer: int) -> Half:
        """Some rows of a layer, in the order asked."""

    @abstractmethod
    def gather_all(self, rows: Rows) -> Half:
        """Some rows of all layers."""

    def epoch(self, n_row: int, layer: int, batch: int) -> Iterator[Half]:
        """All rows of a layer in random order, in batches."""
        order = np.random.default_rng(0).permutation(n_row)
        for start in range(0, n_row, batch):
            yield self.gather(order[start : start + batch], layer)


def blocks(data: Half) -> Iterator[tuple[int, Half]]:
    """First row and rows of what is written at a time."""
    for start in range(0, len(data), WRITE_ROWS):
        yield start, data[start : start + WRITE_ROWS]


class Residuum(Format):
    """Ours. Every open checks every chunk that is read whole, once."""

    name = "residuum"
    codec = "none"

    def write(self, data: Half) -> None:  # noqa: D102
        n_row, n_layer, width = data.shape
        plan = ArrayPlan(Site.RESID_POST, n_layer, range(n_layer), (width,), "float16")
        writer = StoreWriter.create(
            self.path,
            model={"n_layer": n_layer},
            capture={},
            arrays=[plan],
            target=False,
            codec="zstd" if self.codec == "zstd" else "none",
        )
        with writer:
            for start, rows in blocks(data):
                runs = np.array([[0, start, len(rows)]])
                for layer in range(n_layer):
                    writer.write("resid_post", layer, np.ascontiguousarray(rows[:, layer]), runs)
            writer.commit(complete=True, rows={"token": n_row, "example": 0})

    def open(self) -> None:  # noqa: D102
        self.site = residuum.open(self.path)["resid_post"]

    def scan(self) -> Half:  # noqa: D102
        return self.site.read()

    def layer(self, layer: int) -> Half:  # noqa: D102
        return self.site.read(layers=layer)

    def gather(self, rows: Rows, layer: int) -> Half:  # noqa: D102
        return self.site.read(rows, layer)

    def gather_all(self, rows: Rows) -> Half:  # noqa: D102
        return self.site.read(rows)

    def epoch(self, n_row: int, layer: int, batch: int) -> Iterator[Half]:  # noqa: D102, ARG002
        return self.site.stream(layer, batch_rows=batch, shuffle=True)


class ResiduumZstd(Residuum):
    """Ours, compressed."""

    name = "residuum, zstd"
    codec = "zstd"


class Memmap(Format):
    """One npy file, mapped."""

    name = "numpy memmap"

    def write(self, data: Half) -> None:  # noqa: D102
        out: Any = np.lib.format.open_memmap(self.path, "w+", np.float16, data.shape)
        for start, rows in blocks(data):
            out[start : start + len(rows)] = rows
        out.flush()

    def open(self) -> None:  # noqa: D102
        self.array: Half = np.load(self.path, mmap_mode="r")

    def scan(self) -> Half:  # noqa: D102
        return np.array(self.array)

    def layer(self, layer: int) -> Half:  # noqa: D102
        return np.array(self.array[:, layer])

    def gather(self, rows: Rows, layer: int) -> Half:  # noqa: D102
        return np.asarray(self.array[rows, layer])

    def gather_all(self, rows: Rows) -> Half:  # noqa: D102
        return np.asarray(self.array[rows])


class InMemory(Memmap):
    """The layer held in memory: what a gather costs without any store."""

    name = "numpy in memory"

    def open(self) -> None:  # noqa: D102
        self.array = np.load(self.path)
        self.layers = {layer: np.array(self.array[:, layer]) for layer in (5,)}

    def gather(self, rows: Rows, layer: int) -> Half:  # noqa: D102
        return np.asarray(self.layers[layer][rows])


class Hdf5(Format):
    """h5py, chunked."""

    name = "h5py"

    def write(self, data: Half) -> None:  # noqa: D102
        import h5py

        with h5py.File(self.path, "w") as file:
            chunks = (CHUNK, 1, data.shape[2])
            out = file.create_dataset("x", data.shape, np.float16, chunks=chunks)
            for start, rows in blocks(data):
                out[start : start + len(rows)] = rows

    def open(self) -> None:  # noqa: D102
        import h5py

        self.array = h5py.File(self.path, "r")["x"]

    def scan(self) -> Half:  # noqa: D102
        return np.asarray(self.array[:])

    def layer(self, layer: int) -> Half:  # noqa: D102
        return np.asarray(self.array[:, layer])

    def gather(self, rows: Rows, layer: int) -> Half:  # noqa: D102
        order = np.argsort(rows)  # it takes rows in ascending order alone
        out = np.empty((len(rows), self.array.shape[2]), np.float16)
        out[order] = self.array[rows[order], layer]
        return out

    def gather_all(self, rows: Rows) -> Half:  # noqa: D102
        order = np.argsort(rows)
        out = np.empty((len(rows), *self.array.shape[1:]), np.float16)
        out[order] = self.array[rows[order]]
        return out


class ZarrPython(Format):
    """zarr-python with its own codecs, sharded as ours."""

    name = "zarr-python"

    def write(self, data: Half) -> None:  # noqa: D102
        import zarr

        width = data.shape[2]
        array = zarr.create_array(
            str(self.path),
            shape=data.shape,
            dtype="float16",
            chunks=(CHUNK, 1, width),
            shards=(SHARD, 1, width),
            compressors=None,
        )
        for start in range(0, len(data), SHARD):
            array[start : start + SHARD] = data[start : start + SHARD]

    def open(self) -> None:  # noqa: D102
        import zarr

        self.array: Any = zarr.open_array(str(self.path), mode="r")

    def scan(self) -> Half:  # noqa: D102
        return np.asarray(self.array[:])

    def layer(self, layer: int) -> Half:  # noqa: D102
        return np.asarray(self.array[:, layer])

    def gather(self, rows: Rows, layer: int) -> Half:  # noqa: D102
        return np.asarray(self.array.oindex[rows, layer])

    def gather_all(self, rows: Rows) -> Half:  # noqa: D102
        return np.asarray(self.array.oindex[rows])


class Tensorstore(Format):
    """tensorstore's zarr3 driver, sharded as ours."""

    name = "tensorstore"

    def _spec(self) -> dict[str, Any]:
        return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(self.path)}}

    def write(self, data: Half) -> None:  # noqa: D102
        import tensorstore

        width = data.shape[2]
        layout = tensorstore.ChunkLayout(
            read_chunk_shape=(CHUNK, 1, width), write_chunk_shape=(SHARD, 1, width)
        )
        array = tensorstore.open(
            self._spec(), create=True, dtype="float16", shape=data.shape, chunk_layout=layout
        ).result()
        for start in range(0, len(data), SHARD):
            part = data[start : start + SHARD]
            array[start : start + len(part)].write(part).result()

    def open(self) -> None:  # noqa: D102
        import tensorstore

        self.array: Any = tensorstore.open(self._spec(), read=True).result()

    def scan(self) -> Half:  # noqa: D102
        return np.asarray(self.array.read().result())

    def layer(self, layer: int) -> Half:  # noqa: D102
        return np.asarray(self.array[:, layer].read().result())

    def gather(self, rows: Rows, layer: int) -> Half:  # noqa: D102
        return np.asarray(self.array[rows, layer].read().result())

    def gather_all(self, rows: Rows) -> Half:  # noqa: D102
        return np.asarray(self.array[rows].read().result())


class Lance(Format):
    """Lance, a column of fixed-size lists for each layer."""

    name = "Lance"

    def write(self, data: Half) -> None:  # noqa: D102
        import lance
        import pyarrow as pa

        width, names = data.shape[2], [f"l{layer}" for layer in range(data.shape[1])]
        kind = pa.list_(pa.float16(), width)
        schema = pa.schema([(name, kind) for name in names])

        def parts() -> Iterator[Any]:
            for start in range(0, len(data), SHARD):
                rows = data[start : start + SHARD]
                flat = [np.ascontiguousarray(rows[:, at]).ravel() for at in range(len(names))]
                lists = [pa.FixedSizeListArray.from_arrays(pa.array(f), width) for f in flat]
                yield pa.record_batch(lists, schema=schema)

        reader = pa.RecordBatchReader.from_batches(schema, parts())
        lance.write_dataset(reader, str(self.path), max_rows_per_group=SHARD)

    def open(self) -> None:  # noqa: D102
        import lance

        self.dataset: Any = lance.dataset(str(self.path))
        self.names = self.dataset.schema.names

    def _values(self, table: Any, name: str) -> Half:  # noqa: ANN401  pyarrow ships no types
        column = table.column(name).combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(values).reshape(len(column), -1)

    def scan(self) -> Half:  # noqa: D102
        table = self.dataset.to_table()
        return np.stack([self._values(table, name) for name in self.names], axis=1)

    def layer(self, layer: int) -> Half:  # noqa: D102
        name = self.names[layer]
        return self._values(self.dataset.to_table(columns=[name]), name)

    def gather(self, rows: Rows, layer: int) -> Half:  # noqa: D102
        name = self.names[layer]
        return self._values(self.dataset.take(rows.tolist(), columns=[name]), name)

    def gather_all(self, rows: Rows) -> Half:  # noqa: D102
        table = self.dataset.take(rows.tolist())
        return np.stack([self._values(table, name) for name in self.names], axis=1)


class Safetensors(Format):
    """safetensors, a tensor for each layer; rows are taken from the whole tensor."""

    name = "safetensors"

    def write(self, data: Half) -> None:  # noqa: D102
        import safetensors.numpy

        layers = range(data.shape[1])
        tensors = {f"l{layer}": np.ascontiguousarray(data[:, layer]) for layer in layers}
        safetensors.numpy.save_file(tensors, self.path)

    def open(self) -> None:  # noqa: D102
        from safetensors import safe_open

        self.file: Any = safe_open(self.path, "numpy")
        self.n_layer = len(list(self.file.keys()))  # type: ignore[no-untyped-call]

    def scan(self) -> Half:  # noqa: D102
        return np.stack([self.layer(layer) for layer in range(self.n_layer)], axis=1)

    def layer(self, layer: int) -> Half:  # noqa: D102
        return np.asarray(self.file.get_tensor(f"l{layer}"))

    def gather(self, rows: Rows, layer: int) -> Half:  # noqa: D102
        return self.layer(layer)[rows]

    def gather_all(self, rows: Rows) -> Half:  # noqa: D102
        return np.stack([self.layer(layer)[rows] for layer in range(self.n_layer)], axis=1)


FORMATS: tuple[type[Format], ...] = (
    Residuum,
    ResiduumZstd,
    Memmap,
    InMemory,
    Hdf5,
    ZarrPython,
    Tensorstore,
    Lance,
    Safetensors,
)
