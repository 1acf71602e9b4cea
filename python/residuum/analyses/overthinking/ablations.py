"""Ablations (O5), by replay at the last token before the label.

Keys and values of all other tokens come from what is stored.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from residuum.analyses.overthinking import metrics
from residuum.analyses.overthinking.cases import Case, Editor
from residuum.analyses.overthinking.curves import ALL
from residuum.analyses.overthinking.metrics import Mean, average, mean_of
from residuum.analyses.overthinking.tasks import PREFIXES, Task
from residuum.analyses.overthinking.turning import NOISE
from residuum.replay.plan import Read, Run
from residuum.sites import Site

if TYPE_CHECKING:
    from residuum.analyses.overthinking.lens import Lens, Seen
    from residuum.replay.engine import Replay
    from residuum.replay.weights import Weights

BUDGET = 256 << 20
"""Bytes of the streams that are replayed at once; those of one example share what is cached."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a case gives in one task, by prefix.

    Attributes:
        accuracy: calibrated, of the last state.
        top_1: the same, plain.
        gap_error: standard error of the gap between the prefixes, over pairs.
    """

    accuracy: tuple[Mean, Mean]
    top_1: tuple[Mean, Mean]
    gap_error: float


def outcomes(
    task: Task,
    lens: "Lens",
    replay: "Replay",
    weights: "Weights",
    cases: Sequence[Case],
    *,
    exit_state: int,
    kind: str,
    mlp_bias: bool,
) -> list[Outcome]:
    """Each case in one task; `none` and `late_layers` are read, the others replayed."""
    states = {"none": lens.n_state - 1, "late_layers": exit_state}
    rows, tokens = (values[:, :, task.last].ravel() for values in (task.row, task.token))
    editor = Editor(replay, weights, rows, tokens, kind, mlp_bias=mlp_bias)
    # Random draws repeat; each different ablation is replayed once.
    replayed = {case.same: case for case in cases if case.name not in states}
    found = {
        same: _outcome(task, lens.of_stream(stream, task.token_id))
        for same, stream in zip(replayed, _streams(editor, list(replayed.values())), strict=True)
    }
    read = {
        name: _outcome(task, lens.at(task, state, [task.last])) for name, state in states.items()
    }
    return [read[case.name] if case.name in read else found[case.same] for case in cases]


def _streams(editor: Editor, cases: Sequence[Case]) -> Iterator[NDArray[np.float32]]:
    """What leaves the last block in each case, `[run, d_model]`; many cases are replayed at once.

    Replays of one example share what is cached of it.
    """
    replay, n = editor.replay, len(editor.rows)
    last = replay.of.n_layer - 1
    examples = [replay.resolver.example(editor.rows[run : run + 1]) for run in range(n)]
    together = max(1, BUDGET // (4 * n * replay.of.d_model))
    for first in range(0, len(cases), together):
        runs = [
            Run(
                example.first_row,
                example.n_token,
                edits,
                [Read(Site.RESID_POST, last, editor.tokens[run : run + 1])],
            )
            for case in cases[first : first + together]
            for run, (example, edits) in enumerate(zip(examples, editor.edits(case), strict=True))
        ]
        found = np.concatenate(replay.streams(runs)).astype(np.float32, copy=False)
        yield from found.reshape(-1, n, found.shape[-1])


def _outcome(task: Task, seen: "Seen") -> Outcome:
    """From rows `[pair * prefix]`; each prefix has thresholds of its own."""
    p = seen.p.reshape(-1, 2, seen.p.shape[-1])
    top = seen.top.reshape(-1, 2, seen.top.shape[-1])
    label = task.true[:, task.last]
    right = [metrics.calibrated(p[:, prefix], label) for prefix in range(2)]
    top_1 = [mean_of(metrics.top_1(top[:, prefix], task.token_id, label)) for prefix in range(2)]
    return Outcome(
        (mean_of(right[0]), mean_of(right[1])),
        (top_1[0], top_1[1]),
        mean_of(right[0] - right[1]).error,
    )


def averaged(found: Sequence[Outcome]) -> Outcome:
    """The average of formats or data sets."""
    return Outcome(
        (average([one.accuracy[0] for one in found]), average([one.accuracy[1] for one in found])),
        (average([one.top_1[0] for one in found]), average([one.top_1[1] for one in found])),
        float(np.sqrt(sum(one.gap_error**2 for one in found))) / len(found),
    )


def rows(
    found: Mapping[tuple[str, str], Sequence[Outcome]],
    cases: Mapping[str, Sequence[Case]],
    *,
    model: str,
    kind: str,
    selected: tuple[str, str],
) -> Iterator[dict[str, Any]]:
    """Rows of `ablations`.

    Args:
        found: by data set and setting, an outcome for each case.
        cases: by setting; the first is `none`.
        model: its name.
        kind: of the ablations.
        selected: data set and setting on which heads were chosen; `all` is the average of the other
            data sets.
    """
    for setting, of_setting in cases.items():
        mine = {name: of for (name, at), of in found.items() if at == setting}
        others = [of for name, of in mine.items() if name != selected[0]]
        if len(others) > 1:
            mine[ALL] = [averaged(of) for of in zip(*others, strict=True)]
        for name, of in mine.items():
            for case, outcome in zip(of_setting, of, strict=True):
                yield from _pair(case, outcome, of[0], model, name, setting, kind, selected)


def _pair(
    case: Case,
    outcome: Outcome,
    none: Outcome,
    model: str,
    dataset: str,
    setting: str,
    kind: str,
    selected: tuple[str, str],
) -> Iterator[dict[str, Any]]:
    true, false = (mean.mean for mean in none.accuracy)
    there = true - false > NOISE * none.gap_error
    replayed = case.name not in ("none", "late_layers")
    for prefix, accuracy, top_1 in zip(PREFIXES, outcome.accuracy, outcome.top_1, strict=True):
        band = accuracy.band
        yield {
            "model": model,
            "dataset": dataset,
            "setting": setting,
            "ablation": case.name,
            "kind": kind if replayed else None,
            "n_heads": len(case.heads) or None,
            "seed": case.seed,
            "parts": case.parts,
            "prefix": prefix,
            "cal_acc": accuracy.mean,
            "lo": band["lo"],
            "hi": band["hi"],
            "top_1": top_1.mean,
            "gap_reduction": (
                1 - (true - outcome.accuracy[1].mean) / (true - false) if there else None
            ),
            "delta_true": outcome.accuracy[0].mean - true,
            "n": accuracy.n,
            "selected_on": (dataset, setting) == selected,
        }
