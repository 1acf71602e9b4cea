"""Run the benchmarks, each in a process of its own, and write docs/benchmarks.md.

One that is run again alone replaces its own section and goals; the others stay as they are.

    python benches/all.py [NAME …] [--write-only]
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from findings import KEPT, Verdict

NAMES = (
    "capture",
    "patching",
    "effects",
    "sql",
    "storage",
    "cold",
    "objects",
    "kernels",
    "codecs",
    "lenses",
    "judging",
    "clip",
)
ALONE = ("gpu_capture",)
"""Run by hand, where there is what they need; kept like the others."""
DOCS = Path("docs/benchmarks.md")
INTRODUCTION = """# Benchmarks

Written by `make bench`: ours and the peers in one run, cases in turns, medians. Every case asserts
its answer first. Wall times differ by a factor of two from hour to hour on a virtual machine;
compare ratios within a table. Sections may be of different machines: each names its own.
"""
HEADER = "| workload | against | goal | measured | |\n| --- | --- | --- | --- | --- |"


def kept(name: str) -> dict[str, Any] | None:
    """What a benchmark found when it last ran."""
    path = KEPT / f"{name}.json"
    content: dict[str, Any] | None = json.loads(path.read_text()) if path.exists() else None
    return content


def goals(section: dict[str, Any]) -> dict[str, list[str]]:
    """Rows of the table of goals, by workload."""
    rows: dict[str, list[str]] = {}
    for one in section["verdicts"]:
        v = Verdict(**one)
        against = v.what if v.what == v.best else f"{v.what}: {v.best}"
        reached = "" if v.reached else "**not reached**"
        row = f"| {v.workload} | {against} | {v.least:g} | {v.ratio:,.3g} | {reached} |"
        rows.setdefault(v.workload, []).append(row)
    return rows


def written() -> tuple[dict[str, list[str]], dict[str, str]]:
    """What the page says already: rows of goals by workload, sections by title."""
    if not DOCS.exists():
        return {}, {}
    _, *parts = DOCS.read_text().split("\n## ")
    sections = {title: text.strip() for title, _, text in (part.partition("\n") for part in parts)}
    rows: dict[str, list[str]] = {}
    for line in sections.pop("Goals", "").splitlines():
        if line.startswith("| ") and not line.startswith(("| workload", "| ---")):
            rows.setdefault(line.split(" | ")[0][2:], []).append(line)
    return rows, sections


def write() -> None:
    """Write docs/benchmarks.md: what was found, and what it says of the others."""
    rows, sections = written()
    for name in (*NAMES, *ALONE):
        if section := kept(name):
            rows |= goals(section)
            sections[section["title"]] = "\n".join(section["lines"]).strip()
    lines = [INTRODUCTION, "## Goals", ""]
    lines += ["How many times as fast as the best of its rivals ours is meant to be, and is.", ""]
    lines += [HEADER, *(row for of in rows.values() for row in of), ""]
    for title, text in sections.items():
        lines += [f"## {title}", "", text, ""]
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
