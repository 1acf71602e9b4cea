"""Texts to token ids: lengths checked before anything is created, long texts cut only when asked.

One text becomes one `TokenisedText` per window (one where windows were not asked for). Special
tokens that the tokenizer puts around a text (`[CLS] … [SEP]`, BOS) are put around every window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from residuum.capture.inputs import Kind, Payload


@dataclass(frozen=True)
class LengthRule:
    """What happens to texts longer than the model's context.

    `context` is the model's limit in tokens (None: it has none). At most one of `truncate` and
    `window` is set; `stride` is how far one window starts behind the one before it, by default
    as far as windows are long, special tokens not counted.
    """

    context: int | None
    truncate: bool = False
    window: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        """Refuse combinations that mean nothing, before any input is read."""
        if self.truncate and self.window is not None:
            message = (
                "--truncate and --window exclude each other: a text is cut off or cut into windows."
            )
            raise InputError(message)
        if self.stride is not None and self.window is None:
            message = "--stride says how far windows are apart: it needs --window."
            raise InputError(message)
        if self.window is not None and self.window < 1:
            message = f"--window {self.window}: a window holds at least one token."
            raise InputError(message)
        if self.stride is not None and self.stride < 1:
            message = f"--stride {self.stride}: windows are at least one token apart."
            raise InputError(message)
        if self.window is not None and self.context is not None and self.window > self.context:
            message = (
                f"--window {self.window} is longer than the model's context of {self.context} "
                "tokens."
            )
            raise InputError(message)

    @property
    def longest(self) -> int | None:
        """The longest example that this rule lets through."""
        return self.window if self.window is not None else self.context


@dataclass(frozen=True)
class TokenisedText:
    """One example of text as the model will see it.

    Attributes:
        ids: token ids, int32 `[token]`.
        spans: character span of every token in its text, int32 `[token, 2]`, where the tokenizer
            knows them; (-1, -1) for tokens that stand for no text.
        token_offset: where a window starts among the text's own tokens (special ones not counted).
        source: which token of the whole tokenised text each token is, int32 `[token]`.
        n_source: how many tokens the whole text has.
    """

    ids: NDArray[np.int32]
    spans: NDArray[np.int32] | None
    token_offset: int
    source: NDArray[np.int32]
    n_source: int


class Tokeniser:
    """A model's tokenizer with the rule for long texts."""

    def __init__(
        self,
        tokenizer: Any,  # noqa: ANN401 - transformers' tokenizers share no type
        rule: LengthRule,
        n_embedded: int | None = None,
    ) -> None:
        """Wrap a tokenizer, fast or slow, for a model that knows `n_embedded` token ids."""
        self._tokenizer = tokenizer
        self._rule = rule
        self._n_embedded = n_embedded
        self._fast = bool(getattr(tokenizer, "is_fast", False))

    def __call__(
        self, payload: Sequence[Payload], kind: Kind, first_row: int
    ) -> Iterator[list[TokenisedText]]:
        """Tokenise inputs `first_row` and after; yields the examples of one input at a time.

        Raises:
            InputError: an input without tokens, or longer than the context with no rule to cut it.
        """
        texts = (
            [self._chat_text(p, first_row + i) for i, p in enumerate(payload)]
            if kind == "chat"
            else payload
        )
        encoded = self._tokenizer(
            list(texts),
            add_special_tokens=kind != "chat",  # a chat template writes its own
            return_special_tokens_mask=True,
            return_offsets_mapping=self._fast,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for offset in range(len(texts)):
            spans = encoded["offset_mapping"][offset] if self._fast else None
            whole = _whole(
                encoded["input_ids"][offset], encoded["special_tokens_mask"][offset], spans
            )
            yield self._cut(whole, first_row + offset)

    def _chat_text(self, messages: list[dict[str, object]], row: int) -> str:
        if getattr(self._tokenizer, "chat_template", None) is None:
            message = (
                f"row {row} is a list of chat messages, but this model's tokenizer has no chat "
                "template. "
                "Give the text itself in a column named with --text-column."
            )
            raise InputError(message)
        # a struct column gives every message every key
        kept = [{k: v for k, v in m.items() if v is not None} for m in messages]
        try:
            return str(self._tokenizer.apply_chat_template(kept, tokenize=False))
        except Exception as error:  # templates are programs and raise what they like
            message = f"row {row}: the tokenizer's chat template refuses these messages: {error}"
            raise InputError(message) from error

    def _cut(self, whole: _Whole, row: int) -> list[TokenisedText]:
        length = len(whole.ids)
        if length == 0:
            message = (
                f"row {row} has no tokens: the text is empty and this tokenizer adds none of its "
                "own. "
                "Take the row out."
            )
            raise InputError(message)
        highest = int(whole.ids.max())
        if self._n_embedded is not None and highest >= self._n_embedded:
            message = (
                f"row {row} has the token id {highest}, but the model knows ids 0 to "
                f"{self._n_embedded - 1}: the tokenizer is not this model's."
            )
            raise InputError(message)
        rule = self._rule
        if rule.window is not None:
            return whole.windows(rule.window, rule.stride)
        if rule.context is None or length <= rule.context:
            return [whole.example(0, whole.n_own)]
        if rule.truncate:
            return whole.windows(rule.context, None)[:1]
        message = (
            f"row {row} has {length} tokens, more than the model's context of {rule.context}. "
            "Cut it off with "
            "--truncate, or into several examples with --window N [--stride M]."
        )
        raise InputError(message)


@dataclass(frozen=True)
class _Whole:
    """A whole text: `n_before` special tokens, `n_own` of its own, the rest special again."""

    ids: NDArray[np.int32]
    spans: NDArray[np.int32] | None
    n_before: int
    n_own: int

    def example(self, start: int, stop: int) -> TokenisedText:
        """Own tokens `start` to `stop` with the special tokens around them."""
        before = np.arange(self.n_before)
        own = np.arange(self.n_before + start, self.n_before + stop)
        after = np.arange(self.n_before + self.n_own, len(self.ids))
        source = np.concatenate([before, own, after]).astype(np.int32)
        spans = None if self.spans is None else self.spans[source]
        return TokenisedText(self.ids[source], spans, start, source, len(self.ids))

    def windows(self, window: int, stride: int | None) -> list[TokenisedText]:
        """Windows of at most `window` tokens; the rest at the end is one, however short."""
        n_special = len(self.ids) - self.n_own
        size = window - n_special
        if size < 1:
            message = (
                f"a window of {window} tokens has no room beside the {n_special} special ones."
            )
            raise InputError(message)
        step = size if stride is None else stride
        if step > size:
            message = (
                f"--stride {step} would leave out tokens: a window of {window} holds {size} of a "
                "text's own."
            )
            raise InputError(message)
        starts = [0]
        while starts[-1] + size < self.n_own:
            starts.append(starts[-1] + step)
        return [self.example(start, min(start + size, self.n_own)) for start in starts]


def _whole(
    ids: Sequence[int], special: Sequence[int], spans: Sequence[tuple[int, int]] | None
) -> _Whole:
    own = np.flatnonzero(np.asarray(special, dtype=np.int32) == 0)
    n_before, n_own = (int(own[0]), int(own[-1] - own[0] + 1)) if len(own) else (len(ids), 0)
    array = None
    if spans is not None:
        array = np.asarray(spans, dtype=np.int32).reshape(len(ids), 2)
        array[np.asarray(special, dtype=bool)] = -1
    return _Whole(np.asarray(ids, dtype=np.int32), array, n_before, n_own)
