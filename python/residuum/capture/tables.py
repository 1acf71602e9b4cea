"""The tables of a capture: one row per example, one per token, the user's columns beside ours."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from residuum.capture.tokenise import TokenisedText
from residuum.errors import InputError
from residuum.store.columns import nullable
from residuum.store.parts import BASE_SCHEMAS, EXAMPLES, TOKENS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from residuum.capture.plan import Placed

WINDOW_FIELDS = (
    pa.field("source_row", pa.int64(), nullable=False),
    pa.field("token_offset", pa.int32(), nullable=False),
)


@dataclass(frozen=True)
class TableLayout:
    """What the tables of one capture look like.

    `user` is the schema of the input's columns, `vocabulary` the text of every token id (None
    for images); `token_rows` and `example_rows` say which row spaces the store has.
    """

    user: pa.Schema
    windowed: bool
    vocabulary: pa.Array | None
    token_rows: bool
    example_rows: bool

    def check(self) -> None:
        """Refuse input columns that have the name of one of ours.

        Raises:
            InputError: a clash of names.
        """
        ours = [
            f.name for f in (*BASE_SCHEMAS[EXAMPLES], *(WINDOW_FIELDS if self.windowed else ()))
        ]
        clash = [name for name in self.user.names if name in ours]
        twice = sorted({name for name in self.user.names if self.user.names.count(name) > 1})
        if twice:
            message = f"the input has more than one column called {_ticks(twice)}: rename them."
            raise InputError(message)
        if clash:
            message = (
                f"the input has columns called {_ticks(clash)}, which the table of examples "
                "writes itself "
                f"({_ticks(ours)}): rename them in the input."
            )
            raise InputError(message)

    @property
    def example_schema(self) -> pa.Schema:
        """Our columns, then the user's."""
        return pa.schema(
            [*BASE_SCHEMAS[EXAMPLES], *(WINDOW_FIELDS if self.windowed else ()), *self.user]
        )

    def with_rows(self, planned: Sequence[Placed]) -> list[Placed]:
        """Those of a planned batch that have a row: the others need not run."""
        return [p for p in planned if self.example_rows or len(p.item.positions)]

    def examples(self, placed: Sequence[Placed]) -> pa.Table:
        """One row per example, in order."""
        n_row = [len(p.item.positions) if self.token_rows else 0 for p in placed]
        columns: list[pa.Array | pa.ChunkedArray] = [
            pa.array([p.example for p in placed], pa.int64()),
            pa.array([p.item.n_token for p in placed], pa.int32()),
            pa.array(n_row, pa.int32()),
            pa.array(
                [p.first_row if n else None for p, n in zip(placed, n_row, strict=True)], pa.int64()
            ),
            pa.array([p.example_row if self.example_rows else None for p in placed], pa.int64()),
            pa.array([p.item.content_hash.hex() for p in placed], pa.string()),
        ]
        if self.windowed:
            columns.append(pa.array([p.item.record for p in placed], pa.int64()))
            columns.append(pa.array([_token_offset(p) for p in placed], pa.int32()))
        columns.extend(_user_columns(placed, self.user))
        return pa.table(columns, schema=self.example_schema)

    def tokens(self, placed: Sequence[Placed]) -> pa.Table:
        """One row per token of every example, in order; repeats point at their first one's rows."""
        lengths = np.array([p.item.n_token for p in placed], dtype=np.int64)
        example = np.repeat(np.array([p.example for p in placed], dtype=np.int64), lengths)
        token = _ranges(lengths)
        row = np.concatenate([_token_rows(p) for p in placed]) if placed else np.zeros(0, np.int64)
        if not self.token_rows:
            row[:] = -1
        columns = [
            pa.array(example),
            pa.array(token),
            nullable(row),
            *self._text(placed, int(lengths.sum())),
        ]
        return pa.table(columns, schema=BASE_SCHEMAS[TOKENS])

    def _text(self, placed: Sequence[Placed], n: int) -> list[pa.Array]:
        """token_id, text, char_start, char_end; null for images and where spans are not known."""
        if self.vocabulary is None:
            return [pa.nulls(n, f.type) for f in list(BASE_SCHEMAS[TOKENS])[3:]]
        texts = [_text_of(p) for p in placed]
        ids = pa.array(np.concatenate([t.ids for t in texts]))
        spans = np.concatenate(
            [
                t.spans if t.spans is not None else np.full((len(t.ids), 2), -1, np.int32)
                for t in texts
            ]
        )
        return [ids, self.vocabulary.take(ids), nullable(spans[:, 0]), nullable(spans[:, 1])]


def _user_columns(placed: Sequence[Placed], user: pa.Schema) -> list[pa.ChunkedArray]:
    if not user.names:
        return []
    parts = []
    for _, run in groupby(placed, key=lambda p: id(p.item.origin)):
        members = list(run)
        indices = pa.array([p.item.index for p in members], pa.int64())
        parts.append(members[0].item.origin.take(indices))
    return list(pa.concat_tables(parts).columns)


def _text_of(placed: Placed) -> TokenisedText:
    content = placed.item.content
    if not isinstance(content, TokenisedText):
        message = f"example {placed.example} is an image among texts."
        raise InputError(message)
    return content


def _token_offset(placed: Placed) -> int:
    return _text_of(placed).token_offset


def _ranges(lengths: NDArray[np.int64]) -> NDArray[np.int32]:
    """0 .. n-1 for every n of `lengths`, one after another."""
    total = int(lengths.sum())
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return (np.arange(total, dtype=np.int64) - starts).astype(np.int32)


def _token_rows(placed: Placed) -> NDArray[np.int64]:
    """The row of every token of an example, -1 where it is not stored, int64 `[token]`."""
    rows = np.full(placed.item.n_token, -1, dtype=np.int64)
    rows[placed.item.positions] = np.arange(placed.first_row, placed.stop_row)
    return rows


def _ticks(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
