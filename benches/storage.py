"""Scans, layers, gathers and shuffled epochs, ours and of the formats that people use instead.

Rows, 13 layers and 768 numbers in float16, 1.0 GB by default, warm in the page cache: the residual
stream of a small model. Each answer is compared bit for bit with what was written before any is
timed. For scans everything is opened anew in each round, outside the timing, so that ours checks
the checksums of the chunks that it reads whole each time; for gathers it stays open.

    python benches/storage.py [--rows 50176] [--rounds 5] [--only "residuum; h5py"]
"""

import argparse
import importlib.metadata
import os
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common import folder_bytes
from formats import FORMATS, Format, Half

WORK = Path(".cache/bench/storage")
N_LAYER, WIDTH, LAYER, BATCH = 13, 768, 5, 4096
SLOW = 2.0
"""Seconds above which a question is timed twice and not in every round."""


@dataclass(frozen=True)
class Question:
    """What is asked of every format; `amount` is what one answer holds, in `unit`.

    `anew` opens everything again before each answer.
    """

    title: str
    ask: Callable[[Format], Half]
    amount: float
    unit: str
    anew: bool = False


def make_data(n_row: int) -> Half:
    """Random numbers of about the size that a residual stream has; kept for the next run."""
    path = WORK / f"data-{n_row}.npy"
    if not path.exists():
        making = path.with_suffix(".making")
        out = np.lib.format.open_memmap(making, "w+", np.float16, (n_row, N_LAYER, WIDTH))
        random = np.random.default_rng(0)
        for start in range(0, n_row, 1024):
            part = out[start : start + 1024]
            part[:] = random.standard_normal(part.shape, dtype=np.float32)
        out.flush()
        making.rename(path)
    data: Half = np.load(path, mmap_mode="r")
    return data


def questions(n_row: int) -> list[Question]:
    """All but writing, which is timed apart."""
    random = np.random.default_rng(1)
    many, few = random.permutation(n_row)[: n_row // 5], random.permutation(n_row)[:100]
    tokens = random.permutation(n_row)[: n_row // 50]
    row_gb = WIDTH * 2 / 1e9

    def epoch(format: Format) -> Half:
        return np.concatenate([batch[:1] for batch in format.epoch(n_row, LAYER, BATCH)])

    return [
        Question("full scan", lambda f: f.scan(), n_row * N_LAYER * row_gb, "GB/s", anew=True),
        Question("one layer", lambda f: f.layer(LAYER), n_row * row_gb, "GB/s", anew=True),
        Question(
            f"{len(many)} random rows, one layer",
            lambda f: f.gather(many, LAYER),
            len(many) / 1e3,
            "krow/s",
        ),
        Question("100 random rows, one layer", lambda f: f.gather(few, LAYER), 0.1, "krow/s"),
        Question(
            f"{len(tokens)} random rows, all layers",
            lambda f: f.gather_all(tokens),
            len(tokens) / 1e3,
            "krow/s",
        ),
        Question("shuffled epoch, batches of 4096", epoch, n_row / 1e3, "krow/s"),
    ]


def expected(question: Question, reference: Format) -> Half | None:
    """The answer by numpy; None where the order is each format's own."""
    return None if "epoch" in question.title else question.ask(reference)


def assert_epoch(format: Format, data: Half) -> None:
    """An epoch holds every row once: its sorted first columns are the layer's."""
    first = np.concatenate([b[:, 0] for b in format.epoch(len(data), LAYER, BATCH)])
    assert np.array_equal(np.sort(first), np.sort(data[:, LAYER, 0])), format.name


def seconds(format: Format, question: Question) -> float:
    """One answer's time."""
    if question.anew:
        format.open()
    started = time.perf_counter()
    question.ask(format)
    return time.perf_counter() - started


def measure(formats: list[Format], question: Question, rounds: int) -> dict[str, float]:
    """Median seconds by format, in turns; what is slow is asked twice."""
    times: dict[str, list[float]] = {format.name: [] for format in formats}
    for _ in range(rounds):
        for format in formats:
            there = times[format.name]
            if len(there) < 2 or statistics.median(there) < SLOW:
                there.append(seconds(format, question))
    return {name: statistics.median(there) for name, there in times.items()}


def written(format: Format, data: Half) -> float:
    """Seconds to write, from nothing, with everything on disk at the end."""
    shutil.rmtree(format.path, ignore_errors=True)
    format.path.unlink(missing_ok=True)
    started = time.perf_counter()
    format.write(data)
    os.sync()
    return time.perf_counter() - started


def main() -> None:
    """Write, check the answers, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50176)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="names of formats, with semicolons")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    data = make_data(options.rows)
    wanted = [name.strip() for name in options.only.split(";") if name.strip()]
    formats = [f(WORK) for f in FORMATS if not wanted or f.name in wanted]
    for package in ("zarr", "tensorstore", "h5py", "pylance", "safetensors", "numpy"):
        print(f"{package} {importlib.metadata.version(package)}", end="  ")
    print(f"\n{data.shape} float16, {data.nbytes / 1e9:.3f} GB, {os.cpu_count()} cores, warm")

    print("\nwrite, synced")
    for format in formats:
        took = written(format, data)
        size = folder_bytes(format.path) if format.path.is_dir() else format.path.stat().st_size
        print(
            f"  {format.name:<20}{data.nbytes / 1e9 / took:>10.3f} GB/s{size / data.nbytes:>8.3f}"
        )
        format.open()
    reference = next(f for f in FORMATS if f.name == "numpy memmap")(WORK)
    reference.open()
    for question in questions(options.rows):
        answer = expected(question, reference)
        for format in formats:
            if answer is None:
                assert_epoch(format, data)
            else:
                assert np.array_equal(question.ask(format), answer), (question.title, format.name)
        print(f"\n{question.title}")
        for name, took in measure(formats, question, options.rounds).items():
            print(f"  {name:<20}{question.amount / took:>12,.2f} {question.unit}")


if __name__ == "__main__":
    main()
