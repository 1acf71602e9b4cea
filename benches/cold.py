"""The questions of `storage.py` to files that are not in memory.

Before each answer the format's own files are made durable and dropped from the page cache
(`posix_fadvise`), which is checked (`mincore`), and opened anew. It reads what `storage.py` wrote,
which runs first; what that left out is left out here.

    python benches/cold.py [--rounds 3]
"""

import argparse
import ctypes
import mmap
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

import chunked
from findings import Report, versions
from formats import Format, Half, Memmap, Residuum, Safetensors
from storage import WORK, Question, compare

FORMATS = (Residuum, Memmap, *chunked.PLAIN, Safetensors)
LEFT = 0.01
"""Share of the pages that may stay."""


def files(path: Path) -> Iterator[Path]:
    """The files of a format."""
    yield from [path] if path.is_file() else (p for p in path.rglob("*") if p.is_file())


def drop(path: Path) -> None:
    """Have the files' pages on the disk and not in memory."""
    there = total = 0
    for file in files(path):
        handle = os.open(file, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            found = resident(handle, os.fstat(handle).st_size)
            there, total = there + found[0], total + found[1]
        finally:
            os.close(handle)
    assert there <= LEFT * total, f"{there} of {total} pages of {path} stayed in memory"


def resident(handle: int, size: int) -> tuple[int, int]:
    """Pages of a file that are in memory, and all."""
    if not size:
        return 0, 0
    n_page = -(-size // mmap.PAGESIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    place = libc.mmap(None, ctypes.c_size_t(size), mmap.PROT_READ, mmap.MAP_SHARED, handle, 0)
    if place == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    pages = (ctypes.c_ubyte * n_page)()
    libc.mincore(ctypes.c_void_p(place), ctypes.c_size_t(size), pages)
    libc.munmap(ctypes.c_void_p(place), ctypes.c_size_t(size))
    return sum(page & 1 for page in bytes(pages)), n_page


def seconds(kind: type[Format], question: Question, expected: Half) -> float:
    """One answer out of files that are not in memory."""
    drop(kind(WORK).path)
    format = kind(WORK)
    started = time.perf_counter()
    format.open()
    answer = question.ask(format)
    took = time.perf_counter() - started
    assert np.array_equal(answer, expected), (question.title, format.name)
    return took


def answer_of(question: Question) -> Half:
    """The answer by numpy; nothing stays mapped, because what is mapped cannot be dropped."""
    reference = Memmap(WORK)
    reference.open()
    return question.ask(reference)


def main() -> None:
    """Drop, answer, compare, time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    kinds = [kind for kind in FORMATS if kind(WORK).path.exists()]
    assert Residuum in kinds, "python benches/storage.py writes what is read here"
    n_row = len(np.load(Memmap(WORK).path, mmap_mode="r"))
    report = Report("cold", "Cold reads")
    report.introduce(__doc__)
    packages = ("h5py", "zarr", "zarrs", "tensorstore", "pylance", "pyarrow", "safetensors")
    report.say(f"Medians of {options.rounds}, opening included. {versions(*packages)}")
    asking = {kind.name: partial(seconds, kind) for kind in kinds}
    compare(report, "cold", asking, answer_of, n_row, options.rounds)
    report.keep()


if __name__ == "__main__":
    main()
