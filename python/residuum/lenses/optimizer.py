"""SGD with Nesterov's momentum, and Adam (amsgrad), as torch computes them; on any arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Array = Any
    """Of numpy or torch."""

BETA_2, EPS = 0.999, 1e-8


class Optimizer(Protocol):
    """Changes parameters in place."""

    buffers: list[Array]
    """What it remembers, for a training that goes on later."""

    def step(self, number: int, gradients: Sequence[Array], rate: float) -> None:
        """The step of that number, from 0, against gradients, which are used up."""
        ...


class SGD:
    """`b = m b + g`, then `p -= rate (g + m b)`, with g the gradient plus the decay."""

    def __init__(
        self, parameters: Sequence[Array], zeros: Callable[[Array], Array], m: float, decay: float
    ) -> None:
        """Start at rest; `zeros` makes an array like another."""
        self.parameters, self.m, self.decay = parameters, m, decay
        self.buffers = [zeros(p) for p in parameters]

    def step(self, number: int, gradients: Sequence[Array], rate: float) -> None:
        """One step; all are alike."""
        del number
        for p, g, b in zip(self.parameters, gradients, self.buffers, strict=True):
            g += self.decay * p
            b *= self.m
            b += g
            g += self.m * b
            p -= rate * g


class Adam:
    """Adam with the largest second moment so far (Reddi et al. 2018); decay is in the gradient."""

    def __init__(
        self,
        parameters: Sequence[Array],
        zeros: Callable[[Array], Array],
        maximum: Callable[[Array, Array], Array],
        m: float,
        decay: float,
    ) -> None:
        """Start at rest; `zeros` makes an array like another."""
        self.parameters, self.m, self.decay, self.maximum = parameters, m, decay, maximum
        n = len(parameters)
        self.buffers = [zeros(p) for _ in range(3) for p in parameters]
        self._first, self._second = self.buffers[:n], self.buffers[n : 2 * n]
        self._most = self.buffers[2 * n :]

    def step(self, number: int, gradients: Sequence[Array], rate: float) -> None:
        """One step; moments of the first are corrected most."""
        rate = rate / (1 - self.m ** (number + 1))
        correction = 1 - BETA_2 ** (number + 1)
        each = zip(self.parameters, gradients, self._first, self._second, self._most, strict=True)
        for p, g, first, second, most in each:
            g += self.decay * p
            first *= self.m
            first += (1 - self.m) * g
            second *= BETA_2
            g *= g
            second += (1 - BETA_2) * g
            most[...] = self.maximum(most, second)
            p -= rate * first / ((most / correction) ** 0.5 + EPS)
