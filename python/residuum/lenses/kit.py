"""What computes a training: Rust on the CPU, or torch on any device. Each is the other's check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Array = Any
    """Of numpy or torch."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """Rows to learn from.

    Attributes:
        states: float32 `[state, row, d_model]`, those that are trained.
        final: float32 `[row, d_model]`, what leaves the last block, for the KL; or None.
        targets: int32 `[row]`, the next tokens, negative for none, for cross-entropy; or None.
    """

    states: Floats
    final: Floats | None
    targets: NDArray[np.int32] | None

    @property
    def n_taught(self) -> int:
        """Rows that have a loss."""
        if self.targets is None:
            return int(self.states.shape[1])
        return int((self.targets >= 0).sum())


class Kit(Protocol):
    """Arrays of one library on one device."""

    def array(self, values: NDArray[Any]) -> Array:
        """A copy of numbers, in float32."""
        ...

    def numpy(self, x: Array) -> Floats:
        """Numbers for the outside."""
        ...

    def zeros(self, like: Array) -> Array:
        """Zeros of the same shape."""
        ...

    def maximum(self, x: Array, y: Array) -> Array:
        """The larger of each two numbers."""
        ...

    def learn(
        self, lesson: Lesson, parameters: Sequence[Array], gradients: Sequence[Array]
    ) -> Floats:
        """Losses `[state, row]` in nats; what they gain by each parameter is added to `gradients`.

        Parameters are weights and biases in turn: `[d_model, d_model]`, `[d_model]`, … by state.
        """
        ...
