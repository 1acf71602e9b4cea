"""Accuracy by state and demonstration (O1, O2): the overthinking curve."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.overthinking import metrics
from residuum.analyses.overthinking.metrics import Floats, Mean
from residuum.analyses.overthinking.tasks import PREFIXES, Task
from residuum.errors import SiteError

if TYPE_CHECKING:
    from residuum.analyses.overthinking.lens import Lens, Seen

METRICS = ("calibrated", "uncalibrated", "top_1", "label_space", "top_match", "permuted_score")
ALL = "all"


@dataclass(frozen=True, eq=False)
class Curve:
    """What the lens sees of one task.

    Attributes:
        last: calibrated accuracy at the last demonstration, float64 `[state, prefix, pair]`.
        means: by (state, demo, prefix number, metric).
    """

    task: Task
    last: Floats
    means: Mapping[tuple[int, int, int, str], Mean]


def curve(task: Task, lens: "Lens", *, all_demos: bool) -> Curve:
    """Measure one task.

    Raises:
        SiteError: the token before the last label is not stored, or a state was not captured.
    """
    stored = task.stored()
    if task.last not in stored:
        message = (
            f"overthinking reads the token before the last label of each prompt, and "
            f"{lens.states.store.path} does not hold all of them: capture with --positions all, "
            "or a column that marks them"
        )
        raise SiteError(message)
    few = [demo for demo in dict.fromkeys((0, task.last)) if demo in stored]
    means: dict[tuple[int, int, int, str], Mean] = {}
    last = np.empty((lens.n_state, 2, len(task.true)))
    for state in range(lens.n_state):
        demos = stored if all_demos or state == lens.n_state - 1 else few
        seen = lens.at(task, state, demos)
        for number, demo in enumerate(demos):
            for prefix in range(len(PREFIXES)):
                values = measured(task, seen, prefix, number, demo)
                means |= {
                    (state, demo, prefix, metric): metrics.mean_of(of_prompts)
                    for metric, of_prompts in values.items()
                }
                if demo == task.last:
                    last[state, prefix] = values["calibrated"]
    return Curve(task, last, means)


def measured(task: Task, seen: "Seen", prefix: int, number: int, demo: int) -> dict[str, Floats]:
    """All measures, `[pair]`, of the `number`-th demonstration that was seen."""
    p, top = seen.p[:, prefix, number], seen.top[:, prefix, number]
    true, shown = task.true[:, demo], task.shown[:, demo]
    return {
        "calibrated": metrics.calibrated(p, true),
        "uncalibrated": metrics.uncalibrated(p, true),
        "top_1": metrics.top_1(top, task.token_id, true),
        "label_space": p.sum(1),
        "top_match": metrics.top_match(top, task.token_id),
        "permuted_score": metrics.calibrated(p, shown),
    }


def rows(curves: list[Curve], model: str) -> Iterator[dict[str, Any]]:
    """Rows of `accuracy`: each task, the average of formats, and the average of data sets."""
    for setting in dict.fromkeys(one.task.setting for one in curves):
        mine = [one for one in curves if one.task.setting == setting]
        by_dataset = [
            [one for one in mine if one.task.dataset == name]
            for name in dict.fromkeys(one.task.dataset for one in mine)
        ]
        whole = []
        for formats in by_dataset:
            name = formats[0].task.dataset
            for one in formats:
                yield from _of(model, name, setting, one.task.format, one.means, _chance([one]))
            average = _average([one.means for one in formats])
            whole.append(average)
            if len(formats) > 1:
                yield from _of(model, name, setting, ALL, average, _chance(formats))
        if len(whole) > 1:
            chance = float(np.mean([_chance(formats) for formats in by_dataset]))
            yield from _of(model, ALL, setting, ALL, _average(whole), chance)


def _chance(curves: list[Curve]) -> float:
    return float(np.mean([1 / one.task.n_class for one in curves]))


def _average(
    means: list[Mapping[tuple[int, int, int, str], Mean]],
) -> Mapping[tuple[int, int, int, str], Mean]:
    """The average of what all have: data sets may have different numbers of demonstrations."""
    shared = [key for key in means[0] if all(key in other for other in means)]
    return {key: metrics.average([one[key] for one in means]) for key in shared}


def _of(
    model: str,
    dataset: str,
    setting: str,
    format_: str,
    means: Mapping[tuple[int, int, int, str], Mean],
    chance: float,
) -> Iterator[dict[str, Any]]:
    for (state, demo, prefix, metric), mean in means.items():
        yield {
            "model": model,
            "dataset": dataset,
            "setting": setting,
            "format": format_,
            "prefix": PREFIXES[prefix],
            "state_index": state,
            "demo": demo,
            "metric": metric,
            **mean.band,
            "chance": chance,
        }
