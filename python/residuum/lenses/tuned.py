"""`TunedLens`: the translators of a model's states."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Translator:
    """`h + h @ weight.T + bias`: the identity where both are zero.

    Attributes:
        weight: float32 `[d_model, d_model]`, of the convention of `torch.nn.Linear`.
        bias: float32 `[d_model]`.
    """

    weight: Floats
    bias: Floats

    def __call__(self, h: Floats) -> Floats:
        """`[row, d_model]` -> the same."""
        return np.asarray(h + h @ self.weight.T + self.bias)


@dataclass(frozen=True, eq=False)
class TunedLens:
    """Translators by state, and what they were made for.

    Attributes:
        translators: by state, from 0; states that were not trained are missing. The last state, the
            model's own output, has none.
        n_state: of the model, one more than blocks.
        about: what else is known: `model`, `weights_hash`, `recipe`, … (plain values).
    """

    translators: Mapping[int, Translator]
    n_state: int
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def d_model(self) -> int:
        """Width of the stream."""
        return len(next(iter(self.translators.values())).bias)

    @classmethod
    def untrained(cls, n_state: int, d_model: int) -> TunedLens:
        """The logit lens: identities."""
        zero = np.zeros((d_model, d_model), np.float32)
        each = Translator(zero, np.zeros(d_model, np.float32))
        return cls(dict.fromkeys(range(n_state - 1), each), n_state)

    def translated(self, state: int, h: Floats) -> Floats:
        """Rows of a state, `[row, d_model]`, as if they had gone through the rest of the model.

        Raises:
            ArgumentError: the lens was not trained there.
        """
        if state == self.n_state - 1:
            return h
        if state not in self.translators:
            known = ", ".join(map(str, sorted(self.translators)))
            message = f"the lens has no translator for state {state}, only for {known}"
            raise ArgumentError(message)
        return self.translators[state](h)
