"""Bytes of the texts that judged tokens stand for, for bits per byte."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from residuum.analyses.passages import input_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    from numpy.typing import NDArray

    from residuum.analyses.rows import TokenRows
    from residuum.store import Store

    Numbers = NDArray[np.int64]

UNKNOWN = -1
"""The place of a token that stands for no part of a text, such as a special one."""


def text_bytes(store: Store, tokens: TokenRows, rows: Numbers) -> int | None:
    """UTF-8 bytes of the inputs' texts that rows stand for; None where that is not known.

    They are counted in the texts themselves: parts of a character, as tokens of bytes are, have no
    text of their own, and tokens of words lack the spaces between them. Neighbouring tokens stand
    for all from the first one's begin to the last one's end. Special tokens stand for nothing. It
    is not known of images, of chats, whose text is not kept, and of tokenizers without offsets.
    """
    place = np.sort(tokens.place[rows])
    columns = ["example", "token", "char_start", "char_end"]
    table = store.tokens.to_table(columns=columns).take(place)
    texts = input_texts(store, table["example"].unique())
    if not texts:
        return None
    total = known = 0
    of, upto = -1, 0
    for example, start, end in _passages(table):
        # Both parts of a character that was cut between two passages have all of it.
        upto = upto if example == of else 0
        total += len((texts[example] or "")[max(start, upto) : end].encode())
        of, upto, known = example, max(end, upto), known + 1
    return total if known else None


def _passages(table: pa.Table) -> Iterator[tuple[int, int, int]]:
    """Example, begin and end, in characters, of what tokens that follow each other are."""
    names = ("example", "token", "char_start", "char_end")
    example, token, start, end = (
        table[name].fill_null(UNKNOWN).to_numpy().astype(np.int64) for name in names
    )
    follows = (np.diff(example, prepend=-1) == 0) & (np.diff(token, prepend=-1) == 1)
    passage, there = np.cumsum(~follows), start != UNKNOWN
    if not there.any():
        return
    example, start, end, passage = (x[there] for x in (example, start, end, passage))
    first = np.flatnonzero(np.diff(passage, prepend=-1))
    starts, ends = np.minimum.reduceat(start, first), np.maximum.reduceat(end, first)
    yield from zip(example[first].tolist(), starts.tolist(), ends.tolist(), strict=True)
