"""Reads of files that are not in memory: the same answers, and little else off the disk."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from residuum.sites import Site
from residuum.store import ArrayPlan, Store, StoreWriter

D, N, LAYERS = 1024, 4096, (0, 1)
ROW = D * 4


@pytest.fixture
def written(tmp_path):
    """Rows of 4 kB, chunks of 64 rows, four shards a layer: 16 MiB of each layer."""
    path = tmp_path / "cold.residuum"
    plan = ArrayPlan(Site("resid_post"), len(LAYERS), LAYERS, (D,), "float32")
    values = np.random.default_rng(0).standard_normal((N, D), np.float32)
    with StoreWriter.create(
        path, model={}, capture={}, arrays=[plan], target=False, shard_rows=1024, chunk_rows=64
    ) as writer:
        for layer in LAYERS:
            writer.write("resid_post", layer, values + layer, np.array([[0, 0, N]]))
        example = {
            "example": [0],
            "n_token": pa.array([N], pa.int32()),
            "first_row": [0],
            "example_row": pa.array([None], pa.int64()),
            "content_hash": ["x"],
        }
        writer.add_examples(pa.table(example))
        writer.commit(complete=True, rows={"token": N, "example": 1})
    return path, values


def cold(path: Path) -> Site:
    """The site, opened anew, with none of its shards in memory."""
    for file in (path / "activations").rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)
    return Store(path)["resid_post"]


def from_disk() -> int:
    """Bytes that this process had the disk read."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["read_bytes"])


@pytest.mark.parametrize("n", [20, 1000], ids=["scattered", "dense"])
def test_rows_are_the_same(written, n):
    path, values = written
    rows = np.random.default_rng(1).permutation(N)[:n]
    assert np.array_equal(cold(path).read(rows, layers=1), values[rows] + 1)
    both = np.stack([values[rows], values[rows] + 1], axis=1)
    assert np.array_equal(cold(path).read(rows), both)


def test_scans_are_the_same(written):
    path, values = written
    assert np.array_equal(cold(path).read(layers=0), values)
    assert np.array_equal(cold(path).read(), np.stack([values, values + 1], axis=1))
    assert np.array_equal(cold(path).read(slice(100, 3000), layers=1), values[100:3000] + 1)


def test_scattered_rows_bring_in_little_else(written):
    path, values = written
    rows = np.arange(40, N, 200)
    cold(path).read(rows, layers=1)  # the code that reads is in memory now
    brought = []
    for _ in range(3):  # what else the process reads is counted too
        site = cold(path)
        before = from_disk()
        assert np.array_equal(site.read(rows, layers=1), values[rows] + 1)
        brought.append(from_disk() - before)
    # Two pages hold a row, one or two an index. Read around, each index would bring its shard.
    assert sorted(brought)[1] <= 4 * len(rows) * ROW
