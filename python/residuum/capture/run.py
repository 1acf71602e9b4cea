"""`residuum.capture`: from a model and inputs to a finished store.

Everything that can be wrong with the inputs is found before a store is made; a new store is built
beside its final place and moved there with its first, empty commit, so that the folder always
opens. A capture that fails before it has committed an example leaves no folder behind; one that
fails later leaves the store at its last commit, to go on with `resume=True`.

    open_inputs, load_model ──▶ Job ──▶ new or open StoreWriter ──▶ sit ──▶ Store
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from residuum.capture import grow, layerwise, provenance
from residuum.capture.create import create, discard
from residuum.capture.inputs import open_inputs
from residuum.capture.job import Job
from residuum.capture.model import load_model
from residuum.capture.place import Place
from residuum.capture.plan import Mark
from residuum.capture.session import Start
from residuum.capture.settings import BATCH_TOKENS, SHARD_ROWS, Settings
from residuum.capture.sit import note_resume, sit
from residuum.capture.stored import Stored
from residuum.capture.tokenise import LengthRule
from residuum.capture.wanted import Wanted
from residuum.errors import CaptureError, InputError
from residuum.store import Store
from residuum.store.s3_path import S3Path, StorePath, store_path

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

    from residuum.sites import Site


def capture(
    model: Any,  # noqa: ANN401 - a name, a folder, a loaded model, or (model, processor)
    inputs: object,
    out: str | os.PathLike[str],
    *,
    sites: Iterable[Site | str] | None = None,
    layers: str | int | Iterable[int] | None = None,
    positions: str = "all",
    keys: str = "all",
    dtype: str | None = None,
    batch_tokens: int | None = None,
    device: str = "auto",
    schedule: str | None = None,
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
        sites: what to keep, by the names of `residuum.sites.Site`. May be left out, with `layers`,
            where `resume` or `append` finds a store: what that has, or is being added; with
            `append` and `layers` alone, the sites that are there get these layers.
        layers: of which blocks: numbers or text such as `"0:12"`; all by default.
        positions: `all`, `last`, `first` or `column:NAME`, a column of the inputs that holds a
            list of booleans or positions for each text.
        keys: what the key axis of `pattern` and `attn_scores` holds: `all` tokens of the example,
            or those that are `stored`, in order: key k is then the token of row `first_row + k`.
        dtype: `float32`, `float16` or `bfloat16`; what the model computes in by default.
        batch_tokens: padded tokens in a batch at most; 4096 by default.
        device: `auto` is the GPU if there is one. Loaded models stay where they are.
        schedule: `forward`, the default, or `layerwise`: one block's weights in memory at a time,
            all inputs through it, then the next one. Where a capture is resumed, its own.
        resume: go on with a capture that was interrupted; a finished one is left as it is.
        append: add to a finished store of the same model and settings: the inputs, or, where
            `sites` or `layers` name what it lacks, that, for all examples that are there.
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
    place = Place.look(store_path(out), resume=resume, append=append)
    stored = Stored.read(place.path) if place.existing else None
    recorded = {} if stored is None else stored.settings
    settings = Settings.checked(
        sites=recorded.get("sites", ()) if sites is None else sites,
        layers=layers,
        positions=positions,
        keys=keys,
        dtype=dtype,
        batch_tokens=_given(batch_tokens, recorded.get("batch_tokens"), BATCH_TOKENS),
        memory=memory,
        shard_rows=_given(shard_rows, recorded.get("shard_rows"), SHARD_ROWS),
        chunk_rows=recorded.get("chunk_rows") if chunk_rows is None else chunk_rows,
        codec=codec or recorded.get("codec", "none"),
        schedule=_schedule(place.path, stored if resume else None, schedule),
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
        layerwise=settings.schedule == "layerwise",
    )
    n_layer = loaded.adapter.dims(loaded.model).n_layer
    named = settings.sites
    if sites is None:
        named = tuple(stored.there.layers) if stored and append and layers is not None else ()
    asked = Wanted.of(named, settings.layers, n_layer) if named else None
    wanted = asked if stored is None else _to_do(stored, asked, resume=resume)
    job = Job.prepare(place.path, settings, opened, loaded, lengths, wanted or Wanted({}))
    if stored is not None:
        provenance.check_same(place.path, stored.store.attributes, job.loaded.facts, job.facts)
        _check_asked(place.path, stored, asked, resume=resume)
    try:
        if stored is None:
            _start(job, show=progress)
        elif resume:
            _resume(job, stored, show=progress)
        else:
            _append(job, stored, asked, show=progress)
    except OSError as error:
        _note_full_disk(error, place.path)
        raise
    return Store(place.path)


def _schedule(path: StorePath, resumed: Stored | None, asked: str | None) -> str:
    """The schedule to run by: what was asked for, or what a capture was begun with.

    Raises:
        CaptureError: another one than that, or layerwise into a bucket.
    """
    if asked == "layerwise" and isinstance(path, S3Path):
        message = (
            f"{path} is in a bucket, and the schedule layerwise keeps what enters a block in the "
            "store's folder: capture into a folder and upload it."
        )
        raise CaptureError(message)
    if resumed is None or resumed.complete:
        return asked or "forward"
    begun = resumed.schedule
    if asked not in (None, begun):
        message = f"{path} was begun with the schedule {begun}, not {asked}: resume with that."
        raise CaptureError(message)
    return begun


def _to_do(stored: Stored, asked: Wanted | None, *, resume: bool) -> Wanted:
    """What the model is to deliver for a store: what is missing, else all, of new examples."""
    if resume:
        return stored.asked[-1] if stored.missing else stored.there
    return (asked or stored.there).minus(stored.there) or stored.there


def _check_asked(path: StorePath, stored: Stored, asked: Wanted | None, *, resume: bool) -> None:
    """Check that a capture is resumed with the sites and layers that it was started with.

    Raises:
        CaptureError: others.
    """
    if not resume or asked is None:
        return
    whole = stored.there.plus(stored.asked[-1] if stored.missing else stored.there)
    fitting = [whole, *(stored.asked if stored.complete else stored.asked[-1:])]
    if asked not in fitting:
        message = (
            f"{path} holds another capture: {fitting[-1].difference(asked)}. Leave out --site and "
            "--layers, which are known, or add others to the finished store with --append."
        )
        raise CaptureError(message)


def _given(asked: int | None, recorded: int | None, usual: int) -> int:
    """What was asked for, else what the store was made with, else the default."""
    return next(value for value in (asked, recorded, usual) if value is not None)


def _start(job: Job, *, show: bool | None) -> None:
    """Make the store and fill it; leave nothing if no example gets committed."""
    if job.settings.schedule == "layerwise":
        layerwise.start(job, show=show)
        return
    create(job)
    segments = [provenance.segment(job.inputs, Mark(0, 0, 0))]
    try:
        sit(job, {"segments": segments}, Start(), tracer=job.tracer, show=show)
    except Exception as error:
        if Stored.read(job.path).committed.n_example == 0:
            discard(job.path)
        else:
            note_resume(error, job.path)
        raise


def _resume(job: Job, stored: Stored, *, show: bool | None) -> None:
    """Go on behind the last commit; nothing is left to do in a finished store."""
    if stored.missing:
        if job.settings.schedule == "layerwise":
            layerwise.go_on(job, stored, show=show)
        else:
            grow.check(job, stored)
            grow.go_on(job, stored, show=show)
        return
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
    _sit_behind(job, stored, segments, start, first, show=show)


def _append(job: Job, stored: Stored, asked: Wanted | None, *, show: bool | None) -> None:
    """Add to a finished store: sites and layers that it lacks, else examples."""
    if not stored.complete:
        message = f"{job.path} is not finished: go on with --resume and its own inputs first."
        raise CaptureError(message)
    by_layer = job.settings.schedule == "layerwise"
    if asked is not None and asked.minus(stored.there):
        (layerwise.grow if by_layer else grow.grow)(job, stored, show=show)
    elif asked is None or asked == stored.there:
        if by_layer:
            message = (
                f"the schedule layerwise adds sites and layers to {job.path}, not examples: add "
                "these with the schedule forward, or capture them into a store of their own."
            )
            raise CaptureError(message)
        _append_examples(job, stored, show=show)
    elif grow.unlike(job, stored) is not None:
        message = (
            f"{job.path} holds more than is asked for: {stored.there.difference(asked)}. New "
            "examples get everything that the others have: leave out --site and --layers."
        )
        raise CaptureError(message)


def _append_examples(job: Job, stored: Stored, *, show: bool | None) -> None:
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
    _sit_behind(job, stored, segments, start, first, show=show)


def _sit_behind(
    job: Job,
    stored: Stored,
    segments: list[dict[str, Any]],
    start: Start,
    first: Mark,
    *,
    show: bool | None,
) -> None:
    """Run the job's examples, which come behind those before `first`."""
    known = stored.known(before=first.n_example)
    record = stored.record(segments)
    try:
        sit(job, record, start, tracer=job.tracer, behind=first, known=known, show=show)
    except Exception as error:
        if not Stored.read(job.path).complete:
            note_resume(error, job.path)
        raise


def _note_full_disk(error: OSError, path: StorePath) -> None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        smaller = "" if path.exists() else ", or capture fewer sites or layers or --dtype float16"
        error.add_note(f"The file system of {path} is full: free some space{smaller}.")
