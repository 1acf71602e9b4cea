"""How far a capture or an export has got: a bar at a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from residuum.store.show import size

if TYPE_CHECKING:
    from types import TracebackType


class Reporter(Protocol):
    """Told what was done, batch by batch."""

    def __enter__(self) -> Self:
        """Start; `__exit__` clears up, whatever happened."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop."""

    def start(self, total: int | None, done: int) -> None:
        """Say how much there is to do (None: not known), and how much is done already."""

    def advance(self, *, done: int, rows: int, n_bytes: int) -> None:
        """Say what was done since the last call: of the total, in rows and in bytes."""


class Quiet:
    """Reports nothing."""

    def __enter__(self) -> Self:
        """Do nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def start(self, total: int | None, done: int) -> None:
        """Do nothing."""

    def advance(self, *, done: int, rows: int, n_bytes: int) -> None:
        """Do nothing."""


class Bar:
    """A progress bar on stderr: what is done, rows per second, bytes, time left."""

    def __init__(self, what: str, console: Console) -> None:
        """Draw on `console`, with `what` in front."""
        self._what = what
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}  {task.fields[size]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task: TaskID | None = None
        self._rows = 0
        self._bytes = 0

    def __enter__(self) -> Self:
        """Start drawing."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing; the last state stays on the screen."""
        self._progress.stop()

    def start(self, total: int | None, done: int) -> None:
        """Set the length of the bar."""
        self._task = self._progress.add_task(
            self._what, total=total, completed=done, rate="", size=""
        )

    def advance(self, *, done: int, rows: int, n_bytes: int) -> None:
        """Move the bar."""
        if self._task is None:
            return
        self._rows += rows
        self._bytes += n_bytes
        seconds = self._progress.tasks[0].elapsed or 0.0
        rate = f"{self._rows / seconds:,.0f} rows/s" if seconds > 0 else ""
        self._progress.update(
            self._task, advance=done, rate=rate, size=size(self._bytes) if self._bytes else ""
        )


def reporter(what: str, *, show: bool | None) -> Reporter:
    """A bar if `show`, or if it is None and stderr is a terminal; otherwise nothing."""
    console = Console(file=sys.stderr)
    if show is None:
        show = console.is_terminal
    return Bar(what, console) if show else Quiet()
