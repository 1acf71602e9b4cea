"""Which token a row is: the tokens table turned into arrays indexed by row.

A repeated input shares the rows of its first occurrence; that occurrence is the one named here, and
each row counts once in every average.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from residuum.store import SiteArray, Store

T = TypeVar("T", bound=np.generic)

NO_TOKEN = -1


@dataclass(frozen=True)
class TokenRows:
    """One entry per stored row of the token sites, in the order of the rows.

    `example`, `token`: int64, int32 [row], where the row stands. `token_id`: int32 [row].
    `target_id`: int32 [row], the token that follows in the example, `NO_TOKEN` at its end.
    `text`, `target_text`: Arrow strings [row], the decoded tokens; null where there is none.
    `place`: int64 [row], index into `ids`, int32, the token ids of all examples one after another,
    also of tokens that were not stored; `length`: int32 [row], the tokens of the row's example.
    """

    example: NDArray[np.int64]
    token: NDArray[np.int32]
    token_id: NDArray[np.int32]
    target_id: NDArray[np.int32]
    text: pa.Array
    target_text: pa.Array
    place: NDArray[np.int64]
    length: NDArray[np.int32]
    ids: NDArray[np.int32]

    def __len__(self) -> int:
        """The number of rows."""
        return len(self.example)

    def head(self, examples: int | None) -> int:
        """The number of leading rows that belong to the first `examples` distinct examples."""
        if examples is None:
            return len(self)
        starts = np.flatnonzero(np.diff(self.example, prepend=-1))
        return int(starts[examples]) if examples < len(starts) else len(self)

    def key_ids(self, block: slice, n_key: int) -> NDArray[np.int32]:
        """The token ids of each row's example: [row, n_key], `NO_TOKEN` beyond its end.

        Image patches have no ids: `NO_TOKEN` everywhere.
        """
        inside = self.inside(block, n_key)
        start = self.place[block, None] - self.token[block, None]
        place = np.where(inside, start + np.arange(n_key), 0)
        return np.where(inside, self.ids[place], NO_TOKEN)

    def inside(self, block: slice, n_key: int) -> NDArray[np.bool_]:
        """Whether each key is a token of the row's example: [row, n_key]."""
        return np.asarray(np.arange(n_key) < self.length[block, None])

    def taken(self, rows: NDArray[np.int64]) -> dict[str, pa.Array]:
        """The columns `row`, `example`, `token` and `text` of some rows."""
        return {
            "row": pa.array(rows),
            "example": pa.array(self.example[rows]),
            "token": pa.array(self.token[rows]),
            "text": self.text.take(pa.array(rows)),
        }


def token_rows(store: "Store") -> TokenRows:
    """Read the tokens table of a store.

    Its rows come in the order of (example, token), also for tokens that were not stored.
    """
    columns = ["example", "token", "row", "token_id", "text"]
    table = store.tokens.to_table(columns=columns).combine_chunks()
    example = _numbers(table["example"], np.int64)
    ids = _numbers(table["token_id"], np.int32)
    row = _numbers(table["row"], np.int64)
    place = _first_places(row)
    follows = np.append(example[1:] == example[:-1], [False])[: len(example)]
    after = np.where(follows, np.arange(1, len(example) + 1), -1)[place]
    _, of_example, lengths = np.unique(example, return_inverse=True, return_counts=True)
    text = table["text"].combine_chunks()
    return TokenRows(
        example=example[place],
        token=_numbers(table["token"], np.int32)[place],
        token_id=ids[place],
        target_id=np.where(after < 0, NO_TOKEN, ids[after]).astype(np.int32),
        text=text.take(pa.array(place)),
        target_text=text.take(pa.array(after, mask=after < 0)),
        place=place,
        length=lengths[of_example][place].astype(np.int32),
        ids=ids,
    )


def _numbers(column: pa.ChunkedArray, kind: type[T]) -> NDArray[T]:
    """A column of whole numbers, nulls as -1."""
    return np.asarray(column.fill_null(-1).to_numpy()).astype(kind, copy=False)


def _first_places(row: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each stored row, the first place in the tokens table that names it."""
    stored, first = np.unique(row, return_index=True)
    return first[stored >= 0]


def chosen_layers(site: "SiteArray", layers: tuple[int, ...] | None) -> list[int]:
    """The layers to work on: those asked for, or all that were captured."""
    return list(site.layers) if layers is None else list(layers)
