"""CAPITALS, PARALLEL and ONEHOP: people and the countries that they live in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from residuum.prompts.binding.task import Item, Task, asked, framed
from residuum.prompts.binding.words import CAPITALS as CITY
from residuum.prompts.binding.words import COLOURS, NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from residuum.prompts.binding.draft import Draft


def _sentences(draft: Draft, items: Sequence[Item]) -> None:
    framed(draft)
    for slot, item in enumerate(items):
        draft.add(" " if slot else "")
        draft.entity(slot, item.entity)
        draft.add(" lives in the capital city of ")
        draft.attribute(slot, item.attribute)
        draft.add(".")


def _lists(draft: Draft, items: Sequence[Item]) -> None:
    framed(draft)
    last = len(items) - 1
    for slot, item in enumerate(items):
        draft.add("" if not slot else " and " if slot == last else ", ")
        draft.entity(slot, item.entity)
    draft.add(" live in the capital cities of ")
    for slot, item in enumerate(items):
        draft.add("" if not slot else " and " if slot == last else ", ")
        draft.attribute(slot, item.attribute)
    draft.add(", respectively.")


def _which_city(draft: Draft, item: Item, _all: Sequence[Item]) -> None:
    asked(draft, f"Which city does {item.entity} live in?", f"{item.entity} lives in the city of")


def _which_colour(draft: Draft, item: Item, items: Sequence[Item]) -> None:
    """Facts about all cities of the prompt, those of the other context too, in an order of names.

    They belong to the question: nothing that the context's tokens hold can depend on them.
    """
    ordered = sorted(items, key=lambda one: CITY[one.attribute])
    facts = " ".join(
        f"The person living in {CITY[one.attribute]} likes {one.extra}." for one in ordered
    )
    asked(draft, f"{facts} Which colour does {item.entity} like?", f"{item.entity} likes")


CAPITALS = Task(
    "CAPITALS", NAMES, tuple(CITY), _sentences, _which_city, lambda item: f" {CITY[item.attribute]}"
)
PARALLEL = Task(
    "PARALLEL", NAMES, tuple(CITY), _lists, _which_city, lambda item: f" {CITY[item.attribute]}"
)
ONEHOP = Task(
    "ONEHOP",
    NAMES,
    tuple(CITY),
    _sentences,
    _which_colour,
    lambda item: f" {item.extra}",
    extras=COLOURS,
    attr_width=2,
)
