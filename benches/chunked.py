"""The chunked formats that people keep activations in, each as its own library reads and writes it.

Those that have it come a second time with zstd, level 1: a gather out of them has to decode chunks.
"""

import contextlib
from abc import abstractmethod
from collections.abc import Iterator
from itertools import chain
from typing import Any, ClassVar

import numpy as np

from formats import CHUNK, SHARD, Format, Half, Rows, blocks


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
    pipeline = "zarr.core.codec_pipeline.BatchedCodecPipeline"
    zstd = False

    def configured(self) -> contextlib.AbstractContextManager[object]:
        """What codes and decodes chunks; an array keeps what is set when it is opened."""
        import zarr

        chosen: contextlib.AbstractContextManager[object] = zarr.config.set(
            {"codec_pipeline.path": self.pipeline}
        )
        return chosen

    def write(self, data: Half) -> None:  # noqa: D102
        import zarr
        from zarr.codecs import ZstdCodec

        width = data.shape[2]
        with self.configured():
            array = zarr.create_array(
                str(self.path),
                shape=data.shape,
                dtype="float16",
                chunks=(CHUNK, 1, width),
                shards=(SHARD, 1, width),
                compressors=[ZstdCodec(level=1)] if self.zstd else None,
            )
            for start in range(0, len(data), SHARD):
                array[start : start + SHARD] = data[start : start + SHARD]

    def open(self) -> None:  # noqa: D102
        import zarr

        with self.configured():
            self.array: Any = zarr.open_array(self.store(), mode="r")

    def store(self) -> Any:  # noqa: ANN401  a path, or what zarr takes for one
        """Where the array is."""
        return str(self.path)

    def scan(self) -> Half:  # noqa: D102
        return np.asarray(self.array[:])

    def layer(self, layer: int) -> Half:  # noqa: D102
        return np.asarray(self.array[:, layer])

    def gather(self, rows: Rows, layer: int) -> Half:  # noqa: D102
        return np.asarray(self.array.oindex[rows, layer])

    def gather_all(self, rows: Rows) -> Half:  # noqa: D102
        return np.asarray(self.array.oindex[rows])


class ZarrPythonZstd(ZarrPython):
    """zarr-python, compressed."""

    name = "zarr-python, zstd"
    zstd = True


class ZarrsPipeline(ZarrPython):
    """zarr-python with the codecs of the crate zarrs."""

    name = "zarrs pipeline"
    pipeline = "zarrs.ZarrsCodecPipeline"

    def open(self) -> None:  # noqa: D102
        import zarrs  # type: ignore[import-not-found,unused-ignore]  # noqa: F401  registers itself

        super().open()


class ZarrsPipelineZstd(ZarrsPipeline):
    """The same, compressed."""

    name = "zarrs pipeline, zstd"
    zstd = True


class Tensorstore(Format):
    """tensorstore's zarr3 driver, sharded as ours."""

    name = "tensorstore"
    packing: tuple[dict[str, Any], ...] = ()

    def _spec(self) -> dict[str, Any]:
        return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(self.path)}}

    def write(self, data: Half) -> None:  # noqa: D102
        import tensorstore

        width = data.shape[2]
        layout = tensorstore.ChunkLayout(
            read_chunk_shape=(CHUNK, 1, width), write_chunk_shape=(SHARD, 1, width)
        )
        codecs = [{"name": "bytes", "configuration": {"endian": "little"}}, *self.packing]
        inside = {"name": "sharding_indexed", "configuration": {"codecs": codecs}}
        array = tensorstore.open(
            self._spec(),
            create=True,
            dtype="float16",
            shape=data.shape,
            chunk_layout=layout,
            codec=tensorstore.CodecSpec({"driver": "zarr3", "codecs": [inside]}),
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


class TensorstoreZstd(Tensorstore):
    """tensorstore, compressed."""

    name = "tensorstore, zstd"
    packing = ({"name": "zstd", "configuration": {"level": 1}},)


class Columns(Format):
    """A column of fixed-size lists for each layer, as Arrow has them."""

    names: list[str]

    @abstractmethod
    def columns(self, names: list[str], rows: Rows | None = None) -> Any:  # noqa: ANN401
        """An Arrow table of some columns, of all rows or some."""

    def parts(self, data: Half) -> Iterator[Any]:
        """Record batches, a shard's rows each."""
        import pyarrow as pa

        width, names = data.shape[2], [f"l{layer}" for layer in range(data.shape[1])]
        schema = pa.schema([(name, pa.list_(pa.float16(), width)) for name in names])
        for start in range(0, len(data), SHARD):
            rows = data[start : start + SHARD]
            flat = [np.ascontiguousarray(rows[:, at]).ravel() for at in range(len(names))]
            lists = [pa.FixedSizeListArray.from_arrays(pa.array(f), width) for f in flat]
            yield pa.record_batch(lists, schema=schema)

    def _values(self, table: Any, name: str) -> Half:  # noqa: ANN401  pyarrow ships no types
        column = table.column(name).combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False)
        return np.asarray(values).reshape(len(column), -1)

    def scan(self) -> Half:  # noqa: D102
        table = self.columns(self.names)
        return np.stack([self._values(table, name) for name in self.names], axis=1)

    def layer(self, layer: int) -> Half:  # noqa: D102
        name = self.names[layer]
        return self._values(self.columns([name]), name)

    def gather(self, rows: Rows, layer: int) -> Half:  # noqa: D102
        name = self.names[layer]
        return self._values(self.columns([name], rows), name)

    def gather_all(self, rows: Rows) -> Half:  # noqa: D102
        table = self.columns(self.names, rows)
        return np.stack([self._values(table, name) for name in self.names], axis=1)


class Lance(Columns):
    """Lance."""

    name = "Lance"

    def write(self, data: Half) -> None:  # noqa: D102
        import lance
        import pyarrow as pa

        parts = self.parts(data)
        first = next(parts)
        reader = pa.RecordBatchReader.from_batches(first.schema, chain([first], parts))
        lance.write_dataset(reader, str(self.path), max_rows_per_group=SHARD)

    def open(self) -> None:  # noqa: D102
        import lance

        self.dataset: Any = lance.dataset(str(self.path))
        self.names = self.dataset.schema.names

    def columns(self, names: list[str], rows: Rows | None = None) -> Any:  # noqa: ANN401, D102
        if rows is None:
            return self.dataset.to_table(columns=names)
        return self.dataset.take(rows.tolist(), columns=names)


class Parquet(Columns):
    """Parquet by pyarrow, a row group for each shard; rows are taken from whole columns."""

    name = "Parquet"
    options: ClassVar[dict[str, Any]] = {"compression": "none", "use_dictionary": False}

    def write(self, data: Half) -> None:  # noqa: D102
        import pyarrow.parquet as pq

        parts = self.parts(data)
        first = next(parts)
        with pq.ParquetWriter(self.path, first.schema, **self.options) as writer:
            for part in chain([first], parts):
                writer.write_batch(part, row_group_size=SHARD)

    def open(self) -> None:  # noqa: D102
        import pyarrow.parquet as pq

        self.file: Any = pq.ParquetFile(self.path, memory_map=True)
        self.names = self.file.schema_arrow.names

    def columns(self, names: list[str], rows: Rows | None = None) -> Any:  # noqa: ANN401, D102
        table = self.file.read(columns=names)
        return table if rows is None else table.take(rows)


class ParquetZstd(Parquet):
    """Parquet, bytes split into planes and compressed."""

    name = "Parquet, zstd"
    options: ClassVar[dict[str, Any]] = {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": False,
        "use_byte_stream_split": True,
    }


PLAIN = (Hdf5, ZarrPython, ZarrsPipeline, Tensorstore, Lance, Parquet)
ZSTD = (ZarrPythonZstd, ZarrsPipelineZstd, TensorstoreZstd, ParquetZstd)
