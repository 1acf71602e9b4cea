"""Token ids for what people write: the text of a token, `id:464`, or a number that is no text."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from residuum.store import Store

# How tokenizers of the supported families spell what opens, closes and separates a text.
SEPARATORS = frozenset(
    {
        "[CLS]",
        "[SEP]",
        "<s>",
        "</s>",
        "<bos>",
        "<eos>",
        "<|endoftext|>",
        "<|startoftext|>",
        "<|begin_of_text|>",
        "<|end_of_text|>",
    }
)
CONFIGURED = ("bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id")
CLOSE = 8  # texts named by the error
ID = "id:"


def token_ids(store: "Store", names: Iterable[str]) -> NDArray[np.int32]:
    """The ids of tokens named by decoded text, a leading blank being part of it, or by id.

    `464` is the token of that text where there is one, and otherwise the id; `id:464` is the id.

    Raises:
        ArgumentError: A name that is neither; the message offers texts that contain it.

    """
    vocabulary = list(store.vocabulary)
    return np.array([_find(name, vocabulary) for name in names], np.int32)


def separator_ids(store: "Store") -> NDArray[np.int32]:
    """The ids of the tokens that open, close and separate texts.

    Those that the model's configuration names, and those that are spelt as is usual.
    """
    known = {i for i, text in enumerate(store.vocabulary) if text.strip() in SEPARATORS}
    config = store.model.get("config") or {}
    for name in CONFIGURED:
        ids = config.get(name)
        known.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    return np.array(sorted(known), np.int32)


def _find(name: str, vocabulary: list[str]) -> int:
    if name in vocabulary:
        return vocabulary.index(name)
    number = name.removeprefix(ID)
    if number.isdecimal() and int(number) < len(vocabulary):
        return int(number)
    close = [repr(text) for text in vocabulary if name.strip() and name.strip() in text][:CLOSE]
    hint = f"; tokens that contain it: {', '.join(close)}" if close else ""
    message = f"no token is {name!r}, neither as text nor as an id below {len(vocabulary)}{hint}"
    raise ArgumentError(message)
