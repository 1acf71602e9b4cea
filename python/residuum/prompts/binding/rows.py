"""Prompts of a task as rows: one context and one question each.

A prompt id seeds a permutation of the words; item k takes the k-th of each. Its contexts are
`default` (items 0 to n-1), `rotated` by r (slot s holds item s + r modulo n) and `disjoint` (items
n to 2n-1), so that all of them share words in a known way. `query_slot` is the number of the item
that is asked about, from n on one that the default context does not name (`query_kind` absent).
`partner` says for each slot which slot's attribute the question asks for: its own, but for tasks
that reverse.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from residuum.errors import InputError
from residuum.prompts.binding.draft import Draft
from residuum.prompts.binding.fit import first_token
from residuum.prompts.binding.task import Item, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from residuum.prompts.binding.fit import Tokenise

TRAIN, TEST = "train", "test"


def rows(
    task: Task,
    tokenise: Tokenise,
    *,
    n_entities: int,
    n_train: int = 500,
    n_test: int = 100,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """All prompts of a task, as rows to be written as JSON lines and captured.

    Args:
        task: one whose words fit the tokenizer (`fitted`).
        tokenise: the model's tokenizer.
        n_entities: slots of a context, at least 2.
        n_train: prompt ids of the words for estimating: the default context and all rotated ones.
        n_test: prompt ids of the other words: the default context with a question about each of
            its items and of those of the disjoint context, which has one question.
        seed: of the permutations.

    Raises:
        InputError: fewer than 2 slots, or too few words for them.
    """
    if n_entities < 2:
        message = f"{task.name}: a context of {n_entities} entities binds nothing: take 2 or more"
        raise InputError(message)
    tokens: dict[str, int] = {}
    for split, n in ((TRAIN, n_train), (TEST, n_test)):
        for prompt_id in range(n):
            items = _items(task, split, prompt_id, n_entities, seed)
            for context, order, query in _wanted(split, n_entities):
                row = _row(task, items, order, query, n_entities)
                text, answers = row["text"], row["answers"]
                for one in answers:
                    if one not in tokens:
                        tokens[one] = first_token(tokenise, text, one)
                yield {
                    **row,
                    "prompt_id": prompt_id,
                    "split": split,
                    "context": context,
                    "rotation": int(order[0]) if context == "rotated" else 0,
                    "seed": seed,
                    "answer_token_ids": [tokens[one] for one in answers],
                }


def _wanted(split: str, n: int) -> Iterator[tuple[str, Sequence[int], int]]:
    """The contexts of a prompt id and what each is asked about: (context, order, query)."""
    default = list(range(n))
    if split == TRAIN:
        yield "default", default, 0
        for turn in range(1, n):
            yield "rotated", [(slot + turn) % n for slot in default], 0
        return
    for query in range(2 * n):
        yield "default", default, query
    yield "disjoint", list(range(n, 2 * n)), n


def _items(task: Task, split: str, prompt_id: int, n: int, seed: int) -> list[Item]:
    """The items of a prompt id: 2n of the split's words in an order of its own."""
    rng = np.random.default_rng([seed, zlib.crc32(task.name.encode()), prompt_id])
    drawn = []
    for kind, words in (("entities", task.entities), ("attributes", task.attributes)):
        cut = round(len(words) * task.train_share)
        half = words[:cut] if split == TRAIN else words[cut:]
        need = n if split == TRAIN else 2 * n
        if len(half) < need:
            message = (
                f"{task.name}: {n} slots need {need} {kind} of the {split} words, and there are "
                f"{len(half)}"
            )
            raise InputError(message)
        drawn.append([half[i] for i in rng.permutation(len(half))[:need]])
    extras = [task.extras[i] for i in rng.permutation(len(task.extras))]
    if extras and len(extras) < len(drawn[0]):
        message = f"{task.name}: {len(drawn[0])} items need as many extras, not {len(extras)}"
        raise InputError(message)
    extras = extras or [""] * len(drawn[0])
    return [Item(*three) for three in zip(*drawn, extras, strict=False)]


def _row(
    task: Task, items: Sequence[Item], order: Sequence[int], query: int, n: int
) -> dict[str, Any]:
    draft = Draft()
    held = [items[number] for number in order]
    task.write(draft, held)
    task.ask(draft, items[query], items)
    return {
        "text": draft.text,
        "task": task.name,
        "n_entities": n,
        "query_slot": query,
        "query_kind": "own" if query in order else "absent",
        "partner": list(range(n))[:: -1 if task.reverses else 1],
        "entity_order": list(order),
        "attr_order": list(order),
        "entities": [item.entity for item in held],
        "attributes": [item.attribute for item in held],
        "entity_span": [list(draft.entities[slot]) for slot in range(n)],
        "attr_span": [list(draft.attributes[slot]) for slot in range(n)],
        "option_span": [],
        "question_start": draft.question,
        "entity_width": task.entity_width,
        "attr_width": task.attr_width,
        "answers": [task.answer(item) for item in items],
    }
