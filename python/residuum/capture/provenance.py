"""What a store says about its making, and whether two makings are the same.

`attributes.residuum.model` holds the model's facts, `attributes.residuum.capture` the settings.
Inputs are recorded in the commits, one *segment* for each sitting that added some: a capture starts
the first, every `--append` another. So are the sites and layers that were added later, as `grown`.
"""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from residuum.capture.plan import Mark
from residuum.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from residuum.capture.inputs import Inputs
    from residuum.capture.settings import Settings
    from residuum.capture.tokenise import LengthRule
    from residuum.store.s3_path import StorePath

Json = dict[str, Any]

_NAMED = 3
"""Differences that a message names."""

_LIBRARIES = ("residuum", "torch", "transformers", "tokenizers", "numpy", "pyarrow")

SAME_MODEL = ("architecture", "weights_hash", "tokenizer_hash", "dtype", "attn_implementation")
"""Facts of a model that decide its activations (the configuration is compared apart)."""

SAME_CAPTURE = (
    "positions",
    "keys",
    "dtype",
    "batch_tokens",
    "shard_rows",
    "codec",
    "truncate",
    "window",
    "stride",
    "text_column",
    "columns",
)
"""Settings that decide what is in a store, bit for bit, besides sites and layers."""


def capture_facts(
    settings: Settings,
    rule: LengthRule,
    inputs: Inputs,
    *,
    layers: Sequence[int],
    dtype: str,
    device: str,
    folder: Path | None,
) -> Json:
    """The settings of a capture as JSON; `layers` and `dtype` as the model decided them.

    `folder` is where the model's checkpoint lies, for those who want its weights again.
    """
    return {
        "sites": [site.value for site in settings.sites],
        "layers": list(layers),
        "positions": str(settings.positions),
        "keys": settings.keys,
        "dtype": dtype,
        "schedule": settings.schedule,
        "batch_tokens": settings.batch_tokens,
        "shard_rows": settings.shard_rows,
        "chunk_rows": settings.chunk_rows,
        "codec": settings.codec,
        "truncate": rule.truncate,
        "window": rule.window,
        "stride": rule.stride,
        "text_column": inputs.column,
        "columns": {f.name: str(f.type) for f in inputs.schema},
        "allow_nonfinite": settings.allow_nonfinite,
        "device": device,
        "model_folder": None if folder is None else str(folder.resolve()),
        "seed": None,  # nothing in a capture is drawn at random
        "versions": {
            **{name: version(name) for name in _LIBRARIES},
            "python": platform.python_version(),
        },
    }


def segment(inputs: Inputs, start: Mark) -> Json:
    """A sitting's inputs, and the example and rows that it starts at."""
    return {
        "inputs": {"name": inputs.name, "sha256": inputs.digest, "records": inputs.n_record},
        "start": {
            "example": start.n_example,
            "token_row": start.token_rows,
            "example_row": start.example_rows,
        },
    }


def segment_start(record: Mapping[str, Any]) -> Mark:
    """Where a recorded segment starts."""
    start = record["start"]
    return Mark(start["example"], start["token_row"], start["example_row"])


def check_same(store: StorePath, old: Mapping[str, Any], model: Json, capture: Json) -> None:
    """Check that a store was made by the same model with the same settings.

    Raises:
        CaptureError: the differences, each with both values.
    """
    differences = list(_differences(old, model, capture))
    if differences:
        more = len(differences) - _NAMED
        message = (
            f"{store} holds another capture: {'; '.join(differences[:_NAMED])}"
            f"{f'; and {more} more' if more > 0 else ''}. Ask for what is there, or capture into "
            "another folder."
        )
        raise CaptureError(message)


def _differences(old: Mapping[str, Any], model: Json, capture: Json) -> Iterator[str]:
    for name in SAME_MODEL:
        yield from _difference(f"the model's {name}", old["model"].get(name), model.get(name))
    for name in sorted({*old["model"].get("config", {}), *model.get("config", {})}):
        if name in _UNIMPORTANT:
            continue
        there, asked = old["model"]["config"].get(name), model["config"].get(name)
        yield from _difference(f"the model's configuration {name}", there, asked)
    for name in SAME_CAPTURE:
        yield from _difference(name, old["capture"].get(name), capture.get(name))


_UNIMPORTANT = frozenset({"_name_or_path", "transformers_version"})


def _difference(what: str, there: object, asked: object) -> Iterator[str]:
    if isinstance(there, dict) and isinstance(asked, dict):
        for name in dict.fromkeys([*there, *asked]):
            yield from _difference(f"{what}.{name}", there.get(name), asked.get(name))
    elif there != asked:
        yield f"{what} is {_short(there)} there, {_short(asked)} here"


def _short(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def grown(old: Sequence[Json], arrays: Json, capture: Json) -> list[Json]:
    """The record of what was added to a store later, `arrays` with layers by site the newest."""
    kept = {name: capture[name] for name in ("schedule", "device", "versions")}
    return [*old, {"arrays": arrays, **kept}]


def check_same_inputs(store: StorePath, last: Mapping[str, Any], inputs: Inputs) -> None:
    """Check that a capture is resumed with the inputs that it was started with.

    Streams have no digest; their examples are compared one by one as they come.

    Raises:
        CaptureError: other inputs.
    """
    there = last["inputs"]["sha256"]
    if there is not None and inputs.digest is not None and there != inputs.digest:
        message = (
            f"{store} was started with other inputs ({last['inputs']['name']}, SHA-256 "
            f"{there[:12]}…, not {inputs.name}, {inputs.digest[:12]}…): resume with the same ones, "
            "or add these to the finished store with --append."
        )
        raise CaptureError(message)
