"""B3, B4 and B5: IDs changed by adding differences of means.

Slot i's activations hold its content and its ID. Adding delta(h) - delta(g) turns ID g into h, so
that entities and attributes can be bound anew without touching their content.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.binding_ids.calibration import chosen, medians, share
from residuum.analyses.binding_ids.prompts import ATTRIBUTE, CATEGORIES, ENTITY
from residuum.analyses.binding_ids.subject import Shift, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from residuum.analyses.binding_ids.deltas import Deltas
    from residuum.analyses.binding_ids.prompts import Prompts
    from residuum.analyses.binding_ids.subject import Intervention, Scores, Subject

Rows = list[dict[str, Any]]


def promoted(prompts: Prompts) -> Turn:
    """All attributes' keys as if they stood where the last attribute does.

    So that a preference for near tokens does not hide the ID.
    """
    last = prompts.attribute.max(1)
    tokens = np.concatenate([prompts.tokens(ATTRIBUTE, slot) for slot in range(prompts.n)], 1)
    steps = np.repeat(last[:, None] - prompts.attribute, prompts.widths[ATTRIBUTE], 1)
    # Widths that overlap name a token twice.
    if len(np.unique(tokens[0])) < tokens.shape[1]:
        _, first = np.unique(tokens[0], return_index=True)
        tokens, steps = tokens[:, first], steps[:, first]
    return Turn(tokens, steps)


def rebound(
    prompts: Prompts, deltas: Deltas, to: dict[str, Sequence[int]], *, promote: bool
) -> Intervention:
    """Give slots other IDs: by category the new ID of slots 0, 1, ….

    With `promote`, attributes' keys are moved where attributes are changed.
    """
    changes: list[Shift | Turn] = []
    for category, ids in to.items():
        changes += [
            Shift(prompts.tokens(category, slot), deltas.change(category, new, slot))
            for slot, new in enumerate(ids)
            if new != slot
        ]
    if promote and ATTRIBUTE in to and changes:
        changes.append(promoted(prompts))
    return tuple(changes)


def own_queries(prompts: Prompts) -> Prompts:
    """Test prompts that ask about an item of their context, and about the first that is absent.

    The last is the null query of calibration.
    """
    asked = prompts.of("test", "default")
    return asked.take(asked.query <= prompts.n)


def mean_intervention(
    subject: Subject, prompts: Prompts, deltas: Deltas, *, seeds: Sequence[int], promote: bool
) -> tuple[Rows, Rows]:
    """B3: exchange the IDs of slots 0 and 1; rows of `mean_intervention` and `mean_scores`.

    Accuracy counts the answer that was right before, so that IDs predict 1, 0, 0, 1 for none,
    attributes, entities and both. Calibrated by the medians of the null query.
    """
    asked = own_queries(prompts)
    exchanged = [1, 0, *range(2, prompts.n)]
    kinds: list[tuple[str, int, Deltas]] = [("mean", 0, deltas)]
    kinds += [("random", seed, deltas.random(np.random.default_rng(seed))) for seed in seeds]
    cases = [
        (*kind, entity, attr) for kind, entity, attr in product(kinds, (False, True), (False, True))
    ]
    interventions = [
        rebound(
            asked,
            by,
            {
                category: exchanged
                for category, wanted in zip(CATEGORIES, (entity, attr), strict=True)
                if wanted
            },
            promote=promote,
        )
        for _, _, by, entity, attr in cases
    ]
    scores = subject.scores(asked, asked.answers[:, : prompts.n], interventions)
    table: Rows = []
    single: Rows = []
    for i, (kind, seed, _, entity, attr) in enumerate(cases):
        common = {"delta": kind, "draw": seed, "swap_entity": entity, "swap_attr": attr}
        null = asked.query == prompts.n
        shift = medians(scores.logprob[i, null]) if null.any() else None
        table += _by_query(asked, scores, i, common, shift, n_query=prompts.n)
        single += _single(asked, scores, i, common)
    return table, single


def _by_query(
    asked: Prompts,
    scores: Scores,
    i: int,
    common: dict[str, Any],
    shift: NDArray[np.float64] | None,
    *,
    n_query: int,
) -> Rows:
    rows = []
    for query in range(n_query):
        mine = asked.query == query
        right = int(asked.partner[query])
        logprob = scores.logprob[i, mine]
        is_top = asked.answers[mine, right] == scores.top[i, mine]
        calibrated = None if shift is None else share(chosen(logprob, shift) == right)
        rows.append(
            {
                **common,
                "query": query,
                "accuracy": share(chosen(logprob) == right),
                "cal_accuracy": calibrated,
                "raw_accuracy": share(is_top),
                "mean_logprob": float(logprob[:, right].mean()),
                "n": int(mine.sum()),
            }
        )
    return rows


def _single(asked: Prompts, scores: Scores, i: int, common: dict[str, Any]) -> Rows:
    """Each prompt's log-probs."""
    return [
        {
            **common,
            "prompt_id": int(asked.prompt_id[row]),
            "query_slot": int(asked.query[row]),
            "answer": answer,
            "logprob": float(scores.logprob[i, row, answer]),
        }
        for row in range(len(asked))
        for answer in range(asked.n)
    ]


def cyclic(subject: Subject, prompts: Prompts, deltas: Deltas, *, promote: bool) -> Rows:
    """B4: IDs move on by `perm` slots; the accuracy of the answer that then is right.

    An entity that takes the ID of slot i + p asks for that slot's attribute; an attribute that
    takes it answers for that slot's entity, so that the answers move the other way.
    """
    asked = own_queries(prompts)
    asked = asked.take(asked.query < prompts.n)
    n = prompts.n
    cases = [("none", 0), *product(CATEGORIES, range(1, n))]
    interventions = [
        rebound(
            asked,
            deltas,
            {kind: [(slot + perm) % n for slot in range(n)]} if perm else {},
            promote=promote,
        )
        for kind, perm in cases
    ]
    scores = subject.scores(asked, asked.answers[:, :n], interventions)
    rows = []
    for i, (kind, perm) in enumerate(cases):
        shift = medians(scores.logprob[i])
        for query in range(n):
            mine = asked.query == query
            right = moved(prompts.partner, kind, perm, query)
            logprob = scores.logprob[i, mine]
            rows.append(
                {
                    "intervention": kind,
                    "perm": perm,
                    "query": query,
                    "accuracy": share(chosen(logprob) == right),
                    "cal_accuracy": share(chosen(logprob, shift) == right),
                    "raw_accuracy": share(asked.answers[mine, right] == scores.top[i, mine]),
                    "chance": 1 / n,
                    "n": int(mine.sum()),
                }
            )
    return rows


def moved(partner: NDArray[np.int64], kind: str, perm: int, query: int) -> int:
    """The slot whose attribute answers a query after IDs have moved on by `perm`."""
    n = len(partner)
    if kind == ENTITY:
        return int(partner[(query + perm) % n])
    return int((partner[query] - perm) % n) if kind == ATTRIBUTE else int(partner[query])


def transfer(
    subject: Subject, prompts: Prompts, own: Deltas, source: Deltas, name: str, *, promote: bool
) -> dict[str, Any]:
    """B5: the target's own IDs are taken off both categories, and a source's are put on.

    Attributes get them in every cyclic order (the unmoved one too), so that without any IDs (zeros)
    all slots are alike and the intended answer is as likely as the others.
    """
    asked = own_queries(prompts)
    asked = asked.take(asked.query < prompts.n)
    n = prompts.n
    interventions = []
    for perm in range(n):
        changes: list[Shift | Turn] = []
        for category, slot in product(CATEGORIES, range(n)):
            new = (slot + perm) % n if category == ATTRIBUTE else slot
            by = source.by[category][new] - own.by[category][slot]
            changes.append(Shift(asked.tokens(category, slot), by))
        if promote:
            changes.append(promoted(asked))
        interventions.append(tuple(changes))
    scores = subject.scores(asked, asked.answers[:, :n], interventions)
    right_plain, right, intended = [], [], []
    for perm in range(n):
        answer = np.array([moved(asked.partner, ATTRIBUTE, perm, q) for q in asked.query])
        logprob = scores.logprob[perm]
        right_plain.append(chosen(logprob) == answer)
        right.append(chosen(logprob, medians(logprob)) == answer)
        intended.append(logprob[np.arange(len(answer)), answer])
    return {
        "source_task": name,
        "target_task": prompts.task,
        "accuracy": share(np.concatenate(right_plain)),
        "cal_accuracy": share(np.concatenate(right)),
        "mean_logprob_of_intended": float(np.concatenate(intended).mean()),
        "chance": 1 / n,
        "n": len(asked) * n,
    }
