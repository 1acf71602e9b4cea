"""What a benchmark found, as Markdown: printed as it comes, and kept for docs/benchmarks.md.

`all.py` joins what the benchmarks kept. A section begins with what the benchmark's file says of
itself. A goal is a ratio to the best of some rivals in the same run; it is said whether it is
reached, also where it is not.
"""

import datetime as dt
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

KEPT = Path(".cache/bench/report")


@dataclass(frozen=True)
class Goal:
    """At least `least` times as good as the best of `rivals`, which are called `what`."""

    what: str
    rivals: tuple[str, ...]
    least: float


@dataclass(frozen=True)
class Verdict:
    """A goal and what came of it; `best` is the rival that was best."""

    workload: str
    what: str
    best: str
    least: float
    ratio: float

    @property
    def reached(self) -> bool:
        """Whether the ratio is at least what was asked."""
        return self.ratio >= self.least


@dataclass
class Report:
    """One benchmark's section of docs/benchmarks.md."""

    name: str
    title: str
    lines: list[str] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)

    def introduce(self, about: str | None) -> None:
        """Add the paragraphs of a benchmark's docstring, but not the command at its end."""
        self.say(f"`benches/{self.name}.py`")
        paragraphs = (about or "").strip().split("\n\n")
        for paragraph in paragraphs:
            if not paragraph.startswith("    "):
                self.say(paragraph)
        self.say(machine())

    def say(self, *lines: str) -> None:
        """Add a paragraph."""
        for line in (*lines, ""):
            print(line, flush=True)
            self.lines.append(line)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Add a table."""
        cells = [header, ["---"] * len(header), *rows]
        self.say(*(f"| {' | '.join(row)} |" for row in cells))

    def judge(
        self, workload: str, ours: str, speeds: Mapping[str, float], goals: Iterable[Goal]
    ) -> None:
        """Compare our speed with the best rival of each goal, as far as rivals were measured."""
        for goal in goals:
            rivals = {name: speeds[name] for name in goal.rivals if name in speeds}
            if rivals:
                best = max(rivals, key=lambda name: rivals[name])
                ratio = speeds[ours] / rivals[best]
                self.verdicts.append(Verdict(workload, goal.what, best, goal.least, ratio))
                print(f"  {self.verdicts[-1]}")

    def keep(self) -> None:
        """Keep it for `all.py`."""
        KEPT.mkdir(parents=True, exist_ok=True)
        content = {
            "title": self.title,
            "lines": self.lines,
            "verdicts": [asdict(verdict) for verdict in self.verdicts],
        }
        (KEPT / f"{self.name}.json").write_text(json.dumps(content, indent=1))


def versions(*packages: str) -> str:
    """The packages with their versions, the day and the threads, in one line."""
    named = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages)
    day = dt.datetime.now(dt.UTC).date()
    return f"{named}; {torch.get_num_threads()} threads on {os.cpu_count()} cores; {day}."


def machine() -> str:
    """Processor, cores and memory of this machine."""
    model = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    flags = Path("/proc/cpuinfo").read_text()
    vectors = "AVX-512" if " avx512f " in flags else "AVX2" if " avx2 " in flags else "SSE"
    system = f"Linux {platform.release().partition('-')[0]}, Python {platform.python_version()}"
    return f"{model} ({vectors}), {os.cpu_count()} cores, {memory:.0f} GiB; {system}."
