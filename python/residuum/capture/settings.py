"""What a capture was asked to do: names and numbers checked before a model is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from residuum.capture.positions import Positions
from residuum.errors import CaptureError, InputError
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterable

    from residuum.store.plan import Codec, Dtype

DTYPES = ("float32", "float16", "bfloat16")
CODECS = ("none", "zstd")
SCHEDULES = ("forward",)
KEYS = ("all", "stored")

BATCH_TOKENS = 4096
SHARD_ROWS = 8192
MEMORY_BYTES = 1 << 30
LEAST_MEMORY_BYTES = 16 * 10**6

_POWERS = ("", "k", "m", "g", "t")


@dataclass(frozen=True)
class Settings:
    """The parts of a capture that do not depend on the model or the inputs.

    Attributes:
        sites: what to store, in the order of the vocabulary.
        layers: of which blocks, ascending; None is all.
        positions: which tokens of an example get a row.
        keys: which tokens are on the key axis: "all", or those "stored" of the example, in order.
        dtype: of the stored arrays; None is what the model computes in.
        batch_tokens: padded tokens in a batch at most.
        memory_bytes: what the writer may hold.
        shard_rows: rows in a shard; `chunk_rows` in a chunk, None lets the store choose.
        codec: how chunks are stored.
        allow_nonfinite: keep NaN and infinity instead of failing.
    """

    sites: tuple[Site, ...]
    layers: tuple[int, ...] | None
    positions: Positions
    keys: str
    dtype: Dtype | None
    batch_tokens: int
    memory_bytes: int
    shard_rows: int
    chunk_rows: int | None
    codec: Codec
    allow_nonfinite: bool

    @classmethod
    def checked(
        cls,
        *,
        sites: Iterable[Site | str],
        layers: str | int | Iterable[int] | None,
        positions: str,
        keys: str,
        dtype: str | None,
        batch_tokens: int,
        memory: str | int | None,
        shard_rows: int,
        chunk_rows: int | None,
        codec: str,
        schedule: str,
        allow_nonfinite: bool,
    ) -> Settings:
        """Parse and check.

        Raises:
            SiteError: a site that does not exist.
            InputError: any other value out of its range.
        """
        wanted = {Site.parse(site) for site in ([sites] if isinstance(sites, str) else sites)}
        if not wanted:
            message = "no site was asked for: name at least one, such as resid_post."
            raise InputError(message)
        if schedule not in SCHEDULES:
            message = (
                f"the schedule {schedule!r} is not available in this version: there is "
                f"{', '.join(SCHEDULES)}."
            )
            raise CaptureError(message)
        _one_of("dtype", dtype, DTYPES)
        _one_of("codec", codec, CODECS)
        _one_of("keys", keys, KEYS)
        _positive("batch_tokens", batch_tokens)
        _positive("shard_rows", shard_rows)
        _positive("chunk_rows", chunk_rows)
        return cls(
            sites=tuple(site for site in Site if site in wanted),
            layers=parse_layers(layers),
            positions=Positions.parse(positions),
            keys=keys,
            dtype=cast("Dtype | None", dtype),
            batch_tokens=batch_tokens,
            memory_bytes=parse_memory(memory),
            shard_rows=shard_rows,
            chunk_rows=chunk_rows,
            codec=cast("Codec", codec),
            allow_nonfinite=allow_nonfinite,
        )


def parse_layers(layers: str | int | Iterable[int] | None) -> tuple[int, ...] | None:
    """Layers from text or numbers, ascending; None is all.

    Text is `"3"`, `"0:12"` (the end is not included), `"0,5,11"` or a mixture: `"0:4,11"`.

    Raises:
        InputError: text that is none of these, or a range without a layer in it.
    """
    if layers is None:
        return None
    if isinstance(layers, int):
        return (layers,)
    if not isinstance(layers, str):
        return tuple(sorted({int(layer) for layer in layers}))
    out: set[int] = set()
    for part in layers.split(","):
        match = re.fullmatch(r"\s*(\d+)(?::(\d+))?\s*", part)
        if match is None:
            message = f"layers {layers!r}: write 5, 0:12 (0 to 11) or 0,5,11."
            raise InputError(message)
        first = int(match[1])
        out |= set(range(first, first + 1 if match[2] is None else int(match[2])))
    if not out:
        message = f"layers {layers!r} is an empty range: the end is not included."
        raise InputError(message)
    return tuple(sorted(out))


def parse_memory(memory: str | int | None) -> int:
    """Bytes from a number or text such as `4GB`, `512 MiB`; None is the default budget.

    Raises:
        InputError: text that is no size, or less than the writer needs.
    """
    if memory is None:
        return MEMORY_BYTES
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(memory).lower())
    if match is None:
        message = f"memory {memory!r}: write a size such as 512MB or 4GB."
        raise InputError(message)
    unit = 1024 ** _POWERS.index(match[2]) if match[3] else 1000 ** _POWERS.index(match[2])
    size = int(float(match[1]) * unit)
    if size < LEAST_MEMORY_BYTES:
        message = f"memory {memory!r}: the writer needs {LEAST_MEMORY_BYTES // 10**6} MB at least."
        raise InputError(message)
    return size


def _one_of(name: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        message = f"{name} {value!r}: choose {', '.join(known)}."
        raise InputError(message)


def _positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        message = f"{name} {value}: it must be 1 or more."
        raise InputError(message)
