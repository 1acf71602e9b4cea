"""The text of every token id."""

from __future__ import annotations

from typing import Any

_WORD_START = "\u2581"
"""How SentencePiece tokens mark a space before them; decoding one alone drops it."""


def token_texts(tokenizer: Any, d_vocab: int | None) -> list[str]:  # noqa: ANN401 - untyped
    """The decoded text of token ids 0 to n-1, as an array that the ids index.

    As long as the tokenizer's vocabulary or the model's, whichever is longer; ids that the
    tokenizer does not know are empty.
    """
    n_known = max(tokenizer.get_vocab().values(), default=-1) + 1
    ids = range(n_known)
    decoded = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    pieces = tokenizer.convert_ids_to_tokens(list(ids))
    texts = [_text(piece, text) for piece, text in zip(pieces, decoded, strict=True)]
    return texts + [""] * ((d_vocab or 0) - n_known)


def _text(piece: str | None, decoded: str) -> str:
    if piece is not None and piece.startswith(_WORD_START) and not decoded.startswith(" "):
        return f" {decoded}"
    return decoded
