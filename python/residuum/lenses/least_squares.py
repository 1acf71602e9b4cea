"""The affine map from each state to the last that is off by the least squares: no training at all.

Din et al. 2023 (Jump to Conclusions, arXiv 2303.09435) call it a shortcut. One pass over the rows
sums products; it says where the stream will be, not what the vocabulary makes of that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from residuum.errors import ArgumentError
from residuum.lenses.tuned import Translator

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from residuum.lenses.kit import Lesson

    Doubles = NDArray[np.float64]

RIDGE = 1e-6
"""Share of each feature's sum of squares that is added to it: what keeps few rows tame."""


class Sums:
    """Products of states with themselves and with what is missing to the last state."""

    def __init__(self, n_state: int, d_model: int) -> None:
        """Nothing seen yet."""
        self.n_row = 0
        self.own = np.zeros((n_state, d_model + 1, d_model + 1))
        self.missing = np.zeros((n_state, d_model + 1, d_model))

    def add(self, lesson: Lesson) -> None:
        """Take in rows; states are often flat in some directions, so that sums are float64."""
        assert lesson.final is not None
        n_row = lesson.states.shape[1]
        ones = np.ones((n_row, 1))
        for h, own, missing in zip(lesson.states, self.own, self.missing, strict=True):
            x = np.hstack([h, ones])
            own += x.T @ x
            missing += x.T @ (lesson.final - h)
        self.n_row += n_row

    def translators(self) -> list[Translator]:
        """The maps.

        Raises:
            ArgumentError: no rows were seen.
        """
        if not self.n_row:
            message = "there are no rows to fit a lens to"
            raise ArgumentError(message)
        return [_solved(own, missing) for own, missing in zip(self.own, self.missing, strict=True)]


def _solved(own: Doubles, missing: Doubles) -> Translator:
    ridge = RIDGE * np.diag(own)
    # A feature that is always zero has no weight.
    found = np.linalg.solve(own + np.diag(np.where(ridge > 0, ridge, 1.0)), missing)
    weight = np.ascontiguousarray(found[:-1].T, np.float32)
    return Translator(weight, found[-1].astype(np.float32))


def least_squares(lessons: Iterable[Lesson], n_state: int, d_model: int) -> list[Translator]:
    """The maps of some rows, by state."""
    sums = Sums(n_state, d_model)
    for lesson in lessons:
        sums.add(lesson)
    return sums.translators()
