"""What a capture was asked to do: names and numbers checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from residuum.capture.positions import Positions
from residuum.errors import CaptureError, InputError
from residuum.quantities import parse_layers, parse_memory
from residuum.sites import Site
from residuum.store.lossy import INT8
from residuum.store.plan import CODECS, DTYPES, MADE_BY_EXPORT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from residuum.store.plan import Codec, Dtype

SCHEDULES = ("forward", "layerwise")
KEYS = ("all", "stored")

BATCH_TOKENS = 4096
SHARD_ROWS = 8192


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
        schedule: how the model is run.
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
    schedule: str = "forward"

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
            message = f"there is no schedule {schedule!r}: choose {', '.join(SCHEDULES)}."
            raise CaptureError(message)
        if dtype == INT8:
            message = f"a capture cannot be int8: {MADE_BY_EXPORT}"
            raise InputError(message)
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
            schedule=schedule,
        )


def _one_of(name: str, value: str | None, known: tuple[str, ...]) -> None:
    if value is not None and value not in known:
        message = f"{name} {value!r}: choose {', '.join(known)}."
        raise InputError(message)


def _positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        message = f"{name} {value}: it must be 1 or more."
        raise InputError(message)
