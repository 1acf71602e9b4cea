"""The prompts that a store holds, by task and size, with the tokens of their words.

Reads the columns that `residuum.prompts.binding` writes; positions come from the store's own
`tokens` table by character, so that any tokenizer will do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from residuum.analyses.binding_ids.prompts import ATTRIBUTE, ENTITY, Prompts
from residuum.errors import InputError, SelectionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from residuum.analyses.binding_ids.params import Params
    from residuum.store import Store

    Ints = NDArray[np.int64]

COLUMNS = (
    "prompt_id",
    "task",
    "n_entities",
    "split",
    "context",
    "rotation",
    "seed",
    "query_slot",
    "partner",
    "entity_span",
    "attr_span",
    "option_span",
    "question_start",
    "entity_width",
    "attr_width",
    "answer_token_ids",
)
FAR = 1 << 31
"""Behind every character."""


def prompts_of(store: Store, params: Params) -> list[Prompts]:
    """All prompts, a group for each task and number of slots.

    Raises:
        InputError: columns that no prompts of `residuum.prompts.binding` have, or tokens that stand
            behind the prompts.
    """
    table = store.examples.to_table(columns=["example", "n_token", "n_row", *COLUMNS])
    if pc.any(pc.not_equal(table["n_row"], table["n_token"])).as_py():
        message = (
            f"{store.path} does not hold every token, and every context token is frozen at what "
            "it holds: capture with positions='all'"
        )
        raise SelectionError(message)
    places = _Places(store)
    keys = list(zip(table["task"].to_pylist(), table["n_entities"].to_pylist(), strict=True))
    groups = []
    for key in dict.fromkeys(keys):
        task, _ = key
        if params.tasks and task not in params.tasks:
            continue
        rows = np.flatnonzero([one == key for one in keys])
        groups.append(_group(table.take(rows), places, params))
    found = [group.task for group in groups]
    unknown = [task for task in params.tasks if task not in found]
    if unknown:
        tasks = ", ".join(dict.fromkeys(table["task"].to_pylist()))
        message = f"there are no prompts of {unknown[0]!r} in {store.path}; its tasks are: {tasks}"
        raise InputError(message)
    return groups


class _Places:
    """Where characters are: the token that holds each."""

    def __init__(self, store: Store) -> None:
        columns = ["example", "token", "char_end"]
        tokens = store.tokens.to_table(columns=columns).sort_by(
            [("example", "ascending"), ("token", "ascending")]
        )
        example = tokens["example"].to_numpy()
        null = tokens["char_end"].is_null().to_numpy()
        end = tokens["char_end"].fill_null(0).to_numpy().astype(np.int64)
        last = np.append(example[1:] != example[:-1], True)
        if (null & last).any():
            message = (
                f"the tokenizer puts a token behind the prompt of example "
                f"{example[np.flatnonzero(null & last)[0]]} of {store.path}, but the answer is "
                "read at the prompt's own last token: capture with a tokenizer that adds none"
            )
            raise InputError(message)
        self._ends = example * FAR + end
        self._first = np.searchsorted(example, np.arange(int(example.max(initial=-1)) + 1))

    def token(self, example: Ints, first: Ints, char: Ints) -> Ints:
        """The first token that ends behind a character; arrays of one shape."""
        return np.searchsorted(self._ends, example * FAR + char, side="right") - first

    def first(self, example: Ints) -> Ints:
        """Place of an example's first token in the table."""
        return self._first[example]


def _group(table: pa.Table, places: _Places, params: Params) -> Prompts:
    """The prompts of one task and size."""
    n = int(table["n_entities"][0].as_py())
    example = table["example"].to_numpy()
    first = places.first(example)

    def tokens(column: str, end: int) -> Ints:
        char = _spans(table[column], n)[:, :, end]
        at = places.token(example[:, None], first[:, None], np.maximum(char - end, 0))
        return np.where(char < 0, -1, at + end)

    widths = {
        ENTITY: params.entity_width or int(table["entity_width"][0].as_py()),
        ATTRIBUTE: params.attr_width or int(table["attr_width"][0].as_py()),
    }
    _check(table, n)
    question = table["question_start"].to_numpy()
    group = Prompts(
        task=table["task"][0].as_py(),
        n=n,
        seed=int(table["seed"][0].as_py()),
        widths=widths,
        partner=np.array(table["partner"][0].as_py(), np.int64),
        example=example,
        prompt_id=table["prompt_id"].to_numpy().astype(np.int64),
        query=table["query_slot"].to_numpy().astype(np.int64),
        rotation=table["rotation"].to_numpy().astype(np.int64),
        split=_words(table["split"]),
        context=_words(table["context"]),
        entity=tokens("entity_span", 0),
        attribute=tokens("attr_span", 0),
        option=tokens("option_span", 1),
        ctx_end=places.token(example, first, question),
        n_token=table["n_token"].to_numpy().astype(np.int64),
        answers=_answers(table["answer_token_ids"]),
    )
    _check_places(group)
    return group


def _check(table: pa.Table, n: int) -> None:
    """Refuse rows whose columns do not fit each other."""
    rows = table.select([name for name in COLUMNS if name in table.column_names]).to_pylist()
    for row in rows:
        wrong = [name for name in ("entity_span", "attr_span") if row[name] and len(row[name]) != n]
        if not isinstance(row["query_slot"], int) or not 0 <= row["query_slot"] <= 2 * n:
            wrong.append("query_slot")
        if not row["answer_token_ids"] or min(row["answer_token_ids"]) < 0:
            wrong.append("answer_token_ids")
        if wrong:
            message = (
                f"prompt {row['prompt_id']} of task {row['task']} with {n} entities has "
                f"{wrong[0]} {row[wrong[0]]!r}, which does not fit: make prompts with "
                "residuum.prompts.binding"
            )
            raise InputError(message)


def _check_places(group: Prompts) -> None:
    """Refuse words that reach into the question."""
    for kind, first in ((ENTITY, group.entity), (ATTRIBUTE, group.attribute)):
        behind = (first >= 0) & (first + group.widths[kind] > group.ctx_end[:, None])
        if behind.any():
            number = int(np.flatnonzero(behind.any(1))[0])
            message = (
                f"{kind} words of {group.widths[kind]} tokens reach into the question of prompt "
                f"{group.prompt_id[number]} of task {group.task}: give a smaller width"
            )
            raise InputError(message)


def _words(column: pa.ChunkedArray) -> NDArray[np.str_]:
    return np.array(column.to_pylist(), np.str_)


def _answers(column: pa.ChunkedArray) -> Ints:
    """Token ids `[prompt, item]`, -1 for items that a prompt id does not have."""
    listed = column.to_pylist()
    most = max(map(len, listed))
    return np.array([[*ids, *[-1] * (most - len(ids))] for ids in listed], np.int64)


def _spans(column: pa.ChunkedArray, n: int) -> Ints:
    """Spans `[prompt, slot, 2]`, -1 where there are none."""
    listed: list[Sequence[Any]] = column.to_pylist()
    return np.array([spans or [[-1, -1]] * n for spans in listed], np.int64)
