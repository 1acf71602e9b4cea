"""What a task is: words, how a context is written of them, and how it is asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from residuum.prompts.binding.draft import Draft


class Item(NamedTuple):
    """An entity, its attribute, and a third word where a task needs one."""

    entity: str
    attribute: str
    extra: str = ""


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as it stands in the column `task`.
        entities, attributes, extras: words to draw from; extras may be none.
        write: puts a context of items, slot by slot, into a draft.
        ask: puts in the question about an item; it is given all 2n items of the prompt.
        answer: what a true answer begins with, the blank before it included.
        entity_width, attr_width: tokens of a slot that carry its entity and attribute.
        attribute_is_word: whether attributes have to be single tokens.
        train_share: of the words, for estimating differences; the others are for tests.
        reverses: whether the question asks for the attribute of the slot counted from the end.
    """

    name: str
    entities: Sequence[str]
    attributes: Sequence[str]
    write: Callable[[Draft, Sequence[Item]], None]
    ask: Callable[[Draft, Item, Sequence[Item]], None]
    answer: Callable[[Item], str]
    extras: Sequence[str] = ()
    entity_width: int = 2
    attr_width: int = 1
    attribute_is_word: bool = True
    train_share: float = 0.5
    reverses: bool = False


def framed(draft: Draft) -> None:
    """The instruction that every text begins with."""
    draft.add("Answer the question briefly, from the context alone.\n\nContext: ")


def asked(draft: Draft, question: str, stub: str) -> None:
    """The question, and the beginning of the answer."""
    draft.add("\n\n")
    draft.ask(f"Question: {question}\nAnswer: {stub}")
