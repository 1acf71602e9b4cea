"""What the benchmarks share: interleaved timing, peak memory, bytes read, and tables of them.

Cases are run in turns, round after round, so that a machine that slows down slows all of them. The
first round warms caches and is not counted. That the answers agree is asserted by each benchmark
before it times.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from findings import Report

MEGABYTE = 1e6


@dataclass
class Measured:
    """Seconds of each counted round, and what the worst round held in memory and read."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    read_bytes: int = 0

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)


def resident(field_name: str) -> int:
    """Bytes of this process by a field of /proc/self/status: `VmRSS` now, `VmHWM` at the peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field_name}:"):
            return int(line.split()[1]) * 1024
    message = f"/proc/self/status has no {field_name}"
    raise OSError(message)


def read_so_far() -> int:
    """Bytes that this process has asked the kernel to read; what it maps is not among them."""
    line = Path("/proc/self/io").read_text().splitlines()[0]
    return int(line.split()[1])


@dataclass(frozen=True)
class Case:
    """What to time, and how to tell the bytes that it read."""

    run: Callable[[], object]
    read: Callable[[], int] = read_so_far


def measure(case: Case, into: Measured) -> None:
    """Run a case once and keep its time, its peak of resident memory above the start, its reads."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is resident now
    before, read = resident("VmRSS"), case.read()
    started = time.perf_counter()
    case.run()
    into.seconds.append(time.perf_counter() - started)
    into.peak_bytes = max(into.peak_bytes, resident("VmHWM") - before)
    into.read_bytes = max(into.read_bytes, case.read() - read)


def interleaved(
    cases: Mapping[str, Case], rounds: int, *, warm_up: bool = True
) -> dict[str, Measured]:
    """Measure every case once per round, in turns, after one round that is thrown away.

    Without `warm_up` there is none: for cases that take minutes, and ran when answers were
    compared.
    """
    for case in cases.values() if warm_up else ():
        case.run()
    measured = {name: Measured() for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            measure(case, measured[name])
    return measured


def add_table(report: Report, title: str, measured: Mapping[str, Measured], base: str) -> None:
    """One line a case; the ratio is its median time over the base's."""
    header = [title, "median", "ratio", "peak memory", "read"]
    report.table(
        header,
        [
            [
                name,
                f"{1e3 * case.median:,.1f} ms",
                f"{case.median / measured[base].median:.2f}",
                f"{case.peak_bytes / MEGABYTE:+,.0f} MB",
                f"{case.read_bytes / MEGABYTE:,.1f} MB" if case.read_bytes >= MEGABYTE else "",
            ]
            for name, case in measured.items()
        ],
    )


def speeds(measured: Mapping[str, Measured]) -> dict[str, float]:
    """Answers a second by case, for goals."""
    return {name: 1 / case.median for name, case in measured.items()}


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
