"""What to show of a row: the token between some of the text before and after it, or the example.

Text comes from the input's own column where the tokens know their characters, else from the tokens
put side by side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
from numpy.typing import NDArray

if TYPE_CHECKING:
    from residuum.store import Store

REACH = 60  # letters before and after a token
NEIGHBOURS = 8  # tokens before and after, where letters are not known
LETTERS = 300  # of an example


@dataclass(frozen=True)
class Passage:
    """Where a row comes from. `token`, `before`, `after` are None where a row is an example."""

    example: int
    token: int | None
    before: str | None
    text: str | None
    after: str | None


def token_passages(store: "Store", rows: NDArray[np.int64]) -> dict[int, Passage]:
    """The passage of each of some rows of the token sites."""
    wanted = ds.field("row").isin(pa.array(np.unique(rows)))
    found = store.tokens.to_table(filter=wanted)
    examples = pc.unique(found["example"])
    around = store.tokens.to_table(filter=ds.field("example").isin(examples))
    texts = input_texts(store, examples)
    passages: dict[int, Passage] = {}
    words = {(row["example"], row["token"]): row["text"] or "" for row in around.to_pylist()}
    for row in found.to_pylist():
        passages.setdefault(row["row"], _passage(row, texts.get(row["example"]), words))
    return passages


def example_passages(store: "Store", rows: NDArray[np.int64]) -> dict[int, Passage]:
    """The passage of each of some rows of the example sites."""
    wanted = ds.field("example_row").isin(pa.array(np.unique(rows)))
    found = store.examples.to_table(columns=["example", "example_row"], filter=wanted)
    texts = input_texts(store, pc.unique(found["example"]))
    passages: dict[int, Passage] = {}
    for row in found.to_pylist():
        text = texts.get(row["example"])
        short = text if text is None or len(text) <= LETTERS else text[: LETTERS - 1] + "…"
        shown = Passage(row["example"], None, None, short, None)
        passages.setdefault(row["example_row"], shown)
    return passages


def input_texts(store: "Store", examples: pa.Array) -> dict[int, str]:
    """The input text of some examples; empty where the input was not text in a column."""
    name = store.capture.get("text_column")
    if name is None or name not in store.examples.schema.names:
        return {}
    if not pa.types.is_string(store.examples.schema.field(name).type):
        return {}
    wanted = ds.field("example").isin(examples)
    table = store.examples.to_table(columns=["example", name], filter=wanted)
    return dict(zip(table["example"].to_pylist(), table[name].to_pylist(), strict=True))


def _passage(row: dict[str, Any], text: str | None, words: dict[tuple[int, int], str]) -> Passage:
    example, token, start, end = (row[k] for k in ("example", "token", "char_start", "char_end"))
    if text is not None and start is not None and end > start:
        first, last = max(0, start - REACH), min(len(text), end + REACH)
        before = ("…" if first > 0 else "") + text[first:start]
        after = text[end:last] + ("…" if last < len(text) else "")
        return Passage(example, token, before, text[start:end], after)

    def side(positions: Sequence[int]) -> str:
        return "".join(words.get((example, position), "") for position in positions)

    before = side(range(max(0, token - NEIGHBOURS), token))
    after = side(range(token + 1, token + 1 + NEIGHBOURS))
    return Passage(example, token, before, words[example, token], after)
