"""A format of `[row, layer, feature]` in float16: ours, and those without chunks.

The chunked peers are in `chunked.py`. All are cut as residuum cuts where the format lets one
choose: 256 rows of one layer in a chunk, 8192 rows in a shard.
"""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
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
    stored_by: str = ""
    """The name of the format whose files it reads, where that is another one."""

    def __init__(self, folder: Path) -> None:
        """Keep everything below a folder."""
        name = self.stored_by or self.name
        self.path = folder / name.replace(" ", "_").replace(",", "")

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
                flat = rows.reshape(-1, width)
                places = np.arange(len(rows))
                for layer in range(n_layer):
                    # From where, to where, how many: rows of a layer lie a token apart.
                    runs = np.stack([places * n_layer + layer, places + start, places * 0 + 1], 1)
                    writer.write("resid_post", layer, flat, runs)
            writer.commit(complete=True, rows={"token": n_row, "example": 0})

    def open(self) -> None:  # noqa: D102
        self.store = residuum.open(self.path)
        self.site = self.store["resid_post"]

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
    stored_by = Memmap.name

    def open(self) -> None:  # noqa: D102
        self.array = np.load(self.path)
        self.layers = {layer: np.array(self.array[:, layer]) for layer in (5,)}

    def gather(self, rows: Rows, layer: int) -> Half:  # noqa: D102
        return np.asarray(self.layers[layer][rows])


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


class SaeLens(Memmap):
    """The buffer in memory by which SAELens shuffles, fed from a mapped npy file: an epoch only.

    A quarter of the rows are held, and half of them are kept for mixing, which is its default. The
    rows of the last batch that is not full are dropped.
    """

    name = "SAELens buffer"
    stored_by = Memmap.name

    def epoch(self, n_row: int, layer: int, batch: int) -> Iterator[Half]:  # noqa: D102
        import torch

        def loaded() -> Iterator[torch.Tensor]:
            for start in range(0, n_row, batch):
                yield torch.from_numpy(np.array(self.array[start : start + batch, layer]))

        for mixed in mixing_buffer()(max(n_row // 4, batch), batch, loaded()):
            yield mixed.numpy()


class DictionaryLearning(Memmap):
    """A buffer in memory as dictionary_learning's `ActivationBuffer` is kept, for an epoch only.

    A quarter of the rows are held; each batch is drawn among those not handed out yet, which are
    looked up anew, and the buffer is filled again when fewer than half are left. Written after that
    class: the package (0.1) wants an nnsight that the other peers do not.
    """

    name = "dictionary_learning buffer"
    stored_by = Memmap.name

    def epoch(self, n_row: int, layer: int, batch: int) -> Iterator[Half]:  # noqa: D102
        import torch

        size, source = max(n_row // 4, batch), 0
        held = torch.empty(0)
        handed = torch.zeros(0, dtype=torch.bool)
        while source < n_row or not bool(handed.all()):
            if source < n_row and int((~handed).sum()) < size // 2:
                kept = held[~handed]
                new = np.array(self.array[source : source + size - len(kept), layer])
                source += len(new)
                held = torch.cat([kept.to(torch.float16), torch.from_numpy(new)])
                handed = torch.zeros(len(held), dtype=torch.bool)
            left = (~handed).nonzero().flatten()
            chosen = left[torch.randperm(len(left))[:batch]]
            handed[chosen] = True
            yield held[chosen].numpy()


def mixing_buffer() -> Callable[..., Iterator[Any]]:
    """SAELens' own function, out of its file: the package wants an older TransformerLens."""
    found = importlib.util.find_spec("sae_lens")
    assert found is not None, "install the dependency group `peers`"
    places = found.submodule_search_locations
    assert places is not None, found
    file = Path(places[0]) / "training" / "mixing_buffer.py"
    spec = importlib.util.spec_from_file_location("mixing_buffer", file)
    assert spec is not None, file
    assert spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function: Callable[..., Iterator[Any]] = module.mixing_buffer
    return function
