"""SHAPES, FRUITS and BIOS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from residuum.prompts.binding import lives
from residuum.prompts.binding.task import Item, Task, asked, framed
from residuum.prompts.binding.words import COLOURS, NAMES, words
from residuum.prompts.binding.words import FRUITS as FRUIT
from residuum.prompts.binding.words import SHAPES as SHAPE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from residuum.prompts.binding.draft import Draft


def _coloured(draft: Draft, items: Sequence[Item]) -> None:
    """The attribute comes before its entity here."""
    framed(draft)
    for slot, item in enumerate(items):
        draft.add("The " if not slot else " The ")
        draft.attribute(slot, item.attribute)
        draft.add(" is ")
        draft.entity(slot, item.entity)
        draft.add(".")


def _which_shape(draft: Draft, item: Item, _all: Sequence[Item]) -> None:
    asked(draft, f"Which shape is {item.entity}?", f"The {item.entity} shape is the")


def _liked(draft: Draft, items: Sequence[Item]) -> None:
    framed(draft)
    for slot, item in enumerate(items):
        draft.add(" " if slot else "")
        draft.entity(slot, item.entity)
        draft.add(" likes to eat ")
        draft.attribute(slot, item.attribute)
        draft.add(".")


def _which_fruit(draft: Draft, item: Item, _all: Sequence[Item]) -> None:
    asked(draft, f"What does {item.entity} like to eat?", f"{item.entity} likes to eat")


def _told(draft: Draft, items: Sequence[Item]) -> None:
    """A short life of each; the sentences go by slot, so that both contexts read alike."""
    framed(draft)
    for slot, item in enumerate(items):
        draft.add(" " if slot else "")
        draft.add("This is about ")
        draft.entity(slot, item.entity)
        draft.add(f". {lives.OPENINGS[slot % len(lives.OPENINGS)]} {_article(item.attribute)} ")
        draft.attribute(slot, item.attribute)
        draft.add(f". {lives.CLOSINGS[slot % len(lives.CLOSINGS)]}")


def _which_work(draft: Draft, item: Item, _all: Sequence[Item]) -> None:
    # No article before the answer: it would give away the answer's first sound.
    asked(draft, f"What is the occupation of {item.entity}?", f"The occupation of {item.entity} is")


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


MEN = words(
    """
    Adam Alan Andrew Anthony Arthur Ben Bill Bob Brian Carl Charles Daniel David Donald Douglas
    Edward Eric Frank Fred Gary George Greg Harold Harry Henry Howard Ian Jack Jacob James Jason Jim
    Joe John Joseph Keith Kevin Larry Lawrence Louis Mark Martin Matthew Michael Mike Nathan Neil
    Nick Oliver Oscar Patrick Paul Peter Philip Ralph Richard Robert Roger Ryan Samuel Scott Simon
    Stephen Steve Thomas Tim Tom Tony Victor Walter William
    """
)

SHAPES = Task("SHAPES", COLOURS, SHAPE, _coloured, _which_shape, lambda item: f" {item.attribute}")
FRUITS = Task("FRUITS", NAMES, FRUIT, _liked, _which_fruit, lambda item: f" {item.attribute}")
BIOS = Task(
    "BIOS",
    MEN,
    lives.OCCUPATIONS,
    _told,
    _which_work,
    lambda item: f" {item.attribute}",
    attribute_is_word=False,
    train_share=0.7,
)
