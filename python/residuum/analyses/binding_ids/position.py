"""B2, position independence: is an answer found by where its token stands?

Rotary models: the keys of slots 0 and 1 are moved towards each other, step by step, past a full
exchange. Where positions are in the stream itself, the two slots' whole columns are exchanged. That
changes nothing by construction, as attention over frozen columns has no other way to tell where
they stand; what it shows is that position, there, is a part of what a column holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.binding_ids.calibration import chosen, share
from residuum.analyses.binding_ids.means import own_queries
from residuum.analyses.binding_ids.prompts import CATEGORIES
from residuum.analyses.binding_ids.subject import Exchange, Turn

if TYPE_CHECKING:
    from residuum.analyses.binding_ids.prompts import Prompts
    from residuum.analyses.binding_ids.subject import Intervention, Subject

Rows = list[dict[str, Any]]
BOTH = "both"
LOCAL = 2
"""Steps around no move and around a full exchange that are marked as local."""


def by_keys(subject: Subject, prompts: Prompts, span: int) -> Rows:
    """Keys of slot 0 moved by +x and of slot 1 by -x, x from -span to span beyond the distance."""
    asked = own_queries(prompts)
    asked = asked.take(asked.query < prompts.n)
    cases: list[tuple[str, int, int]] = []
    interventions: list[Intervention] = []
    for category in CATEGORIES:
        first, second = (asked.tokens(category, slot) for slot in (0, 1))
        distance = int(np.median(second[:, 0] - first[:, 0]))
        for x in range(min(0, distance) - span, max(0, distance) + span + 1):
            cases.append((category, x, distance))
            interventions.append(
                (Turn(first, np.full_like(first, x)), Turn(second, np.full_like(second, -x)))
                if x
                else ()
            )
    return _rows(subject, asked, "keys", cases, interventions)


def by_columns(subject: Subject, prompts: Prompts) -> Rows:
    """The columns of slots 0 and 1 exchanged, of entities, attributes and both."""
    asked = own_queries(prompts)
    asked = asked.take(asked.query < prompts.n)
    cases: list[tuple[str, int, int]] = []
    interventions: list[Intervention] = []
    for category in (*CATEGORIES, BOTH):
        kinds = CATEGORIES if category == BOTH else (category,)
        distance = int(np.median(asked.tokens(kinds[0], 1)[:, 0] - asked.tokens(kinds[0], 0)[:, 0]))
        cases += [(category, 0, distance), (category, distance, distance)]
        exchanged = tuple(Exchange(asked.tokens(kind, 0), asked.tokens(kind, 1)) for kind in kinds)
        interventions += [(), exchanged]
    return _rows(subject, asked, "columns", cases, interventions)


def _rows(
    subject: Subject,
    asked: Prompts,
    how: str,
    cases: list[tuple[str, int, int]],
    interventions: list[Intervention],
) -> Rows:
    scores = subject.scores(asked, asked.answers[:, : asked.n], interventions)
    rows = []
    for i, (category, offset, distance) in enumerate(cases):
        near = min(abs(offset), abs(offset - distance)) <= LOCAL
        for query in range(asked.n):
            mine = asked.query == query
            logprob = scores.logprob[i, mine]
            best = chosen(logprob)
            rows += [
                {
                    "how": how,
                    "category": category,
                    "offset": offset,
                    "distance": distance,
                    "is_local": near,
                    "query": query,
                    "answer": answer,
                    "is_right": int(asked.partner[query]) == answer,
                    "mean_logprob": float(logprob[:, answer].mean()),
                    "chosen": share(best == answer),
                    "n": int(mine.sum()),
                }
                for answer in range(asked.n)
            ]
    return rows
