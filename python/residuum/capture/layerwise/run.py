"""The course of a layerwise capture: rows first, then stage after stage.

The rows come first, with their tables and targets: after that commit the store has all examples and
no site. Each stage that stores something is a growth of that store (`StoreWriter.grow`), by the
stage's sites and its layer; the last one completes it. A stage that nothing is kept of only hands
the stream on.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residuum.capture import grow as growing
from residuum.capture import provenance
from residuum.capture.create import create, discard
from residuum.capture.layerwise.draft import Draft
from residuum.capture.layerwise.stage_pass import StageTracer
from residuum.capture.layerwise.stages import Stage, stages
from residuum.capture.layerwise.streams import Crossing, Streams
from residuum.capture.plan import Mark
from residuum.capture.session import Start, collate
from residuum.capture.sit import note_resume, planner, sit
from residuum.capture.stored import Stored
from residuum.errors import CaptureError, InputError
from residuum.store import StoreWriter

if TYPE_CHECKING:
    from residuum.capture.job import Job
    from residuum.capture.layerwise.shell import Shell
    from residuum.capture.wanted import Wanted

Json = dict[str, Any]


def start(job: Job, *, show: bool | None) -> None:
    """Make the store and fill it; leave nothing if it fails before a block is through.

    Raises:
        InputError: inputs that can be walked only once.
    """
    _check_inputs(job)
    create(job, empty=True)
    try:
        _rows(job, Start(), show=show)
        _Course(job, show=show).run()
    except Exception as error:
        if Stored.read(job.path).there or _has_begun(job):
            note_resume(error, job.path)
        else:
            discard(job.path)
        raise


def grow(job: Job, stored: Stored, *, show: bool | None) -> None:
    """Add the job's sites and layers to a finished store.

    Raises:
        InputError: inputs that are not those of the store, or a site whose rows it does not count.
    """
    _check_inputs(job)
    growing.check(job, stored)
    entries = provenance.grown(stored.grown, job.wanted.record(), job.facts)
    record = {**stored.record(stored.segments), "grown": entries}
    course = _Course(job, show=show)
    first = next(stage for stage in course.stages if stage.wanted)
    course.begin(first.wanted, record)
    before = stored.there
    try:
        course.run()
    except Exception as error:
        if Stored.read(job.path).there == before and not _has_begun(job):
            with StoreWriter.open(job.path) as writer:
                writer.abandon(stored.store.resume)
        else:
            note_resume(error, job.path)
        raise


def go_on(job: Job, stored: Stored, *, show: bool | None) -> None:
    """Go on with a capture or growth that was stopped.

    Raises:
        InputError: inputs that are not those that it was begun with.
    """
    _check_inputs(job)
    try:
        if stored.growing or stored.there:
            growing.check_inputs(job, stored)
        else:
            hashes = stored.content_hashes(0)
            rows = stored.store.physical_rows
            begun = Start(
                n_example=stored.committed.n_example,
                token_rows=rows["token"],
                example_rows=rows["example"],
                content_hashes=hashes,
            )
            _rows(job, begun, show=show)
        _Course(job, show=show).run()
    except Exception as error:
        note_resume(error, job.path)
        raise


def _has_begun(job: Job) -> bool:
    """Whether there is more to go on with than whole sites: rows of one, or what left a block."""
    return growing.n_done(Stored.read(job.path)) > 0 or Streams(Path(job.path)).any_block()


def _check_inputs(job: Job) -> None:
    if job.survey is None:
        message = (
            "the inputs are a stream, which can be walked only once, and the schedule layerwise "
            "walks them once for each layer: save them to a file."
        )
        raise InputError(message)


def _rows(job: Job, begun: Start, *, show: bool | None) -> None:
    """Commit tables and targets of all examples."""
    segments = [provenance.segment(job.inputs, Mark(0, 0, 0))]
    sit(job, {"segments": segments}, begun, tracer=None, last=False, show=show)


class _Course:
    """All stages of one capture, from where the last sitting got to."""

    def __init__(self, job: Job, *, show: bool | None) -> None:
        if job.loaded.shell is None:
            message = "a model that is loaded as a whole has no stages"
            raise CaptureError(message)
        self.job = job
        self.shell: Shell = job.loaded.shell
        self.adapter = job.loaded.adapter
        self.stages = stages(self.shell, self.adapter, job.wanted)
        # A folder: what is in a bucket was refused before the model was loaded.
        self.folder = Path(job.path)
        self.streams = Streams(self.folder)
        self.show = show

    def begin(self, wanted: Wanted, record: Json) -> None:
        """Commit that these sites, with these layers, are being added."""
        stored = Stored.read(self.job.path)
        settings = self.job.settings
        StoreWriter.grow(
            self.job.path,
            arrays=self.job.arrays(stored.key_width, wanted),
            resume=record,
            shard_rows=settings.shard_rows,
            chunk_rows=settings.chunk_rows,
            codec=settings.codec,
            memory_bytes=settings.memory_bytes,
        ).close()

    def run(self) -> None:
        """Run what is left of the stages."""
        there = Stored.read(self.job.path).there
        left = [stage.number for stage in self.stages if stage.wanted.minus(there)]
        # Of stage n, stream n - 1 is what it needs to begin with.
        latest = self.streams.latest(left[0] - 1) if left[0] else None
        first = 0 if latest is None else latest + 1
        if first == 0 and self.streams.folder.exists():
            shutil.rmtree(self.streams.folder)
        draft = Draft(self.folder, self.shell, self.adapter)
        for stage in self.stages[:first]:
            draft.skip(stage.weights)
        for stage in self.stages[first:]:
            self._run_stage(stage, draft, last=stage is self.stages[-1])

    def _run_stage(self, stage: Stage, draft: Draft, *, last: bool) -> None:
        """Load the stage's weights, take all batches through it, and commit."""
        try:
            self._load(stage, draft, last=last)
            crossing = Crossing(self.streams, stage.enters, None if last else stage.number)
            with crossing:
                self._store(stage, draft, crossing, last=last)
        finally:
            self.shell.empty()
        if stage.enters is not None:
            self.streams.remove(stage.enters)

    def _load(self, stage: Stage, draft: Draft, *, last: bool) -> None:
        """Put the stage's weights into the model; keep those that another stage needs too."""
        again = {
            id(weight)
            for other in self.stages
            if other.number > stage.number
            for weight in other.weights
        }
        self.shell.hollow(stage.passed)
        for weight in stage.weights:
            name = f"{self.shell.weights.index(weight)}.weight"
            kept = self.streams.folder / name
            if stage.number and kept.exists():
                value = self.shell.empty_like(weight)
                self.streams.load(name, value)
                value = value.to(self.shell.device)
            else:
                value = self.shell.read(weight)
                draft.fill(weight, value)
            if id(weight) in again:
                self.streams.save(name, value)
            self.shell.put(weight, value)
        if last:
            draft.publish()

    def _store(self, stage: Stage, draft: Draft, crossing: Crossing, *, last: bool) -> None:
        job, stored = self.job, Stored.read(self.job.path)
        missing = stage.wanted.minus(stored.there)
        tracer = StageTracer(job.tracer, self.shell, stage, crossing)

        def finish() -> None:
            if not last:
                draft.sync()
            crossing.finish()

        if not missing:
            # The lock keeps other writers away meanwhile.
            try:
                with StoreWriter.open(job.path):
                    self._pass_on(tracer)
                    finish()
            except KeyboardInterrupt as stop:
                message = (
                    f"Interrupted: {job.path} keeps what came before {stage.name}. Go on with "
                    "--resume."
                )
                raise KeyboardInterrupt(message) from stop
            return
        if not stored.growing:
            self.begin(missing, stored.store.resume)
            stored = Stored.read(job.path)
        sit(
            job,
            stored.store.resume,
            Start(),
            tracer=tracer,
            before_end=finish,
            last=last,
            title=stage.name,
            show=self.show,
        )

    def _pass_on(self, tracer: StageTracer) -> None:
        """Take all batches through a stage of which nothing is stored."""
        job = self.job
        for group in planner(job).groups(job.source):
            for planned in group.batches:
                batch = job.layout.with_rows(planned)
                if batch:
                    tracer.run(collate(tracer, batch, job.prepare_images), _nowhere)


def _nowhere(*_delivered: object) -> None:
    """A sink for nothing."""
