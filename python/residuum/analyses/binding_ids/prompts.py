"""Prompts of one task and size: where entities and attributes are, and what could be answered."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]

ENTITY, ATTRIBUTE = "entity", "attribute"
CATEGORIES = (ENTITY, ATTRIBUTE)


class Unsuited(ArgumentError):
    """These prompts, or this model, do not allow an experiment; it is listed as skipped."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts with the same number of slots; every array has them along its first axis.

    Attributes:
        task, n: name of the task, and its slots.
        seed: of the words.
        widths: tokens of a slot that carry it, by category.
        partner: for each slot the one whose attribute is asked for, int64 `[slot]`.
        example: number in the store.
        prompt_id, query, rotation: item that is asked about, and how far the slots are rotated.
        split, context: as in the store's columns.
        entity, attribute: first token of each slot's, int64 `[prompt, slot]`.
        option: of MCQ, the token behind each option line, int64 `[prompt, slot]`; else -1.
        ctx_end: the question's first token, which is the context's end.
        n_token: length.
        answers: first token of each item's true answer, int64 `[prompt, item]`; -1 for items that
            only tests have.
    """

    task: str
    n: int
    seed: int
    widths: dict[str, int]
    partner: Ints
    example: Ints
    prompt_id: Ints
    query: Ints
    rotation: Ints
    split: NDArray[np.str_]
    context: NDArray[np.str_]
    entity: Ints
    attribute: Ints
    option: Ints
    ctx_end: Ints
    n_token: Ints
    answers: Ints

    def __len__(self) -> int:
        """Number of prompts."""
        return len(self.example)

    def take(self, which: NDArray[Any]) -> Prompts:
        """Some of them: a mask or numbers."""
        chosen = {f.name: getattr(self, f.name)[which] for f in fields(self)[5:]}
        return replace(self, **chosen)

    def of(self, split: str, context: str, rotation: int | None = None) -> Prompts:
        """Those of a split with a kind of context."""
        mask = (self.split == split) & (self.context == context)
        if rotation is not None:
            mask &= self.rotation == rotation
        return self.take(mask)

    def first(self, n_prompt: int | None) -> Prompts:
        """Those with the first so many prompt ids."""
        if n_prompt is None:
            return self
        return self.take(np.isin(self.prompt_id, np.unique(self.prompt_id)[:n_prompt]))

    def tokens(self, category: str, slot: int) -> Ints:
        """The tokens that carry a slot's entity or attribute, `[prompt, width]`."""
        first = self.entity if category == ENTITY else self.attribute
        return np.asarray(first[:, slot, None] + np.arange(self.widths[category]))

    def partners(self, others: Prompts) -> Ints:
        """For each of these prompts the number in `others` of one with the same prompt id.

        Raises:
            Unsuited: there is none.
        """
        order = np.argsort(others.prompt_id, kind="stable")
        place = np.searchsorted(others.prompt_id, self.prompt_id, sorter=order)
        found = order[np.minimum(place, len(order) - 1)] if len(order) else order
        if not len(order) or (others.prompt_id[found] != self.prompt_id).any():
            message = f"{self.task}: a prompt id lacks one of its contexts"
            raise Unsuited(message)
        return np.asarray(found)
