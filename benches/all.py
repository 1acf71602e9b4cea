"""Run the benchmarks, each in a process of its own, and write docs/benchmarks.md.

What a benchmark found is kept: one that is run again alone replaces its own section.

    python benches/all.py [NAME …] [--write-only]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from findings import KEPT, Verdict

NAMES = ("capture", "patching", "sql", "storage", "cold", "objects", "kernels", "codecs")
ALONE = ("gpu_capture",)
"""Run by hand, where there is what they need; kept like the others."""
DOCS = Path("docs/benchmarks.md")
INTRODUCTION = """# Benchmarks

Written by `make bench`: ours and the peers in one run, cases in turns, medians. Every case asserts
its answer first. Wall times differ by a factor of two from hour to hour on a virtual machine;
compare ratios within a table. Sections may be of different machines: each names its own.
"""


def kept(name: str) -> dict[str, Any] | None:
    """What a benchmark found when it last ran."""
    path = KEPT / f"{name}.json"
    content: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return content


def goals(sections: list[dict[str, Any]]) -> list[str]:
    """The table of all goals."""
    verdicts = [Verdict(**one) for section in sections for one in section["verdicts"]]
    lines = ["| workload | against | goal | measured | |", "| --- | --- | --- | --- | --- |"]
    for v in verdicts:
        against = v.what if v.what == v.best else f"{v.what}: {v.best}"
        reached = "" if v.reached else "**not reached**"
        lines.append(f"| {v.workload} | {against} | {v.least:g} | {v.ratio:,.3g} | {reached} |")
    return lines


def write() -> None:
    """Write docs/benchmarks.md from what is kept."""
    sections = [section for name in (*NAMES, *ALONE) if (section := kept(name))]
    lines = [INTRODUCTION, "## Goals", ""]
    lines += ["How many times as fast as the best of its rivals ours is meant to be, and is.", ""]
    lines += [*goals(sections), ""]
    for section in sections:
        lines += [f"## {section['title']}", "", *section["lines"]]
    DOCS.write_text("\n".join(lines).rstrip() + "\n")
    print(f"{DOCS} is written")


def main() -> None:
    """Run what is named, or all, then write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*NAMES, *ALONE, []])
    parser.add_argument("--write-only", action="store_true")
    options = parser.parse_args()
    for name in () if options.write_only else options.names or NAMES:
        print(f"\n--- {name}", flush=True)
        subprocess.run([sys.executable, f"benches/{name}.py"], check=True)
    write()


if __name__ == "__main__":
    main()
