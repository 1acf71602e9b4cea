"""`residuum.capture`: from a model and inputs to a finished store.

Everything that can be wrong with the inputs is found before a store is made; a new store is built
beside its final place and moved there with its first, empty commit, so that the folder always
opens. A capture that fails before it has committed an example leaves no folder behind; one that
fails later leaves the store at its last commit, to go on with `resume=True`.

    open_inputs, load_model ──▶ Job ──▶ new or open StoreWriter ──▶ Session.run ──▶ Store
"""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from residuum.capture import provenance
from residuum.capture.create import create, discard
from residuum.capture.inputs import open_inputs
from residuum.capture.job import Job
from residuum.capture.model import load_model
from residuum.capture.place import Place
from residuum.capture.plan import Mark, Planner
from residuum.capture.session import Session, Start
from residuum.capture.settings import BATCH_TOKENS, SHARD_ROWS, Settings
from residuum.capture.sink import RowSink, fetch_of
from residuum.capture.stored import Stored
from residuum.capture.tokenise import LengthRule
from residuum.errors import CaptureError, InputError
from residuum.progress import reporter
from residuum.store import Store, StoreWriter
from residuum.store.show import count

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from residuum.sites import Site


def capture(
    model: Any,  # noqa: ANN401 - a name, a folder, a loaded model, or (model, processor)
    inputs: object,
    out: str | os.PathLike[str],
    *,
    sites: Iterable[Site | str],
    layers: str | int | Iterable[int] | None = None,
    positions: str = "all",
    keys: str = "all",
    dtype: str | None = None,
    batch_tokens: int | None = None,
    device: str = "auto",
    schedule: str = "forward",
    resume: bool = False,
    append: bool = False,
    memory: str | int | None = None,
    text_column: str | None = None,
    truncate: bool = False,
    window: int | None = None,
    stride: int | None = None,
    model_dtype: str | None = None,
    shard_rows: int | None = None,
    chunk_rows: int | None = None,
    codec: str | None = None,
    allow_nonfinite: bool = False,
    progress: bool | None = None,
) -> Store:
    """Run a model once over some inputs and keep what it did.

    Args:
        model: a name on the Hugging Face hub, a folder, or a loaded transformers model together
            with its tokenizer or image processor: `(model, tokenizer)`.
        inputs: a path (txt with one input a line, jsonl, csv, parquet, a folder of images), a list
            of strings or images, a table, a `datasets` Dataset or IterableDataset.
        out: folder of the store.
        sites: what to keep, by the names of `residuum.sites.Site`.
        layers: of which blocks: numbers or text such as `"0:12"`; all by default.
        positions: `all`, `last`, `first` or `column:NAME`, a column of the inputs that holds a
            list of booleans or positions for each text.
        keys: what the key axis of `pattern` and `attn_scores` holds: `all` tokens of the example,
            or those that are `stored`, in order: key k is then the token of row `first_row + k`.
        dtype: `float32`, `float16` or `bfloat16`; what the model computes in by default.
        batch_tokens: padded tokens in a batch at most; 4096 by default.
        device: `auto` is the GPU if there is one. Loaded models stay where they are.
        schedule: `forward`.
        resume: go on with a capture that was interrupted; a finished one is left as it is.
        append: add the inputs to a finished store of the same model and settings.
        memory: what the writer may hold, in bytes or as `"4GB"`; 1 GB by default.
        text_column: column with the text or chat messages; `text`, else `messages` by default.
        truncate: cut off texts that are longer than the model's context.
        window: cut texts into examples of this many tokens, each with its source and offset.
        stride: how far windows are apart; by default as far as they are long.
        model_dtype: what the model computes in; its checkpoint's dtype by default.
        shard_rows: rows in a shard; 8192 by default.
        chunk_rows: rows in a chunk; chosen by size by default.
        codec: `none` or `zstd`.
        allow_nonfinite: keep NaN and infinite activations instead of failing.
        progress: show a progress bar; by default where stderr is a terminal.

    Raises:
        InputError: inputs or settings that cannot be captured; nothing was written.
        SiteError: a site or layer that the model does not have; nothing was written.
        ModelError: a model that cannot be loaded or has no adapter; nothing was written.
        CaptureError: activations that are not finite, or a store of something else in `out`.
        StoreError: the folder cannot be written, or the disk is full.
        KeyboardInterrupt: after Ctrl-C, with the store at a commit that holds what was complete.
    """
    place = Place.look(Path(out), resume=resume, append=append)
    stored = Stored.read(place.path) if place.existing else None
    recorded = {} if stored is None else stored.settings
    settings = Settings.checked(
        sites=sites,
        layers=layers,
        positions=positions,
        keys=keys,
        dtype=dtype,
        batch_tokens=_given(batch_tokens, recorded.get("batch_tokens"), BATCH_TOKENS),
        memory=memory,
        shard_rows=_given(shard_rows, recorded.get("shard_rows"), SHARD_ROWS),
        chunk_rows=chunk_rows,
        codec=codec or recorded.get("codec", "none"),
        schedule=schedule,
        allow_nonfinite=allow_nonfinite,
    )
    lengths = LengthRule(None, truncate, window, stride)
    opened = open_inputs(inputs, text_column=text_column)
    source, processor = model if isinstance(model, tuple) else (model, None)
    loaded = load_model(
        source,
        kind="image" if opened.kind == "image" else "text",
        device=device,
        dtype=model_dtype,
        processor=processor,
    )
    job = Job.prepare(place.path, settings, opened, loaded, lengths)
    if stored is not None:
        provenance.check_same(place.path, stored.store.attributes, job.loaded.facts, job.facts)
    try:
        if stored is None:
            _start(job, show=progress)
        elif resume:
            _resume(job, stored, show=progress)
        else:
            _append(job, stored, show=progress)
    except OSError as error:
        _note_full_disk(error, place.path)
        raise
    return Store(place.path)


def _given(asked: int | None, recorded: int | None, usual: int) -> int:
    """What was asked for, else what the store was made with, else the default."""
    return next(value for value in (asked, recorded, usual) if value is not None)


def _start(job: Job, *, show: bool | None) -> None:
    """Make the store and fill it; leave nothing if no example gets committed."""
    create(job)
    segments = [provenance.segment(job.inputs, Mark(0, 0, 0))]
    try:
        _sit(job, segments, Start(), {}, show=show)
    except Exception as error:
        if Stored.read(job.path).committed.n_example == 0:
            discard(job.path)
        else:
            _note_resume(error, job.path)
        raise


def _resume(job: Job, stored: Stored, *, show: bool | None) -> None:
    """Go on behind the last commit; nothing is left to do in a finished store."""
    segments = stored.segments or [provenance.segment(job.inputs, Mark(0, 0, 0))]
    provenance.check_same_inputs(job.path, segments[-1], job.inputs)
    if stored.complete:
        return
    first, physical = provenance.segment_start(segments[-1]), stored.store.physical_rows
    start = Start(
        first_example=first.n_example,
        n_example=stored.committed.n_example,
        token_rows=physical["token"],
        example_rows=physical["example"],
        content_hashes=stored.content_hashes(first.n_example),
    )
    try:
        _sit(job, segments, start, stored.known(before=first.n_example), show=show)
    except Exception as error:
        _note_resume(error, job.path)
        raise


def _append(job: Job, stored: Stored, *, show: bool | None) -> None:
    """Add examples behind those of a finished store."""
    if not stored.complete:
        message = f"{job.path} is not finished: go on with --resume and its own inputs first."
        raise CaptureError(message)
    segments = [*stored.segments, provenance.segment(job.inputs, stored.committed)]
    first, physical = stored.committed, stored.store.physical_rows
    start = Start(
        first_example=first.n_example,
        n_example=first.n_example,
        token_rows=physical["token"],
        example_rows=physical["example"],
    )
    width = stored.key_width
    if width is not None and job.n_key > width:
        message = (
            f"the longest of these inputs needs {job.n_key} keys, but the axis `key` of the "
            f"store's attention patterns is {width} long: capture these into a store of their own."
        )
        raise InputError(message)
    try:
        _sit(job, segments, start, stored.known(before=first.n_example), show=show)
    except Exception as error:
        if not Stored.read(job.path).complete:
            _note_resume(error, job.path)
        raise


def _sit(
    job: Job,
    segments: list[dict[str, Any]],
    start: Start,
    known: dict[bytes, tuple[int, int]],
    *,
    show: bool | None,
) -> None:
    """Run the model over the last segment's examples and write what is not on disk yet."""
    first = provenance.segment_start(segments[-1])
    planner = Planner(
        job.settings.batch_tokens,
        behind=first,
        known=known,
        marked=job.settings.positions.column is not None,
    )
    fetch = fetch_of(job.device)
    # half of the budget is for rows on their way from a device, where there is one
    memory_bytes = job.settings.memory_bytes // (1 if fetch is None else 2)
    with (
        StoreWriter.open(job.path, memory_bytes=memory_bytes) as writer,
        reporter("capture", show=show) as bar,
    ):
        n_example = None if job.survey is None else first.n_example + job.survey.n_example
        bar.start(n_example, start.n_example)
        session = Session(
            tracer=job.tracer,
            writer=writer,
            sink=RowSink(
                writer,
                job.dtypes,
                Stored.read(job.path).key_width,
                stored_keys=job.settings.keys == "stored",
                fetch=fetch,
                in_flight=job.settings.memory_bytes // 2,
            ),
            planner=planner,
            layout=job.layout,
            start=replace(start, n_example=writer.n_example),
            resume={"segments": segments},
            reporter=bar,
            shard_rows=job.settings.shard_rows,
            prepare_images=None if job.vocabulary is not None else job.images,
            allow_nonfinite=job.settings.allow_nonfinite,
        )
        outcome = session.run(job.source)
    if outcome.interrupted:
        message = (
            f"Interrupted: {job.path} holds {count(outcome.n_example, 'example')}. "
            "Go on with --resume."
        )
        raise KeyboardInterrupt(message)


def _note_resume(error: Exception, path: Path) -> None:
    n_example = Stored.read(path).committed.n_example
    error.add_note(
        f"{path} is left at its last commit with {count(n_example, 'example')}; --resume goes on."
    )


def _note_full_disk(error: OSError, path: Path) -> None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        smaller = "" if path.exists() else ", or capture fewer sites or layers or --dtype float16"
        error.add_note(f"The file system of {path} is full: free some space{smaller}.")
