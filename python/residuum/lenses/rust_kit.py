"""Training on the CPU: numpy for the translators, Rust for what is as wide as the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum import kernels
from residuum.lenses.norm_gradient import norm_gradient

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from residuum.lenses.kit import Lesson
    from residuum.replay.readout import Readout

    Floats = NDArray[np.float32]


class RustKit:
    """See `kit.Kit`."""

    def __init__(self, readout: Readout) -> None:
        """For one model."""
        self.readout = readout

    def array(self, values: NDArray[Any]) -> Floats:
        """A copy."""
        return np.array(values, np.float32)

    def numpy(self, x: Floats) -> Floats:
        """As they are."""
        return x

    def zeros(self, like: Floats) -> Floats:
        """Zeros of the same shape."""
        return np.zeros_like(like)

    def maximum(self, x: Floats, y: Floats) -> Floats:
        """The larger of each two numbers."""
        return np.maximum(x, y)

    def learn(
        self, lesson: Lesson, parameters: Sequence[Floats], gradients: Sequence[Floats]
    ) -> Floats:
        """Through the translators, the norm and the vocabulary, and back."""
        states, of = lesson.states, self.readout
        moved = np.empty_like(states)
        for h, out, weight, bias in zip(
            states, moved, parameters[::2], parameters[1::2], strict=True
        ):
            np.matmul(h, weight.T, out=out)
            out += h
            out += bias
        flat = moved.reshape(-1, moved.shape[-1])
        loss, gradient = kernels.lens_gradients(
            of.norm.apply(flat).reshape(moved.shape),
            of.w_u,
            bias=of.b_u,
            reference=None if lesson.final is None else of.norm.apply(lesson.final),
            targets=lesson.targets,
            logit_scale=of.logit_scale,
            softcap=of.logit_softcap,
        )
        gradient = norm_gradient(of.norm, flat, gradient.reshape(flat.shape)).reshape(moved.shape)
        for h, g, d_weight, d_bias in zip(
            states, gradient, gradients[::2], gradients[1::2], strict=True
        ):
            d_weight += g.T @ h
            d_bias += g.sum(0)
        return loss
