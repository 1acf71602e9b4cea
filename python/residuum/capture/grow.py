"""Adding sites or layers to a store, for the examples that are there.

    check_inputs ──▶ StoreWriter.grow ──▶ sit ──▶ the commit in which readers see them

The model runs over the same inputs again, in the same batches, and delivers what is missing; the
pass ends at the last layer that is needed. Rows, tables and targets stay as they are.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

from residuum.capture import provenance
from residuum.capture.plan import repeat_key
from residuum.capture.session import Start
from residuum.capture.sit import note_resume, planner, sit
from residuum.capture.stored import Stored
from residuum.errors import InputError
from residuum.sites import RowSpace
from residuum.store import StoreWriter
from residuum.store.show import count

if TYPE_CHECKING:
    from collections.abc import Iterator

    from residuum.capture.job import Job
    from residuum.capture.plan import Placed

Json = dict[str, Any]


def grow(job: Job, stored: Stored, *, show: bool | None) -> None:
    """Add the job's sites and layers to a finished store.

    Raises:
        InputError: inputs that are not those of the store, or a site whose rows it does not count.
    """
    check(job, stored)
    entries = provenance.grown(stored.grown, job.wanted.record(), job.facts)
    record = {**stored.record(stored.segments), "grown": entries}
    StoreWriter.grow(
        job.path,
        arrays=job.arrays(stored.key_width),
        resume=record,
        shard_rows=job.settings.shard_rows,
        chunk_rows=job.settings.chunk_rows,
        codec=job.settings.codec,
        memory_bytes=job.settings.memory_bytes,
    ).close()
    go_on(job, Stored.read(job.path), show=show)


def go_on(job: Job, stored: Stored, *, show: bool | None) -> None:
    """Go on with what a store is being added, behind its last commit.

    Raises:
        InputError: inputs that are not those of the store.
    """
    growth = stored.store.growth or {}
    rows = growth["physical_rows"]
    start = Start(token_rows=rows["token"], example_rows=rows["example"])
    record = stored.store.resume
    try:
        sit(job, record, start, tracer=job.tracer, show=show)
    except Exception as error:
        if n_done(Stored.read(job.path)) == 0:
            with StoreWriter.open(job.path) as writer:
                writer.abandon({**record, "grown": stored.grown[:-1]})
        else:
            note_resume(error, job.path)
        raise


def n_done(stored: Stored) -> int:
    """Examples of which a store has what it is being added."""
    return int((stored.store.growth or {"n_example": 0})["n_example"])


def check(job: Job, stored: Stored) -> None:
    """Check that what is asked for can be added to the rows of a store.

    Raises:
        InputError: inputs that are not those of the store, or a site whose rows it does not count.
    """
    spaces = {stored.store[site].row_space for site in stored.store.sites}
    for site in job.settings.sites:
        if site.row_space not in spaces:
            message = (
                f"{job.path} has no rows for `{site}`: its sites have one for each "
                f"{' and '.join(sorted(spaces))}, `{site}` for each {site.row_space}. Capture "
                "it into a store of its own"
                + (
                    ", or these sites again together with pooled."
                    if site.row_space is RowSpace.EXAMPLE
                    else "."
                )
            )
            raise InputError(message)
    check_inputs(job, stored)


def check_inputs(job: Job, stored: Stored) -> None:
    """Check that the job's inputs are those of a store.

    Raises:
        InputError: they are not.
    """
    problem = unlike(job, stored)
    if problem is not None:
        message = (
            f"{job.path} gets new sites or layers for all of its "
            f"{count(stored.committed.n_example, 'example')} at once, so these inputs must be its "
            f"own, in their order: {problem}. Give those, or add new examples with --append and "
            "without --site and --layers first."
        )
        raise InputError(message)


def unlike(job: Job, stored: Stored) -> str | None:
    """How the job's inputs differ from those that a store was captured from; None if they do not.

    A stream can be walked only once, so that it is never the same.
    """
    if job.survey is None:
        return "they are a stream, which cannot be compared before it is read; save it to a file"
    n_example = stored.committed.n_example
    if job.survey.n_example != n_example:
        return f"they make {count(job.survey.n_example, 'example')}"
    hashes = stored.content_hashes(0)
    known = stored.known(before=n_example)
    for one, there in zip(_placed(job), hashes, strict=True):
        key = repeat_key(one.item.content_hash, one.item.positions if stored.marked else None)
        same = one.item.content_hash.hex() == there
        if not same or known.get(key) != _place(one, known.get(key)):
            return f"row {one.item.record} is another input, or keeps other tokens"
    return None


def _placed(job: Job) -> Iterator[Placed]:
    return chain.from_iterable(group.placed for group in planner(job).groups(job.source))


def _place(one: Placed, there: tuple[int, int] | None) -> tuple[int, int]:
    """Where an example's rows are; a row space that the store does not count is left as it is."""
    first_row, example_row = there or (-1, -1)
    return (one.first_row if first_row else 0, one.example_row if example_row else 0)
