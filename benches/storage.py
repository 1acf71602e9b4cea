"""Scans, layers, gathers, shuffled epochs, writing: ours, and the formats that people use instead.

Rows, 13 layers and 768 numbers in float16, 1.0 GB by default, warm in the page cache: the residual
stream of a small model. Each answer is compared bit for bit with what was written before any is
timed. For scans everything is opened anew in each round, outside the timing, so that ours checks
the checksums of the chunks that it reads whole each time; for gathers it stays open. What is
written is on the disk (`sync`) when the time is taken.

    python benches/storage.py [--rows 50176] [--rounds 5] [--only "residuum; h5py"]
"""

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import chunked
from common import MEGABYTE, Case, Measured, folder_bytes, measure
from findings import Goal, Report, versions
from formats import (
    DictionaryLearning,
    Format,
    Half,
    InMemory,
    Memmap,
    Residuum,
    ResiduumZstd,
    Rows,
    SaeLens,
    Safetensors,
)

WORK = Path(".cache/bench/storage")
N_LAYER, WIDTH, LAYER, BATCH = 13, 768, 5, 4096
SLOW = 2.0
"""Seconds above which a question is timed twice and not in every round."""
QUICK = 0.1
"""Seconds below which an answer is quick."""
FORMATS = (Residuum, Memmap, *chunked.PLAIN, Safetensors, ResiduumZstd, *chunked.ZSTD)
LOADERS = (InMemory, SaeLens, DictionaryLearning)
"""What only shuffles."""
CHUNKED = tuple(f.name for f in chunked.PLAIN)
PACKED = tuple(f.name for f in chunked.ZSTD)
MEMMAP = (Memmap.name,)


@dataclass(frozen=True)
class Question:
    """What is asked of every format; `amount` is what one answer holds, in `unit`.

    `anew` opens everything again before each answer.
    """

    title: str
    ask: Callable[[Format], Half]
    amount: float
    unit: str
    goals: tuple[Goal, ...]
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


def drawn(n_row: int) -> tuple[Rows, ...]:
    """Rows to gather: a fifth, a hundred, a fiftieth."""
    random = np.random.default_rng(1)
    return tuple(random.permutation(n_row)[:n] for n in (n_row // 5, 100, n_row // 50))


def questions(n_row: int) -> list[Question]:
    """All but writing and epochs, which are timed apart."""
    many, few, tokens = drawn(n_row)
    row_gb = WIDTH * 2 / 1e9
    h5py = Goal("h5py", ("h5py",), 1)
    best, memmap = ("the best chunked rival", CHUNKED), ("memmap", MEMMAP)
    return [
        Question(
            "full scan",
            lambda f: f.scan(),
            n_row * N_LAYER * row_gb,
            "GB/s",
            (Goal(*best, 2), Goal(*memmap, 0.6)),
            anew=True,
        ),
        Question(
            "one layer",
            lambda f: f.layer(LAYER),
            n_row * row_gb,
            "GB/s",
            (h5py, Goal("tensorstore", ("tensorstore",), 2.5), Goal(*memmap, 0.8)),
            anew=True,
        ),
        Question(
            f"{len(many):,} rows",
            lambda f: f.gather(many, LAYER),
            len(many) / 1e3,
            "krow/s",
            (Goal(*best, 10), Goal(*memmap, 1)),
        ),
        Question(
            "100 rows",
            lambda f: f.gather(few, LAYER),
            0.1,
            "krow/s",
            (Goal(*best, 10), Goal(*memmap, 1)),
        ),
        Question(
            f"{len(tokens):,} rows, all layers",
            lambda f: f.gather_all(tokens),
            len(tokens) / 1e3,
            "krow/s",
            (Goal("Lance", ("Lance",), 40), Goal(*memmap, 1)),
        ),
    ]


def epoch_question(n_row: int) -> Question:
    """A shuffled epoch; each batch is looked at, so that mapped rows are read too."""

    def epoch(format: Format) -> Half:
        return np.concatenate([batch[:1] for batch in format.epoch(n_row, LAYER, BATCH)])

    goals = (
        Goal("the best chunked rival", CHUNKED, 10),
        Goal("memmap", MEMMAP, 1),
        Goal("a buffer in memory", (SaeLens.name, DictionaryLearning.name), 1),
        Goal("numpy in memory", (InMemory.name,), 1),
    )
    return Question("shuffled epoch", epoch, n_row / 1e3, "krow/s", goals)


def assert_epoch(format: Format, data: Half) -> None:
    """An epoch holds every row once (SAELens leaves out its last ones): by their first numbers."""
    got = np.concatenate([b[:, :4] for b in format.epoch(len(data), LAYER, BATCH)])
    want = np.ascontiguousarray(data[:, LAYER, :4])
    n_want = len(data) // BATCH * BATCH if isinstance(format, SaeLens) else len(data)
    seen, there = (x.copy().view(np.uint64).ravel() for x in (got, want))
    assert len(seen) == n_want == len(np.unique(seen)), format.name
    assert np.isin(seen, there).all(), format.name


def seconds(format: Format, question: Question) -> float:
    """One answer's time, right after another: some systems take from the cache what lies idle."""
    question.ask(format)
    if question.anew:
        format.open()
    started = time.perf_counter()
    question.ask(format)
    return time.perf_counter() - started


def speeds(formats: Sequence[Format], question: Question, rounds: int) -> dict[str, float]:
    """Amount by the median second, by format, asked in turns.

    What is slow is asked twice; what takes milliseconds, which a moment's disturbance doubles,
    three times as often as the rest.
    """
    times: dict[str, list[float]] = {format.name: [] for format in formats}
    for number in range(3 * rounds):
        for format in formats:
            there = times[format.name]
            most = SLOW if number < rounds else QUICK
            if len(there) < 2 or statistics.median(there) < most:
                there.append(seconds(format, question))
    return {name: question.amount / statistics.median(there) for name, there in times.items()}


def compare(
    report: Report,
    where: str,
    asking: Mapping[str, Callable[[Question, Half], float]],
    answer: Callable[[Question], Half],
    n_row: int,
    rounds: int,
) -> None:
    """Ask every question somewhere else than in memory; ours is to be as fast as the best.

    `asking` compares an answer with the right one and gives its seconds, by format, ours first.
    """
    ours, *rivals = asking
    found: dict[str, dict[str, float]] = {}
    for question in questions(n_row):
        expected = answer(question)
        times: dict[str, list[float]] = {name: [] for name in asking}
        for _ in range(rounds):
            for name, ask in asking.items():
                times[name].append(ask(question, expected))
        speeds = {name: question.amount / statistics.median(there) for name, there in times.items()}
        goal = Goal("the best rival", tuple(rivals), 1)
        report.judge(f"{where}: {question.title}", ours, speeds, [goal])
        found[f"{question.title}, {question.unit}"] = speeds
    rows = [[name, *(f"{of[name]:,.3g}" for of in found.values())] for name in asking]
    report.table(["", *found], rows)


def writing(formats: Sequence[Format], data: Half, rounds: int) -> dict[str, Measured]:
    """Time and peak memory of writing from nothing, in turns."""
    measured = {format.name: Measured() for format in formats}
    data[:, :, 0].sum()  # so that what is mapped of it is not counted as the first one's memory
    for _ in range(rounds):
        for format in formats:
            remove(format.path)
            measure(Case(lambda f=format: written(f, data)), measured[format.name])  # type: ignore[misc]
    return measured


def written(format: Format, data: Half) -> None:
    """Write, with everything on disk at the end."""
    format.write(data)
    os.sync()


def remove(path: Path) -> None:
    """Remove a file or a folder, and have that done before the next is timed."""
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    os.sync()


def ask_all(
    report: Report, formats: list[Format], data: Half, rounds: int
) -> dict[str, dict[str, float]]:
    """Check and time every question; speeds by title and format."""
    reference = Memmap(WORK)
    reference.open()
    found = {}
    for question in questions(len(data)):
        answer = question.ask(reference)
        for format in formats:
            assert np.array_equal(question.ask(format), answer), (question.title, format.name)
        found[question.title] = speeds(formats, question, rounds)
        report.judge(question.title, "residuum", found[question.title], question.goals)
    report.judge(
        "full scan, zstd",
        ResiduumZstd.name,
        found["full scan"],
        [Goal("the best chunked rival with zstd", PACKED, 1.5)],
    )
    loaders = [*formats, *(loader(WORK) for loader in LOADERS)]
    for format in loaders:
        format.open()
        assert_epoch(format, data)
    question = epoch_question(len(data))
    found[question.title] = speeds(loaders, question, rounds)
    report.judge(question.title, "residuum", found[question.title], question.goals)
    return found


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
    formats: list[Format] = [f(WORK) for f in FORMATS if not wanted or f.name in wanted]
    report = Report("storage", "Storage: reading, shuffling, writing")
    packages = ("numpy", "h5py", "zarr", "zarrs", "tensorstore", "pylance", "pyarrow")
    report.introduce(__doc__)
    report.say(
        f"{data.nbytes / 1e9:.3f} GB; medians of {options.rounds}, or of 2 where one answer takes "
        f"more than {SLOW:.0f} s, of {3 * options.rounds} where it takes less than {QUICK} s. "
        f"{versions(*packages, 'safetensors', 'sae-lens')}"
    )
    wrote = writing(formats, data, min(options.rounds, 3))
    for format in formats:
        format.open()
    write_speeds = {name: data.nbytes / 1e9 / case.median for name, case in wrote.items()}
    goals = (Goal("h5py", ("h5py",), 1), Goal("tensorstore", ("tensorstore",), 1.3))
    report.judge("write, synced", "residuum", write_speeds, goals)
    found = ask_all(report, formats, data, options.rounds)
    units = {q.title: q.unit for q in (*questions(len(data)), epoch_question(len(data)))}
    header = ["", *(f"{title}, {units[title]}" for title in found)]
    report.table(
        [*header, "write, GB/s", "peak memory of it", "size"],
        [row(name, found, write_speeds, wrote) for name in dict.fromkeys(found["shuffled epoch"])],
    )
    report.say(bytes_line(len(data)))
    report.keep()


def row(
    name: str,
    found: dict[str, dict[str, float]],
    write_speeds: dict[str, float],
    wrote: dict[str, Measured],
) -> list[str]:
    """One format's line of the table."""
    cells = [f"{of[name]:,.3g}" if name in of else "" for of in found.values()]
    if name not in wrote:
        return [name, *cells, "", "", ""]
    path = next(f for f in FORMATS if f.name == name)(WORK).path
    size = folder_bytes(path) if path.is_dir() else path.stat().st_size
    peak = f"{wrote[name].peak_bytes / MEGABYTE:+,.0f} MB"
    whole = Memmap(WORK).path.stat().st_size
    return [name, *cells, f"{write_speeds[name]:.2f}", peak, f"{size / whole:.3f}"]


def bytes_line(n_row: int) -> str:
    """What ours reads for the gathers, by the store's own counter."""
    ours = Residuum(WORK)
    ours.open()
    said = []
    for question, rows in zip(questions(n_row)[2:], drawn(n_row), strict=True):
        before = ours.store.counters()["bytes_read"]
        answer = question.ask(ours)
        read = ours.store.counters()["bytes_read"] - before
        said.append(f"{len(rows):,} rows {read / answer.nbytes:.2f}")
    return f"Bytes that residuum reads per byte wanted, shard indexes included: {', '.join(said)}."


if __name__ == "__main__":
    main()
