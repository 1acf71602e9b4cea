"""Worlds of made-up words for tiny models: two lists (`par`), pairs (`adj`), and a late rule.

    par   <bos> e3 e7 <sep> a2 a9 <resp> e7          -> a9
    adj   <bos> e3 a2 e7 a9 <sep> e7                 -> a9
    late  <bos> e3 e7 <sep> a2 a9 <rev> e7           -> a2     (<resp>: a9)

Texts of words, so that they are captured like any other; `vocabulary` is that of their tokenizer.
In the late world the rule is a part of the question: no token of the context can have seen it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from residuum.errors import InputError
from residuum.prompts.binding.task import Item, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from residuum.prompts.binding.draft import Draft

SPECIAL = (
    "<bos>",
    "<sep>",
    "<resp>",
    "<rev>",
    "<pad>",
    "<eos>",
    "<unk>",
    "<free0>",
    "<free1>",
    "<free2>",
)
World = Literal["par", "adj", "late_resp", "late_rev"]
WORLDS: tuple[World, ...] = ("par", "adj", "late_resp", "late_rev")


def vocabulary(n_word: int = 20) -> list[str]:
    """Entities e0…, attributes a0…, then the special words; the place is the token's id."""
    return [
        *(f"e{i}" for i in range(n_word)),
        *(f"a{i}" for i in range(n_word)),
        *SPECIAL,
    ]


def world(
    kind: World, n_word: int = 20, *, name: str | None = None, words: range | None = None
) -> Task:
    """A world's task.

    Args:
        kind: one of `WORLDS`.
        n_word: entities, and attributes, of the vocabulary.
        name: of the task; that of the kind by default.
        words: of the vocabulary, those that are drawn from; the first half of them is for
            estimating, the second for tests.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in WORLDS:
        message = f"there is no world {kind!r}; there are {', '.join(WORLDS)}"
        raise InputError(message)
    drawn = range(n_word) if words is None else words
    return Task(
        name or kind,
        [f"e{i}" for i in drawn],
        [f"a{i}" for i in drawn],
        _pairs if kind == "adj" else _lists,
        _rule(kind),
        lambda item: f" {item.attribute}",
        entity_width=1,
        attr_width=1,
        reverses=kind == "late_rev",
    )


def _lists(draft: Draft, items: Sequence[Item]) -> None:
    draft.add("<bos>")
    for slot, item in enumerate(items):
        draft.add(" ")
        draft.entity(slot, item.entity)
    draft.add(" <sep>")
    for slot, item in enumerate(items):
        draft.add(" ")
        draft.attribute(slot, item.attribute)


def _pairs(draft: Draft, items: Sequence[Item]) -> None:
    draft.add("<bos>")
    for slot, item in enumerate(items):
        draft.add(" ")
        draft.entity(slot, item.entity)
        draft.add(" ")
        draft.attribute(slot, item.attribute)


def _rule(kind: World) -> Callable[[Draft, Item, Sequence[Item]], None]:
    """What stands between the context and the query, and whether it is a part of the question."""
    frozen = {"par": " <resp>", "adj": " <sep>"}.get(kind, "")
    free = {"late_resp": " <resp>", "late_rev": " <rev>"}.get(kind, "")

    def ask(draft: Draft, item: Item, _all: Sequence[Item]) -> None:
        draft.add(frozen)
        draft.ask(f"{free} {item.entity}")

    return ask
