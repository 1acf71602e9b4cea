"""Where the prefixes part, and where to stop: critical layers and early exit (O3).

Everything is by `state_index`. The paper's code saves such numbers as critical layers and reads
them as numbers of blocks, one too far.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from residuum.analyses.overthinking.curves import ALL, Curve
from residuum.analyses.overthinking.metrics import Floats, average, mean_of

NOISE = 2.0
"""Standard errors that a gap has to exceed to be one."""


@dataclass(frozen=True, eq=False)
class Gap:
    """The gap between the prefixes in one data set, formats averaged.

    Attributes:
        gap: float64 `[state]`, calibrated accuracy of the true prefix minus that of the false one.
        error: of the last one, its standard error over pairs.
        accuracy: float64 `[state, prefix]`.
    """

    dataset: str
    setting: str
    gap: Floats
    error: float
    accuracy: Floats
    n: int

    @property
    def there(self) -> bool:
        """Whether the final gap is above noise."""
        return bool(self.gap[-1] > NOISE * self.error)

    @property
    def critical(self) -> int | None:
        """The first state with half of the final gap; None where there is none to halve."""
        return int(np.argmax(self.gap >= self.gap[-1] / 2)) if self.there else None


def gaps(curves: list[Curve]) -> list[Gap]:
    """One for each setting and data set, and one for the average of several data sets."""
    found = []
    for setting in dict.fromkeys(one.task.setting for one in curves):
        mine = [one for one in curves if one.task.setting == setting]
        names = list(dict.fromkeys(one.task.dataset for one in mine))
        of = [_gap(name, setting, [c for c in mine if c.task.dataset == name]) for name in names]
        found += of
        if len(of) > 1:
            found.append(
                Gap(
                    ALL,
                    setting,
                    np.mean([one.gap for one in of], axis=0),
                    float(np.sqrt(sum(one.error**2 for one in of))) / len(of),
                    np.mean([one.accuracy for one in of], axis=0),
                    sum(one.n for one in of),
                )
            )
    return found


def _gap(dataset: str, setting: str, curves: list[Curve]) -> Gap:
    accuracy = np.mean([one.last.mean(2) for one in curves], axis=0)
    final = average([mean_of(one.last[-1, 0] - one.last[-1, 1]) for one in curves])
    return Gap(dataset, setting, accuracy[:, 0] - accuracy[:, 1], final.error, accuracy, final.n)


def critical_rows(found: list[Gap], model: str) -> list[dict[str, Any]]:
    """Rows of `critical_layers`."""
    return [
        {
            "model": model,
            "dataset": one.dataset,
            "setting": one.setting,
            "state_index": one.critical,
            "block": block_of(one.critical),
            "final_gap": one.gap[-1],
            "final_gap_error": one.error,
            "n": one.n,
        }
        for one in found
    ]


def block_of(state: int | None) -> int | None:
    """The block that a state leaves; None of the embedding."""
    return state - 1 if state else None


def exit_state(found: list[Gap], setting: str) -> int:
    """Where early exit gains most for false prefixes, summed over the data sets of a setting."""
    gains = [
        one.accuracy[:, 1] - one.accuracy[-1, 1]
        for one in found
        if one.setting == setting and one.dataset != ALL
    ]
    return int(np.argmax(np.sum(gains, axis=0)))


def exit_rows(found: list[Gap], states: dict[str, int], model: str) -> list[dict[str, Any]]:
    """Rows of `early_exit`, given the state of each setting."""
    made = []
    for one in found:
        state = states[one.setting]
        at, end = one.accuracy[state], one.accuracy[-1]
        made.append(
            {
                "model": model,
                "dataset": one.dataset,
                "setting": one.setting,
                "state_index": state,
                "block": block_of(state),
                "acc_true": at[0],
                "acc_false": at[1],
                "delta_true": at[0] - end[0],
                "delta_false": at[1] - end[1],
            }
        )
    return made
