"""Does the way of a prediction through the layers give odd inputs away (T7)?

Detectors learn from the trajectories of clean inputs; clean ones that they have not seen are the
control. What is clean and what is odd is a query; prompts of demonstrations are asked by default
whether their labels are true.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from residuum.analyses.overthinking.demos import COLUMNS, demo_table
from residuum.analyses.overthinking.tasks import tasks_of
from residuum.analyses.tuned_lens.detectors import DISTANCE, FOREST, LOF, scores
from residuum.analyses.tuned_lens.ranks import auroc
from residuum.errors import ArgumentError, InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.tuned_lens.study import Study
    from residuum.lenses import TunedLens

    Doubles = NDArray[np.float64]
    Rows = NDArray[np.int64]

DRAWS = 100
"""Of items in each split, for an interval."""
TOP = 5
"""Log-probabilities of a layer that are features, where no candidates are named."""
LEAST = 10
"""Clean items of a task."""


@dataclass(frozen=True, eq=False)
class Task:
    """Items that are told apart.

    Attributes:
        clean, odd: rows of the store.
        candidates: tokens whose log-probabilities are features; None is the likeliest five.
    """

    name: str
    clean: Rows
    odd: Rows
    candidates: Rows | None


def anomaly(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of the table `anomaly`."""
    for task in tasks(study):
        items = np.concatenate([task.clean, task.odd])
        by_lens = {
            name: trajectories(study, lens, items, task.candidates)
            for name, lens in study.names.items()
        }
        raw = study.states.read(study.states.n_state - 1, items).astype(np.float64)
        cases = [(lens, detector, x) for lens, x in by_lens.items() for detector in (LOF, FOREST)]
        for lens, detector, x in [*cases, (None, DISTANCE, raw)]:
            yield from _detected(study, task, lens, detector, x)


def tasks(study: Study) -> Iterator[Task]:
    """What the query names, or the pairs of prompts that there are.

    Raises:
        InputError: neither a query nor prompts of demonstrations, or too few clean items.
        ArgumentError: a query that gives something else.
    """
    store = study.store
    if study.params.anomalies is not None:
        made = list(_asked(study, study.params.anomalies))
    elif set(COLUMNS) <= set(store.examples.schema.names):
        made = [
            Task(
                ", ".join((task.dataset, task.format, task.setting)),
                _unseen(study, task.row[:, 0, task.last]),
                _unseen(study, task.row[:, 1, task.last]),
                task.token_id,
            )
            for task in tasks_of(demo_table(store, None, None), store.path)
        ]
    else:
        message = (
            f"the examples of {store.path} do not say which are odd: give a query as `anomalies`, "
            "or capture prompts of residuum.prompts.demonstrations"
        )
        raise InputError(message)
    for task in made:
        if len(task.clean) < LEAST or not len(task.odd):
            message = (
                f"{task.name} has {len(task.clean)} clean and {len(task.odd)} odd items among what "
                f"the lens was not trained on: there have to be {LEAST} and 1"
            )
            raise InputError(message)
    yield from made


def _unseen(study: Study, rows: Rows) -> Rows:
    """Those that the lens was not trained on."""
    return rows[np.isin(rows, study.judged)]


def _asked(study: Study, query: str) -> Iterator[Task]:
    table = study.store.sql(query).to_arrow_table()
    types = {"row": pa.types.is_integer, "clean": pa.types.is_boolean}
    for name, fits in types.items():
        if name not in table.column_names or not fits(table.schema.field(name).type):
            message = (
                "anomalies is a query with the columns row (a whole number) and clean (true or "
                f"false), and if wanted task and candidates; {name} is not among "
                f"{', '.join(f'{f.name} {f.type}' for f in table.schema)}"
            )
            raise ArgumentError(message)
    table = table.filter(pa.array(np.isin(table["row"].to_numpy(), study.judged)))
    has_task = "task" in table.column_names
    names = [str(one) for one in table["task"].to_pylist()] if has_task else ["all"] * len(table)
    named = None
    if "candidates" in table.column_names:
        named = {tuple(one) for one in table["candidates"].to_pylist()}
        if len(named) != 1:
            message = f"the candidates are the same tokens for all rows, not {len(named)} lists"
            raise ArgumentError(message)
    row, clean = table["row"].to_numpy().astype(np.int64), table["clean"].to_numpy()
    for name in dict.fromkeys(names):
        mine = np.array([one == name for one in names])
        candidates = None if named is None else np.array(next(iter(named)), np.int64)
        yield Task(name, row[mine & clean], row[mine & ~clean], candidates)


def trajectories(
    study: Study, lens: TunedLens | None, rows: Rows, candidates: Rows | None
) -> Doubles:
    """The features of rows: log-probabilities at every layer, the largest first, `[row, feature]`.

    Sorted, so that it does not matter which answer is the right one.
    """
    parts = []
    for layer in study.layers:
        at = None if layer == study.layers[-1] else lens
        normed = study.normed(at, layer, study.states.read(layer, rows))
        found = study.readout.statistics(normed, normed, study.tokens.target_id[rows], TOP)
        values = found.top_logprobs.astype(np.float64)
        if candidates is not None:
            logits = study.readout.unembed(normed, candidates).astype(np.float64)
            values = -np.sort(-(logits - found.lse[:, None]), axis=1)
        parts.append(values)
    return np.concatenate(parts, axis=1)


def _detected(
    study: Study, task: Task, lens: str | None, detector: str, x: Doubles
) -> Iterator[dict[str, Any]]:
    """Of odd items, and of clean ones that were not learnt from: half against half."""
    of, n_clean = study.params, len(task.clean)
    n_train = max(2, round(of.train_share * n_clean))
    found: dict[str, list[tuple[float, Doubles]]] = {"odd": [], "clean": []}
    for split in range(of.splits):
        rng = np.random.default_rng([of.seed, split])
        order = rng.permutation(n_clean)
        train, test = order[:n_train], order[n_train:]
        asked = np.concatenate([test, np.arange(n_clean, len(x))])
        odd = scores(detector, x[train], x[asked], neighbours=of.neighbours, seed=split)
        clean, far = odd[: len(test)], odd[len(test) :]
        half = len(test) // 2
        found["odd"].append(_interval(clean, far, rng))
        found["clean"].append(_interval(clean[:half], clean[half:], rng))
    for against, each in found.items():
        draws = np.concatenate([drawn for _, drawn in each])
        lo, hi = np.percentile(draws, [2.5, 97.5])
        n_test = n_clean - n_train
        yield {
            "model": study.model,
            "task": task.name,
            "lens": lens,
            "detector": detector,
            "against": against,
            "auroc": float(np.mean([value for value, _ in each])),
            "auroc_lo": float(lo),
            "auroc_hi": float(hi),
            "n_splits": of.splits,
            "n_train": n_train,
            "n_test": n_test + len(task.odd) if against == "odd" else n_test,
        }


def _interval(clean: Doubles, odd: Doubles, rng: np.random.Generator) -> tuple[float, Doubles]:
    """AUROC, and that of draws of the items with replacement."""
    draws = [auroc(rng.choice(clean, len(clean)), rng.choice(odd, len(odd))) for _ in range(DRAWS)]
    return auroc(clean, odd), np.array(draws)
