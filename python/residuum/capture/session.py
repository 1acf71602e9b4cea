"""One sitting of a capture: batches through the model, rows to the writer, commits on the way.

    ExampleSource ─▶ Planner ─▶ batch ─▶ Tracer ─▶ RowSink ─▶ StoreWriter
                        └──▶ tables ─▶ PendingTables ──────────▶ commit

A commit is made behind a group of batches when shards were sealed since the last one; it shows the
examples that lie wholly in sealed shards. What was captured beyond is captured again after a crash.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from residuum.capture import images
from residuum.capture.ledger import Ledger, Mark
from residuum.capture.sink import BatchSink, RowSink, RowWriter
from residuum.capture.tables import PendingTables, TableLayout
from residuum.capture.tokenise import TokenisedText
from residuum.errors import CaptureError
from residuum.sites import RowSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import FrameType

    import pyarrow as pa
    import torch

    from residuum.capture.plan import Example, Group, Placed, Planner
    from residuum.capture.progress import Reporter
    from residuum.capture.tracer import Batch, Tracer

Json = dict[str, Any]


class CaptureWriter(RowWriter, Protocol):
    """What a sitting needs of a store's writer."""

    def sealed_rows(self, space: RowSpace) -> int:
        """Rows up to which every array of a row space is in shards on disk."""

    def nonfinite(self) -> list[tuple[str, int | None, int, int]]:
        """(array path, layer, NaN, infinite) counts of what was written, where there are any."""

    def commit(
        self,
        *,
        token_rows: int,
        example_rows: int,
        n_example: int,
        tables: dict[str, pa.Table],
        complete: bool,
        publish_tail: bool,
        resume: Json,
    ) -> None:
        """Make what was written durable and visible up to the given rows."""


@dataclass(frozen=True)
class Start:
    """Where a sitting starts: what is committed, and what published shards hold (no less)."""

    committed: Mark
    token_rows: int
    example_rows: int
    content_hashes: Sequence[str] = ()
    """Content hashes of the committed examples of the segment that goes on, in order."""


@dataclass(frozen=True)
class Outcome:
    """What a sitting did; ``interrupted`` when it was asked to stop before the end."""

    n_example: int
    n_forward: int
    interrupted: bool


@dataclass
class Session:
    """A sitting; ``run`` may be called once."""

    tracer: Tracer
    writer: CaptureWriter
    sink: RowSink
    planner: Planner
    layout: TableLayout
    start: Start
    resume: Json
    reporter: Reporter
    prepare_images: Callable[[list[Any]], list[torch.Tensor]] | None = None
    allow_nonfinite: bool = False
    first_example: int = 0
    """Number of the first example that the source gives."""

    n_forward: int = 0
    _pending: PendingTables = field(default_factory=PendingTables)
    _seen: int = 0
    _stop: bool = False

    def run(self, examples: Iterable[Example]) -> Outcome:
        """Capture the examples behind those that are committed.

        Raises:
            CaptureError: NaN or infinite activations, or other inputs than at the start.
        """
        self._ledger = Ledger(self.start.committed)
        with self._stop_on_interrupt():
            for group in self.planner.groups(examples):
                self._capture(group)
                self._seen = group.placed[-1].example + 1
                if self._stop:
                    return self._interrupted()
                self._commit_sealed()
        if self._seen < self.start.committed.n_example:
            message = (
                "the inputs end before what was captured of them: resume with the same inputs."
            )
            raise CaptureError(message)
        self._commit(self._ledger.end, complete=True, publish_tail=True)
        return Outcome(self._ledger.end.n_example, self.n_forward, interrupted=False)

    def _capture(self, group: Group) -> None:
        self._check_unchanged(group.placed)
        new = [p for p in group.placed if p.example >= self.start.committed.n_example]
        last: BatchSink | None = None
        for planned in group.batches:
            batch = [p for p in planned if self.layout.example_rows or len(p.item.positions)]
            if self._on_disk(batch):
                continue
            sink = self._forward(batch)
            if last is not None:
                last.drain()
            last = sink
            if self._stop:
                last.drain()
                return
        if last is not None:
            last.drain()
        if new:
            self._pending.add(self.layout.examples(new), self.layout.tokens(new))
            self._ledger.add(new)
            self.reporter.advance(examples=sum(p.repeat for p in new), rows=0, n_bytes=0)

    def _forward(self, placed: list[Placed]) -> BatchSink:
        sink = self.sink.batch(placed)
        self.tracer.run(self._collate(placed), sink)
        sink.launched()
        if self.layout.vocabulary is not None and self.layout.token_rows:
            self.sink.targets(placed)
        self.n_forward += 1
        self.reporter.advance(
            examples=len(placed),
            rows=sum(len(p.item.positions) for p in placed),
            n_bytes=sink.n_bytes,
        )
        return sink

    def _collate(self, placed: list[Placed]) -> Batch:
        if self.prepare_images is None:
            texts = [p.item.content for p in placed]
            return self.tracer.collate([t.ids for t in texts if isinstance(t, TokenisedText)])
        pictures = [
            images.decode(p.item.content, p.item.record)
            for p in placed
            if not isinstance(p.item.content, TokenisedText)
        ]
        return self.tracer.collate(self.prepare_images(pictures))

    def _on_disk(self, batch: list[Placed]) -> bool:
        """Whether published shards hold all rows of a batch (or it has none): it need not run."""
        tokens = not self.layout.token_rows or all(
            p.stop_row <= self.start.token_rows for p in batch
        )
        pooled = not self.layout.example_rows or all(
            p.example_row < self.start.example_rows for p in batch
        )
        return tokens and pooled

    def _check_unchanged(self, placed: Iterable[Placed]) -> None:
        for one in placed:
            index = one.example - self.first_example
            if index >= len(self.start.content_hashes):
                return
            if self.start.content_hashes[index] != one.item.content_hash.hex():
                message = (
                    f"row {one.item.record} of the inputs is not what it was when the capture was "
                    "started: resume with the same inputs, or capture into another folder."
                )
                raise CaptureError(message)

    def _commit_sealed(self) -> None:
        sealed = self._ledger.within(
            self.writer.sealed_rows(RowSpace.TOKEN) if self.layout.token_rows else None,
            self.writer.sealed_rows(RowSpace.EXAMPLE) if self.layout.example_rows else None,
        )
        if sealed.n_example > self._ledger.committed.n_example:
            self._commit(sealed, complete=False, publish_tail=False)

    def _commit(self, mark: Mark, *, complete: bool, publish_tail: bool) -> None:
        self._check_finite()
        tables = self._pending.take(mark.n_example)
        self.writer.commit(
            token_rows=mark.token_rows,
            example_rows=mark.example_rows,
            n_example=mark.n_example,
            tables={} if tables is None else {"examples": tables[0], "tokens": tables[1]},
            complete=complete,
            publish_tail=publish_tail,
            resume=self.resume,
        )
        self._ledger.commit(mark)

    def _interrupted(self) -> Outcome:
        if self._ledger.end.n_example > self._ledger.committed.n_example:
            self._commit(self._ledger.end, complete=False, publish_tail=True)
        return Outcome(self._ledger.committed.n_example, self.n_forward, interrupted=True)

    def _check_finite(self) -> None:
        found = [] if self.allow_nonfinite else self.writer.nonfinite()
        if not found:
            return
        places = [
            f"{path.removeprefix('activations/')}{'' if layer is None else f' layer {layer}'} "
            f"({nan} NaN, {infinite} infinite)"
            for path, layer, nan, infinite in found
        ]
        listed = ", ".join(places[:8]) + (f" and {len(places) - 8} more" if len(places) > 8 else "")
        message = (
            f"the activations are not all finite: {listed}. A wider --dtype helps against "
            "overflow; "
            "--allow-nonfinite keeps them as they are."
        )
        raise CaptureError(message)

    @contextmanager
    def _stop_on_interrupt(self) -> Iterator[None]:
        """Let the first Ctrl-C finish the batch at hand; the second one interrupts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def stop(_signal: int, _frame: FrameType | None) -> None:
            self._stop = True
            signal.signal(signal.SIGINT, before)

        signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
