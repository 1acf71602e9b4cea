"""One sitting with a store: its writer opened, a session run, an interruption told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from residuum.capture.plan import Mark, Planner
from residuum.capture.session import Session, Start
from residuum.capture.sink import RowSink, fetch_of
from residuum.capture.stored import Stored
from residuum.progress import reporter
from residuum.store import StoreWriter
from residuum.store.show import count

if TYPE_CHECKING:
    from collections.abc import Callable

    from residuum.capture.job import Job
    from residuum.capture.session import Runs
    from residuum.store.s3_path import StorePath


NOTHING = Mark(0, 0, 0)


def planner(
    job: Job, behind: Mark = NOTHING, known: dict[bytes, tuple[int, int]] | None = None
) -> Planner:
    """What places and batches a job's examples, behind others."""
    return Planner(
        job.settings.batch_tokens,
        behind=behind,
        known=known,
        marked=job.settings.positions.column is not None,
    )


def sit(
    job: Job,
    resume: dict[str, Any],
    start: Start,
    *,
    tracer: Runs | None,
    behind: Mark = NOTHING,
    known: dict[bytes, tuple[int, int]] | None = None,
    last: bool = True,
    before_end: Callable[[], None] | None = None,
    title: str = "capture",
    show: bool | None,
) -> None:
    """Run the model over the job's examples and write what is not on disk yet.

    Args:
        job: the capture.
        resume: what the commits keep for whoever goes on.
        start: where the sitting starts.
        tracer: what runs; None to write tables and targets alone.
        behind: the examples and rows that the job's examples come behind.
        known: where examples before those are, see `Planner`.
        last: whether the store is complete then.
        before_end: called before the commit that ends the sitting.
        title: of the progress bar.
        show: whether to show a progress bar.

    Raises:
        KeyboardInterrupt: after Ctrl-C, with the store at a commit that holds what was complete.
    """
    fetch = fetch_of(job.device)
    # half of the budget is for rows on their way from a device, where there is one
    memory_bytes = job.settings.memory_bytes // (1 if fetch is None else 2)
    key_width = Stored.read(job.path).key_width
    with (
        StoreWriter.open(job.path, memory_bytes=memory_bytes) as writer,
        reporter(title, show=show) as bar,
    ):
        growing = writer.growing
        n_example = None if job.survey is None else behind.n_example + job.survey.n_example
        bar.start(n_example, start.n_example)
        session = Session(
            tracer=tracer,
            writer=writer,
            sink=RowSink(
                writer,
                job.dtypes,
                job.n_key if key_width is None else key_width,
                stored_keys=job.settings.keys == "stored",
                fetch=fetch,
                in_flight=job.settings.memory_bytes // 2,
            ),
            planner=planner(job, behind, known),
            layout=job.layout,
            start=replace(start, n_example=writer.n_example),
            resume=resume,
            reporter=bar,
            shard_rows=job.settings.shard_rows,
            prepare_images=job.prepare_images,
            allow_nonfinite=job.settings.allow_nonfinite,
            targets=not growing,
            last=last,
            before_end=before_end,
        )
        outcome = session.run(job.source)
    if outcome.interrupted:
        holds = "has the new sites of" if growing else "holds"
        message = (
            f"Interrupted: {job.path} {holds} {count(outcome.n_example, 'example')}. "
            "Go on with --resume."
        )
        raise KeyboardInterrupt(message)


def note_resume(error: Exception, path: StorePath) -> None:
    """Add to an error what the store is left with."""
    n_example = Stored.read(path).committed.n_example
    error.add_note(
        f"{path} is left at its last commit with {count(n_example, 'example')}; --resume goes on."
    )
