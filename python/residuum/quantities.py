"""What people write for layers and for memory: `0:12`, `4GB`."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from residuum.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

MEMORY_BYTES = 1 << 30
LEAST_MEMORY_BYTES = 16 * 10**6

_POWERS = ("", "k", "m", "g", "t")


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


def parse_memory(memory: str | int | None, *, least: int = LEAST_MEMORY_BYTES) -> int:
    """Bytes from a number or text such as `4GB`, `512 MiB`; None is the default budget.

    Raises:
        InputError: text that is no size, or less than `least`, by default what the writer needs.
    """
    if memory is None:
        return MEMORY_BYTES
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", str(memory).lower())
    if match is None:
        message = f"memory {memory!r}: write a size such as 512MB or 4GB."
        raise InputError(message)
    unit = 1024 ** _POWERS.index(match[2]) if match[3] else 1000 ** _POWERS.index(match[2])
    size = int(float(match[1]) * unit)
    if size < least:
        needs = f"the writer needs {least // 10**6} MB" if least > 1 else "it is one byte"
        message = f"memory {memory!r}: {needs} at least."
        raise InputError(message)
    return size


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of `n` (Wilson 1927); NaN without any."""
    if n == 0:
        return math.nan, math.nan
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # Rounding must not leave a share of 0 or 1 outside.
    return min(max(middle - half, 0.0), share), max(min(middle + half, 1.0), share)
