"""One sitting of a capture: batches through the model, rows to the writer, commits on the way.

    ExampleSource ─▶ Planner ─▶ batch ─▶ Tracer ─▶ RowSink ─▶ StoreWriter
                        └──▶ TableLayout ─▶ tables ───────────────▶ commit

Commits are made where `CommitPoints` sets them; what was captured beyond the last one is captured
again after a crash. Ctrl-C saves it in a commit without a number, from which `--resume` goes on.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from residuum.capture import images
from residuum.capture.commit_points import CommitPoints, Queued
from residuum.capture.sink import RowSink, RowWriter
from residuum.capture.tokenise import TokenisedText
from residuum.errors import CaptureError
from residuum.sites import RowSpace, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import FrameType

    import pyarrow as pa
    import torch

    from residuum.capture.plan import Example, Group, Placed, Planner
    from residuum.capture.tables import TableLayout
    from residuum.capture.tracer import Batch, Sink
    from residuum.progress import Reporter

Json = dict[str, Any]


class CaptureWriter(RowWriter, Queued, Protocol):
    """What a sitting needs of a store's writer; see `residuum.store.StoreWriter`."""

    @property
    def n_shown(self) -> int:
        """Examples that readers see."""

    def add_examples(self, table: pa.Table) -> None:
        """Queue rows of the table of examples."""

    def add_tokens(self, table: pa.Table) -> None:
        """Queue rows of the table of tokens."""

    def flush(self) -> None:
        """Wait until everything written is in its file."""

    def nonfinite(self) -> list[tuple[str, int | None, int, int]]:
        """(site, layer, NaN, infinite) counts of what was written, where there are any."""

    def commit(
        self,
        *,
        n_example: int | None = None,
        complete: bool = False,
        publish_tail: bool = False,
        interrupted: bool = False,
        resume: Json,
    ) -> int:
        """Make queued examples durable and visible: as many as said, or all of them."""


class Runs(Protocol):
    """What takes batches through a model, or a stage of it; see `Tracer`."""

    def collate(self, examples: Sequence[Any]) -> Batch:
        """Make a batch of examples."""

    def run(self, batch: Batch, sink: Sink) -> None:
        """Run a batch; call `sink` with what it delivers."""


@dataclass(frozen=True)
class Start:
    """Where a sitting starts.

    Attributes:
        first_example: number of the first example that the inputs give.
        n_example: examples in the last numbered commit.
        token_rows: rows of the token space in published shards, which need not be computed again.
        example_rows: likewise of the example space.
        content_hashes: those of the committed examples from `first_example` on, in order.
    """

    first_example: int = 0
    n_example: int = 0
    token_rows: int = 0
    example_rows: int = 0
    content_hashes: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What a sitting did; `interrupted` when it was asked to stop before the end."""

    n_example: int
    n_forward: int
    interrupted: bool


@dataclass
class Session:
    """A sitting; `run` may be called once.

    Where sites are added to rows that are there, the writer's examples and rows count from 0, and
    `targets` is false: the target of each row is there too. Without a tracer only tables and
    targets are written. The sitting completes the store if it is the `last`; `before_end` is called
    once all rows came, before the commit that says so.
    """

    tracer: Runs | None
    writer: CaptureWriter
    sink: RowSink
    planner: Planner
    layout: TableLayout
    start: Start
    resume: Json
    reporter: Reporter
    shard_rows: int
    prepare_images: Callable[[list[Any]], list[torch.Tensor]] | None = None
    allow_nonfinite: bool = False
    targets: bool = True
    last: bool = True
    before_end: Callable[[], None] | None = None
    n_forward: int = 0
    _seen: int = 0
    _stop: bool = False

    def run(self, examples: Iterable[Example]) -> Outcome:
        """Capture the examples behind those that are committed.

        Raises:
            CaptureError: NaN or infinite activations, or other inputs than at the start.
        """
        points = CommitPoints(self.writer, self.shard_rows, token_rows=self.layout.token_rows)
        with self._stop_on_interrupt():
            for group in self.planner.groups(examples):
                if self._capture(group):
                    points.look(group)
                self._seen = group.placed[-1].example + 1
                if self._stop:
                    self._save(points)
                    return Outcome(self.writer.n_shown, self.n_forward, interrupted=True)
                self._commit_due(points)
        if self._seen < self.start.n_example:
            message = "the inputs end before what was captured of them: resume with the same ones."
            raise CaptureError(message)
        self._commit_all(points)
        if self.before_end is not None:
            self.before_end()
        self.writer.commit(complete=self.last, publish_tail=True, resume=self.resume)
        return Outcome(self.writer.n_example, self.n_forward, interrupted=False)

    def _capture(self, group: Group) -> bool:
        """Run a group and queue its table rows; false if it was to stop before the end."""
        self._check_unchanged(group.placed)
        new = [p for p in group.placed if p.example >= self.start.n_example]
        for planned in group.batches:
            batch = self.layout.with_rows(planned)
            if self._on_disk(batch):
                continue
            self._forward(batch)
            if self._stop:
                return False
        self.sink.flush()
        if new:
            self.writer.add_examples(self.layout.examples(new))
            self.writer.add_tokens(self.layout.tokens(new))
            self.reporter.advance(done=sum(p.repeat for p in new), rows=0, n_bytes=0)
        return True

    def _forward(self, placed: list[Placed]) -> None:
        sink = self.sink.batch(placed)
        if self.tracer is not None:
            self.tracer.run(collate(self.tracer, placed, self.prepare_images), sink)
            self.n_forward += 1
        if self.targets and self.layout.vocabulary is not None and self.layout.token_rows:
            self.sink.targets(placed)
        self.reporter.advance(
            done=len(placed),
            rows=sum(len(p.item.positions) for p in placed),
            n_bytes=sink.n_bytes,
        )

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
            index = one.example - self.start.first_example
            if index >= len(self.start.content_hashes):
                return
            if self.start.content_hashes[index] != one.item.content_hash.hex():
                message = (
                    f"row {one.item.record} of the inputs is not what it was when the capture was "
                    "started: resume with the same inputs, or capture into another folder."
                )
                raise CaptureError(message)

    def _commit_due(self, points: CommitPoints) -> None:
        """Make the commits whose rows are in finished shards."""
        while (point := points.take()) is not None:
            self._check_finite()
            self.writer.commit(n_example=point.n_example, resume=self.resume)

    def _commit_all(self, points: CommitPoints) -> None:
        """Make every commit that is waiting."""
        self.writer.flush()
        self._check_finite()
        self._commit_due(points)

    def _save(self, points: CommitPoints) -> None:
        """Commit what came before Ctrl-C, and the inputs, unless readers see more already."""
        self._commit_all(points)
        if self.writer.n_within() >= self.writer.n_shown:
            self.writer.commit(interrupted=True, resume=self.resume)

    def _check_finite(self) -> None:
        found = [] if self.allow_nonfinite else self.writer.nonfinite()
        if not found:
            return
        places = [
            f"{site}{'' if layer is None else f' layer {layer}'} ({nan} NaN, {infinite} infinite)"
            for site, layer, nan, infinite in found
        ]
        listed = ", ".join(places[:4]) + (f" and {len(places) - 4} more" if len(places) > 4 else "")
        message = (
            f"the activations are not all finite: {listed}. A wider --dtype helps against "
            "overflow; --allow-nonfinite keeps them as they are, and then residuum sql finds the "
            f"examples: `{_nonfinite_query(Site(found[0][0]))}`."
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


def collate(
    tracer: Runs,
    placed: Sequence[Placed],
    prepare_images: Callable[[list[Any]], list[torch.Tensor]] | None,
) -> Batch:
    """Make a batch of examples; `prepare_images` is None for text."""
    if prepare_images is None:
        texts = [p.item.content for p in placed]
        return tracer.collate([t.ids for t in texts if isinstance(t, TokenisedText)])
    pictures = [
        images.decode(p.item.content, p.item.record)
        for p in placed
        if not isinstance(p.item.content, TokenisedText)
    ]
    return tracer.collate(prepare_images(pictures))


def _nonfinite_query(site: Site) -> str:
    """SQL for the examples in which a site is not finite."""
    pooled = site.row_space is RowSpace.EXAMPLE
    join = "examples ON example_row = row" if pooled else "tokens USING (row)"
    return (
        f"SELECT DISTINCT example FROM activations('{site}') JOIN {join} WHERE NOT isfinite(norm)"
    )
