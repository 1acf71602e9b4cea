"""Which examples run together, and where their rows go: decided before the model runs.

Examples are numbered in the order of the inputs; rows follow in the same order, so that a store
does not depend on how examples were batched. Consecutive examples form a group; inside a group
those of like length share a batch. The plan is a function of the inputs and `batch_tokens` only,
so a capture that was interrupted plans the same batches again and repeats their rounding bit for
bit.

    examples ──Planner.groups──▶ Group(placed, batches)    every example; those that run
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from residuum.capture.images import Image
    from residuum.capture.tokenise import TokenisedText

GROUP_BATCHES = 8
"""Batches' worth of tokens in a group: enough to batch by length, few enough to repeat after a "
"crash."""

GROUP_EXAMPLES = 16384
"""Examples in a group at most, where they are short or mostly repeats."""


@dataclass(frozen=True)
class Example:
    """One input to the model, before it has a place in the store.

    Attributes:
        record: number of the input that it comes from.
        origin: the input's columns are row `index` of this table.
        content: `TokenisedText` or an image.
        n_token: its length in tokens.
        positions: the tokens whose rows are stored, ascending, int32 `[stored]`.
        content_hash: hash of the token ids or the image's bytes and of nothing else.
    """

    record: int
    origin: pa.Table
    index: int
    content: TokenisedText | Image
    n_token: int
    positions: NDArray[np.int32]
    content_hash: bytes


@dataclass(frozen=True)
class Placed:
    """An example with its number and its rows; those of a repeat are its first occurrence's.

    `first_row` is the row of the first stored token in the token row space, `example_row` the
    row in the example row space.
    """

    example: int
    item: Example
    first_row: int
    example_row: int
    repeat: bool

    @property
    def stop_row(self) -> int:
        """One past the last stored row."""
        return self.first_row + len(self.item.positions)


@dataclass(frozen=True)
class Group:
    """Consecutive examples, and the batches that run their distinct ones."""

    placed: list[Placed]
    batches: list[list[Placed]]


def text_hash(ids: NDArray[np.int32]) -> bytes:
    """Content hash of an example of text, 16 bytes."""
    return hashlib.blake2b(ids.astype("<i4").tobytes(), digest_size=16).digest()


def repeat_key(content_hash: bytes, positions: NDArray[np.int32] | None) -> bytes:
    """What two examples share when one capture serves both: content, and positions where marked."""
    if positions is None:
        return content_hash
    return hashlib.blake2b(
        content_hash + positions.astype("<i4").tobytes(), digest_size=16
    ).digest()


@dataclass(frozen=True)
class Mark:
    """A prefix of the examples: their number, and the rows they take up in both row spaces."""

    n_example: int
    token_rows: int
    example_rows: int


class Planner:
    """Places examples behind those that a store has already.

    `known` maps the repeat keys of captured examples to their (first_row, example_row); it grows.
    """

    def __init__(
        self,
        batch_tokens: int,
        *,
        behind: Mark = Mark(0, 0, 0),
        known: dict[bytes, tuple[int, int]] | None = None,
        marked: bool = False,
    ) -> None:
        """Start behind some examples; `marked` says that positions differ between repeats."""
        self._batch_tokens = batch_tokens
        self._known = {} if known is None else known
        self._example = behind.n_example
        self._row = behind.token_rows
        self._example_row = behind.example_rows
        self._marked = marked

    def groups(self, examples: Iterable[Example]) -> Iterator[Group]:
        """Cut the examples into groups, place them and batch them."""
        placed: list[Placed] = []
        n_token = 0
        for item in examples:
            one = self._place(item)
            if (
                placed
                and not one.repeat
                and n_token + item.n_token > GROUP_BATCHES * self._batch_tokens
            ):
                yield self._group(placed)
                placed, n_token = [], 0
            placed.append(one)
            n_token += 0 if one.repeat else item.n_token
            if len(placed) == GROUP_EXAMPLES:
                yield self._group(placed)
                placed, n_token = [], 0
        if placed:
            yield self._group(placed)

    def _place(self, item: Example) -> Placed:
        key = repeat_key(item.content_hash, item.positions if self._marked else None)
        before = self._known.get(key)
        first_row, example_row = before or (self._row, self._example_row)
        one = Placed(self._example, item, first_row, example_row, before is not None)
        self._example += 1
        if before is None:
            self._known[key] = (self._row, self._example_row)
            self._row += len(item.positions)
            self._example_row += 1
        return one

    def _group(self, placed: list[Placed]) -> Group:
        return Group(
            placed, batches_by_length([p for p in placed if not p.repeat], self._batch_tokens)
        )


def batches_by_length(placed: list[Placed], batch_tokens: int) -> list[list[Placed]]:
    """Batches of like length, the longest first.

    Padded, none holds more than `batch_tokens`, unless it is a single example.
    """
    ordered = sorted(placed, key=lambda p: (-p.item.n_token, p.example))
    out: list[list[Placed]] = []
    start = 0
    while start < len(ordered):
        n = max(1, batch_tokens // max(1, ordered[start].item.n_token))
        out.append(ordered[start : start + n])
        start += n
    return out
