"""Training on the CPU: numpy for the translators, Rust for what is as wide as the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum import kernels

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
        gradient = _back(of.norm, flat, gradient.reshape(flat.shape)).reshape(moved.shape)
        for h, g, d_weight, d_bias in zip(
            states, gradient, gradients[::2], gradients[1::2], strict=True
        ):
            d_weight += g.T @ h
            d_bias += g.sum(0)
        return loss


def _back(norm: kernels.Norm, x: Floats, gradient: Floats) -> Floats:
    """From the gradient by normed rows to that by the rows `[row, d_model]`, in its place.

    With u the row over its divisor, and centred where the norm centres:
    dx = (g - u mean(g u) - mean(g)) / divisor, the last mean only where it centres.
    """
    if norm.kind == "none":
        return gradient
    divisor = norm.scale(x)[:, None]
    u = x - x.mean(1, keepdims=True) if norm.kind == "layer_norm" else x.copy()
    u /= divisor
    if norm.weight is not None:
        gradient *= np.asarray(norm.weight, np.float32) + np.float32(norm.offset)
    if norm.kind == "layer_norm":
        gradient -= gradient.mean(1, keepdims=True)
    along = np.einsum("ri,ri->r", gradient, u)[:, None] / np.float32(x.shape[1])
    gradient -= u * along
    gradient /= divisor
    return gradient
