"""B1, factorizability: slots whose entity, attribute or both come from another context.

If a slot's activations are content plus ID, an attribute from another context, put in the place of
slot s, is the answer for that slot's entity, and an entity put there owns that slot's attribute. If
an attribute holds the content of its own entity instead, a single swap leaves nothing that fits,
and the entity that was taken away is still answered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.binding_ids.calibration import chosen, share
from residuum.analyses.binding_ids.prompts import CATEGORIES
from residuum.analyses.binding_ids.subject import Put

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.binding_ids.prompts import Prompts
    from residuum.analyses.binding_ids.subject import Intervention, Subject

Rows = list[dict[str, Any]]


def swap(prompts: Prompts, disjoint: Prompts, category: str, slot: int) -> Put:
    """Slot `slot`'s entity or attribute comes from the same slot of the disjoint context."""
    donor = prompts.partners(disjoint)
    return Put(
        prompts.tokens(category, slot),
        disjoint.example[donor],
        disjoint.tokens(category, slot)[donor],
    )


def factorizability(subject: Subject, prompts: Prompts) -> tuple[Rows, Rows]:
    """Rows of the tables `factorizability` (each answer) and `swaps` (the expected one).

    Raises:
        Unsuited: a test prompt has no disjoint context.
    """
    asked, disjoint = prompts.of("test", "default"), prompts.of("test", "disjoint")
    cases = list(_cases(prompts.n))
    interventions: list[Intervention] = [
        tuple(
            swap(asked, disjoint, category, side)
            for category, wanted in zip(CATEGORIES, swapped, strict=True)
            if wanted
        )
        for side, swapped in cases
    ]
    # Without a swap all slots are alike: asked once.
    distinct = [i for i, made in enumerate(interventions) if made or not i]
    scores = subject.scores(asked, asked.answers, [interventions[i] for i in distinct])
    at = {i: place for place, i in enumerate(distinct)}
    answers: Rows = []
    expected: Rows = []
    for i, (side, swapped) in enumerate(cases):
        place = at.get(i, 0)
        where = {"side": side, "swap_entity": swapped[0], "swap_attr": swapped[1]}
        for query in np.unique(asked.query):
            mine = asked.query == query
            logprob = scores.logprob[place, mine]
            best = chosen(logprob)
            is_top = asked.answers[mine] == scores.top[place, mine, None]
            common = {**where, "query": int(query), "n": int(mine.sum())}
            answers += [
                {
                    **common,
                    "answer": answer,
                    "mean_logprob": float(logprob[:, answer].mean()),
                    "chosen": share(best == answer),
                    "top": share(is_top[:, answer]),
                }
                for answer in range(2 * prompts.n)
            ]
            expected += _expected(prompts, common, best, is_top)
    return answers, expected


def _cases(n: int) -> Iterator[tuple[int, tuple[bool, bool]]]:
    for side in range(n):
        for entity in (False, True):
            for attribute in (False, True):
                yield side, (entity, attribute)


def _expected(
    prompts: Prompts, common: dict[str, Any], best: NDArray[np.int64], is_top: NDArray[np.bool_]
) -> Rows:
    """What additive IDs predict for a query; of a removed entity, what stands in its slot."""
    n, side, query = prompts.n, common["side"], common["query"]
    removed = common["swap_entity"] and query == side
    held = [side + n if common["swap_entity"] and slot == side else slot for slot in range(n)]
    if not removed and query not in held:
        return []
    slot = side if removed else held.index(query)
    to = int(prompts.partner[slot])
    answer = to + n if common["swap_attr"] and to == side else to
    return [
        {
            **common,
            "slot": slot,
            "removed": removed,
            "expected": answer,
            "accuracy": share(best == answer),
            "raw_accuracy": share(is_top[:, answer]),
        }
    ]
