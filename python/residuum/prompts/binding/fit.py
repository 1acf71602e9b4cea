"""Which words a tokenizer makes one token of, where they stand in a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from residuum.errors import InputError
from residuum.prompts.binding.draft import Draft
from residuum.prompts.binding.task import Item, Task

if TYPE_CHECKING:
    from residuum.prompts.binding.draft import Span

Tokenise = Callable[[str], Sequence[tuple[int, int, int]]]
"""Text to (token id, first character, character after the last), in order. Special tokens that the
tokenizer puts around a text have an empty span."""


def fitted(task: Task, tokenise: Tokenise) -> Task:
    """The task with the words that can be used with a tokenizer.

    Entities, and attributes where the task says so, are single tokens in their place in the
    prompt, whatever the slot (some tokenizers split a word by what stands before it). True answers
    differ in their first token.

    Raises:
        InputError: fewer than four words of a kind are left.
    """
    extras = task.extras or ("",)
    entities = [word for word in task.entities if _single(task, tokenise, word, None)]
    if len(entities) < _LEAST:
        raise _too_few(task, "entities", entities)
    attributes: list[str] = []
    seen: set[int] = set()
    for place, word in enumerate(task.attributes):
        extra = extras[place % len(extras)]
        if task.attribute_is_word and not _single(task, tokenise, entities[0], word):
            continue
        token = answer_token(task, tokenise, Item(entities[0], word, extra))
        if task.extras or token not in seen:
            attributes.append(word)
        seen.add(token)
    if len(attributes) < _LEAST:
        raise _too_few(task, "attributes", attributes)
    return replace(
        task, entities=entities, attributes=attributes, extras=_extras(task, tokenise, attributes)
    )


_LEAST = 4


def _extras(task: Task, tokenise: Tokenise, attributes: Sequence[str]) -> tuple[str, ...]:
    """The third words, each with a first token of its own."""
    kept: dict[int, str] = {}
    for word in task.extras:
        item = Item(task.entities[0], attributes[0], word)
        kept.setdefault(answer_token(task, tokenise, item), word)
    return tuple(kept.values())


def _too_few(task: Task, kind: str, left: Sequence[str]) -> InputError:
    message = (
        f"{task.name}: the tokenizer makes single tokens of {len(left)} {kind} only "
        f"({', '.join(left) or 'none'}): pass a task with more words"
    )
    return InputError(message)


def _single(task: Task, tokenise: Tokenise, entity: str, attribute: str | None) -> bool:
    """Whether a word is one token in the first slot and in the second."""
    other = next(word for word in task.entities if word != entity)
    filler = Item(other, task.attributes[0], task.extras[0] if task.extras else "")
    item = Item(entity, attribute or task.attributes[-1], filler.extra)
    for items in ([item, filler], [filler, item]):
        draft = Draft()
        task.write(draft, items)
        spans = draft.entities if attribute is None else draft.attributes
        if len(_covering(tokenise(draft.text), spans[items.index(item)])) != 1:
            return False
    return True


def _covering(tokens: Sequence[tuple[int, int, int]], span: Span) -> list[int]:
    """Tokens with a character of a span."""
    return [i for i, (_, start, end) in enumerate(tokens) if start < span[1] and end > span[0]]


def answer_token(task: Task, tokenise: Tokenise, item: Item) -> int:
    """First token of an item's true answer, where it stands behind the prompt."""
    draft = Draft()
    task.write(draft, [item])
    task.ask(draft, item, [item])
    return first_token(tokenise, draft.text, task.answer(item))


def first_token(tokenise: Tokenise, text: str, answer: str) -> int:
    """First token of an answer behind a text.

    Raises:
        InputError: the tokenizer joins the answer to the text, so that it has no token of its own.
    """
    for token, start, end in tokenise(text + answer):
        if end > len(text):
            if start < len(text):
                message = (
                    f"the tokenizer joins {answer!r} to what stands before it: the prompt has to "
                    "end where a token ends"
                )
                raise InputError(message)
            return token
    message = f"the tokenizer makes no token of the answer {answer!r}"
    raise InputError(message)
