"""How a lens is trained: the settings of tuned-lens 0.2, and ours beside them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from typing import Any

BASE_RATE = {"sgd": 1.0, "adam": 1e-3}
"""Learning rates before `rate_scale`; SGD's is multiplied by 1 - momentum, as momentum adds up."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a training.

    Attributes:
        optimizer: "sgd" with Nesterov's momentum, or "adam" (amsgrad).
        steps: of the optimizer.
        tokens_per_step: whole examples are taken until they have as many, 2^18 in the paper; by
            default that, or all that there are to train on.
        rate_scale: factor on the learning rate, 1.0 * (1 - momentum) for SGD and 1e-3 for Adam.
        momentum: of SGD, or Adam's first beta.
        weight_decay: pulls to the identity.
        warm_up: steps of rising rate; by default none for SGD, min(1000, steps / 5) for Adam. (The
            package documents that for Adam, but compares an enum with a word and never does it.)
        clip: the largest norm of the gradient of all translators together.
        loss: "kl" to the model's own distribution at the same token, or "ce" to the next token.
        bias_only: leave the weights at the identity.
        start: "identity", the logit lens, or "least_squares", the affine map to the last state.
        shuffled: a control: states learn other tokens' outputs, so that a lens can learn no more
            than what the model says on the whole. (`residuum run tuned_lens` judges it so too.)
        seed: of the order of examples.
    """

    optimizer: str = "sgd"
    steps: int = 250
    tokens_per_step: int | None = None
    rate_scale: float = 1.0
    momentum: float = 0.9
    weight_decay: float = 1e-3
    warm_up: int | None = None
    clip: float = 1.0
    loss: str = "kl"
    bias_only: bool = False
    start: str = "identity"
    shuffled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what means nothing.

        Raises:
            ArgumentError: a word that is none of those above, or a number out of range.
        """
        _one_of("optimizer", self.optimizer, tuple(BASE_RATE))
        _one_of("loss", self.loss, ("kl", "ce"))
        _one_of("start", self.start, ("identity", "least_squares"))
        for name, least in (("steps", 0), ("rate_scale", 0.0), ("weight_decay", 0.0)):
            _at_least(name, getattr(self, name), least)
        if self.tokens_per_step is not None:
            _at_least("tokens_per_step", self.tokens_per_step, 1)
        if not 0 <= self.momentum < 1 or not self.clip > 0:
            message = (
                "momentum is at least 0 and below 1, and clip above 0, not "
                f"{self.momentum} and {self.clip}"
            )
            raise ArgumentError(message)

    def rate(self, step: int) -> float:
        """The learning rate of a step, from 0: up while it warms up, then down to zero."""
        base = BASE_RATE[self.optimizer] * self.rate_scale
        if self.optimizer == "sgd":
            base *= 1 - self.momentum
        warm = self.warm_up
        if warm is None:
            warm = min(1000, self.steps // 5) if self.optimizer == "adam" else 0
        if step < warm:
            return base * step / warm
        return base * max(0.0, (self.steps - step) / max(1, self.steps - warm))


def _one_of(name: str, value: Any, words: tuple[str, ...]) -> None:  # noqa: ANN401
    if value not in words:
        message = f"{name} is {' or '.join(words)}, not {value!r}"
        raise ArgumentError(message)


def _at_least(name: str, value: float, least: float) -> None:
    if not least <= value < math.inf:
        message = f"{name} is at least {least} and finite, not {value!r}"
        raise ArgumentError(message)
