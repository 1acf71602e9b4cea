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
"""Of examples in each split, for an interval."""
TOP = 5
"""Log-probabilities of a layer that are features, where no candidates are named."""
LEAST = 10
"""Clean examples of a task."""


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
        raw = study.states.finite(study.states.n_state - 1, items).astype(np.float64)
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
        clean, odd = (len(_by_example(study, rows)) for rows in (task.clean, task.odd))
        if clean < LEAST or not odd:
            message = (
                f"{task.name} has {clean} examples with clean and {odd} with odd rows among what "
                f"the lens was not trained on: there have to be {LEAST} and 1"
            )
            raise InputError(message)
    yield from made


def _unseen(study: Study, rows: Rows) -> Rows:
    """Those that the lens was not trained on."""
    return rows[np.isin(rows, study.judged)]


def _asked(study: Study, query: str) -> Iterator[Task]:
    """The tasks of a query's rows, as far as the lens was not trained on them.

    Raises:
        ArgumentError: a query that DuckDB refuses, columns that are missing or mean nothing.
        InputError: no rows that are judged.
    """
    import duckdb

    try:
        table = study.store.sql(query).to_arrow_table()
    except duckdb.Error as error:
        message = f"anomalies is no query that can be answered: {error}"
        raise ArgumentError(message) from error
    _check_columns(table)
    row = table["row"].to_numpy().astype(np.int64)
    candidates = _candidates(study, table)
    there = np.isin(row, study.judged)
    if not there.any():
        message = (
            f"anomalies gives {len(row)} rows, none of which is of an example that the lens is "
            f"judged by, as it was not trained on it; {study.store.path} has "
            f"{len(study.judged)} such rows"
        )
        raise InputError(message)
    clean = table["clean"].to_numpy()
    names = np.array(["all"] * len(row), object)
    if "task" in table.column_names:
        names = np.array([str(one) for one in table["task"].to_pylist()], object)
    for name in dict.fromkeys(names[there]):
        mine = there & (names == name)
        # Repeated inputs share their rows, so that a join names these more than once.
        usual, odd = np.unique(row[mine & clean]), np.unique(row[mine & ~clean])
        both = np.intersect1d(usual, odd)
        if len(both):
            message = f"anomalies says of row {both[0]} that it is clean and that it is not"
            raise ArgumentError(message)
        yield Task(name, usual, odd, candidates)


def _check_columns(table: pa.Table) -> None:
    types = {"row": pa.types.is_integer, "clean": pa.types.is_boolean}
    for name, fits in types.items():
        if name not in table.column_names or not fits(table.schema.field(name).type):
            message = (
                "anomalies is a query with the columns row (a whole number) and clean (true or "
                f"false), and if wanted task and candidates; {name} is not among "
                f"{', '.join(f'{f.name} {f.type}' for f in table.schema)}"
            )
            raise ArgumentError(message)
        if table[name].null_count:
            message = f"anomalies gives null as {name} of {table[name].null_count} rows"
            raise ArgumentError(message)


def _candidates(study: Study, table: pa.Table) -> Rows | None:
    """The tokens whose log-probabilities are features."""
    if "candidates" not in table.column_names:
        return None
    kind = table.schema.field("candidates").type
    if not pa.types.is_list(kind) or not pa.types.is_integer(kind.value_type):
        message = f"candidates are a list of token ids, such as [7, 12], not {kind}"
        raise ArgumentError(message)
    lists = {None if one is None else tuple(one) for one in table["candidates"].to_pylist()}
    if len(lists) != 1:
        message = f"the candidates are the same tokens for all rows, not {len(lists)} lists"
        raise ArgumentError(message)
    (ids,) = lists
    d_vocab = study.readout.d_vocab
    if not ids or not all(one is not None and 0 <= one < d_vocab for one in ids):
        message = f"candidates are token ids from 0 to {d_vocab - 1}, one at least, not {ids}"
        raise ArgumentError(message)
    return np.array(ids, np.int64)


def trajectories(
    study: Study, lens: TunedLens | None, rows: Rows, candidates: Rows | None
) -> Doubles:
    """The features of rows: log-probabilities at every layer, the largest first, `[row, feature]`.

    Sorted, so that it does not matter which answer is the right one.
    """
    parts = []
    for layer in study.layers:
        at = None if layer == study.layers[-1] else lens
        normed = study.normed(at, layer, study.states.finite(layer, rows))
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
    """Of odd items, and of clean ones that were not learnt from: half against half.

    Examples, not rows, are split and drawn: the tokens of one are alike.
    """
    of = study.params
    clean, odd = (_by_example(study, rows) for rows in (task.clean, task.odd))
    far = [len(task.clean) + one for one in odd]
    n_train = max(2, round(of.train_share * len(clean)))
    _refuse_share(task, of.train_share, len(clean) - n_train)
    found: dict[str, list[tuple[float, Doubles]]] = {"odd": [], "clean": []}
    for split in range(of.splits):
        rng = np.random.default_rng([of.seed, split])
        order = rng.permutation(len(clean))
        train, test = ([clean[i] for i in some] for some in (order[:n_train], order[n_train:]))
        learnt = x[np.concatenate(train)]
        oddness = scores(detector, learnt, x, neighbours=of.neighbours, seed=split)
        half = len(test) // 2
        found["odd"].append(_interval(oddness, test, far, rng))
        found["clean"].append(_interval(oddness, test[:half], test[half:], rng))
    for against, each in found.items():
        draws = np.concatenate([drawn for _, drawn in each])
        lo, hi = np.percentile(draws, [2.5, 97.5])
        n_test = len(clean) - n_train
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
            "n_test": n_test + len(odd) if against == "odd" else n_test,
        }


def _refuse_share(task: Task, share: float, n_left: int) -> None:
    """Refuse to learn from all but one: the control tells halves of the others apart.

    Raises:
        ArgumentError: fewer than two clean examples are left.
    """
    if n_left < 2:
        message = (
            f"train_share={share} of the clean examples of {task.name} leaves {n_left} to be told "
            "from odd ones, and there have to be two: give a smaller share"
        )
        raise ArgumentError(message)


def _by_example(study: Study, rows: Rows) -> list[Rows]:
    """Places of the rows of each example."""
    _, owner = np.unique(study.tokens.example[rows], return_inverse=True)
    return [np.flatnonzero(owner == one) for one in range(int(owner.max(initial=-1)) + 1)]


def _interval(
    oddness: Doubles, clean: list[Rows], odd: list[Rows], rng: np.random.Generator
) -> tuple[float, Doubles]:
    """AUROC, and that of draws of the examples with replacement."""

    def drawn(of: list[Rows]) -> Doubles:
        some = [of[i] for i in rng.integers(len(of), size=len(of))]
        return np.asarray(oddness[np.concatenate(some)])

    draws = [auroc(drawn(clean), drawn(odd)) for _ in range(DRAWS)]
    return auroc(*(oddness[np.concatenate(of)] for of in (clean, odd))), np.array(draws)
