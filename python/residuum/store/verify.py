"""Read a store back, every byte that has a checksum, and say what is wrong where."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from residuum import _residuum
from residuum.errors import StoreError
from residuum.store import lens_files
from residuum.store.parts import EXAMPLES, TOKENS, read_parquet
from residuum.store.s3_path import StorePath, store_path
from residuum.store.show import count, size


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: the file, relative to the store, and what."""

    file: str
    what: str


@dataclass(frozen=True)
class VerifyReport:
    """What was read, and what was wrong with it."""

    path: str
    commit: int
    files: int
    chunks: int
    bytes: int
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "path": self.path,
            "ok": self.ok,
            "commit": self.commit,
            "files": self.files,
            "chunks": self.chunks,
            "bytes": self.bytes,
            "problems": [{"file": p.file, "what": p.what} for p in self.problems],
        }

    def __repr__(self) -> str:
        """One line, and one more per problem."""
        found = count(len(self.problems), "problem") if self.problems else "no problem"
        first = (
            f"{self.path}, commit {self.commit}: {found} in {count(self.files, 'file')}, "
            f"{count(self.chunks, 'chunk')}, {size(self.bytes)}"
        )
        return "\n".join([first, *(f"{p.file}: {p.what}" for p in self.problems)])


def verify(path: str | os.PathLike[str]) -> VerifyReport:
    """Read a store back.

    Raises:
        StoreError: there is no store, or one of a newer format.
    """
    folder = store_path(path)
    report = _residuum.verify(folder)
    problems = [Problem(file, what) for file, what in report["problems"]]
    core = _opened(folder)
    if core is not None:
        problems.extend(_table_problems(folder, core.commit))
    lenses = lens_files.files(folder)
    for file in lenses:
        problems.extend(_lens_problems(file, core.attributes.get("model") if core else None))
    return VerifyReport(
        str(folder),
        report["commit"],
        report["files"] + len(lenses),
        report["chunks"],
        report["bytes"],
        tuple(problems),
    )


def _opened(folder: StorePath) -> _residuum.Store | None:
    """The store; None if the damage is such that it cannot be opened, as the core's report says."""
    try:
        return _residuum.Store(folder)
    except StoreError:
        return None


def _lens_problems(file: StorePath, model: Mapping[str, Any] | None) -> Iterator[Problem]:
    """What makes a file no lens of this model."""
    name = f"{file.parent.name}/{file.name}"
    try:
        bad = lens_files.not_finite(lens_files.read(file, model))
    except OSError as error:
        yield Problem(name, str(error).replace(f"{file} ", "it ", 1))
        return
    for tensor, n in bad.items():
        what = f"`{tensor}` has NaN or infinity {count(n, 'time')}; {lens_files.REMEDY}"
        yield Problem(name, what)


def _table_problems(folder: StorePath, commit: Mapping[str, Any]) -> Iterator[Problem]:
    """Parts that the commit lists but that are absent, unreadable or do not add up."""
    for name in (EXAMPLES, TOKENS):
        n_row, highest = 0, -1
        for part in commit["tables"].get(name, []):
            file = f"tables/{name}/{part}"
            if not (folder / file).is_file():
                return  # likewise
            try:
                table = read_parquet(folder / file)
            except (OSError, pa.ArrowException) as error:
                yield Problem(file, str(error))
                return
            if table.num_rows:
                n_row += table.num_rows
                highest = max(highest, pc.max(table.column("example")).as_py())
        if name == EXAMPLES and n_row != commit["n_example"]:
            committed = count(commit["n_example"], "example")
            yield Problem(
                f"tables/{name}", f"{count(n_row, 'row')}, but the commit has {committed}"
            )
        if highest >= commit["n_example"]:
            yield Problem(
                f"tables/{name}", f"example {highest} is beyond the commit's {commit['n_example']}"
            )
