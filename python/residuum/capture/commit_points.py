"""Where a capture commits: decided by the inputs alone.

Shards are finished by background threads, at other moments in every run. If commits followed them,
the numbered records and the cut of the tables into parts would tell how quick the disk was. So the
points are set by the rows planned so far, and a commit waits until the threads have got there.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from residuum.capture.plan import Group

EXAMPLE_ROWS = 1024
"""Distinct examples between commits of a store that has no token rows."""


class Queued(Protocol):
    """What the points ask a store's writer."""

    @property
    def n_example(self) -> int:
        """Examples in the last numbered commit."""

    @property
    def rows(self) -> dict[str, int]:
        """Rows in the last numbered commit, per row space."""

    def sealed_rows(self, row_space: str) -> int:
        """Rows from 0 on that lie in finished shards of every array of the row space."""

    def n_within(self, token_rows: int | None = None) -> int:
        """Examples, from 0, that were queued and whose token rows lie below a row."""


class Point(NamedTuple):
    """A commit to be made: its examples, once `token_rows` rows lie in finished shards."""

    n_example: int
    token_rows: int


class CommitPoints:
    """The commits of one sitting, in order."""

    def __init__(self, writer: Queued, shard_rows: int, *, token_rows: bool) -> None:
        """Go on behind the last numbered commit; `token_rows`: whether tokens are stored."""
        self._writer = writer
        self._shard_rows = shard_rows
        self._has_token_rows = token_rows
        self._waiting: deque[Point] = deque()
        self._last = writer.n_example
        self._token_rows = 0
        self._example_rows = writer.rows["example"]
        self._last_example_rows = self._example_rows

    def look(self, group: Group) -> None:
        """Set a point behind a group of which everything is queued, if one is due there."""
        for one in group.placed:
            self._token_rows = max(self._token_rows, one.stop_row)
            self._example_rows = max(self._example_rows, one.example_row + 1)
        point = self._point()
        if point.n_example > self._last:
            self._waiting.append(point)
            self._last = point.n_example
            self._last_example_rows = self._example_rows

    def _point(self) -> Point:
        """Examples in full shards; without token rows all, if enough came since the last one."""
        if self._has_token_rows:
            sealed = self._token_rows // self._shard_rows * self._shard_rows
            return Point(self._writer.n_within(sealed) if sealed else self._last, sealed)
        steps = self._example_rows // EXAMPLE_ROWS - self._last_example_rows // EXAMPLE_ROWS
        return Point(self._writer.n_within() if steps else self._last, 0)

    def take(self) -> Point | None:
        """Remove and return the next point, if its rows are in finished shards."""
        if not self._waiting:
            return None
        due = self._waiting[0].token_rows
        if due and self._writer.sealed_rows("token") < due:
            return None
        return self._waiting.popleft()
