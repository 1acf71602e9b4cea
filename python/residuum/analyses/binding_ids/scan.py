"""Column scan: which token's column is an answer read from?

One context column at a time comes from the disjoint context. Where the disjoint attribute is then
answered, the answer is read there; that need not be the attribute's own token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.binding_ids.calibration import chosen, share
from residuum.analyses.binding_ids.prompts import Unsuited
from residuum.analyses.binding_ids.subject import Put

if TYPE_CHECKING:
    from residuum.analyses.binding_ids.prompts import Prompts
    from residuum.analyses.binding_ids.subject import Intervention, Subject


def column_scan(subject: Subject, prompts: Prompts) -> list[dict[str, Any]]:
    """Rows of the table `column_scan`, for each slot's query and context token.

    Raises:
        Unsuited: a test prompt has no disjoint context.
        Unsuited: contexts of different lengths, so that columns do not correspond.
    """
    asked, disjoint = prompts.of("test", "default"), prompts.of("test", "disjoint")
    asked = asked.take(asked.query < prompts.n)
    donor = asked.partners(disjoint)
    length = int(asked.ctx_end[0])
    same = np.stack([asked.ctx_end, disjoint.ctx_end[donor]]) == length
    if not (same.all() and (asked.attribute == asked.attribute[0]).all()):
        message = (
            f"the column scan needs contexts of equal length, token for token, and those of "
            f"{prompts.task} differ"
        )
        raise Unsuited(message)
    columns = [np.full((len(asked), 1), token) for token in range(length)]
    interventions: list[Intervention] = [
        (Put(column, disjoint.example[donor], column),) for column in columns
    ]
    scores = subject.scores(asked, asked.answers, interventions)
    held = {int(token): f"attribute {slot}" for slot, token in enumerate(asked.attribute[0])}
    held |= {int(token): f"entity {slot}" for slot, token in enumerate(asked.entity[0])}
    rows = []
    for token in range(length):
        for query in range(prompts.n):
            mine = asked.query == query
            best = chosen(scores.logprob[token, mine])
            right = int(prompts.partner[query])
            rows.append(
                {
                    "query": query,
                    "token": token,
                    "holds": held.get(token, ""),
                    "takes_new": share(best == right + prompts.n),
                    "keeps_old": share(best == right),
                    "n": int(mine.sum()),
                }
            )
    return rows
