"""Training with torch, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from residuum.lenses.kit import Lesson
    from residuum.replay.readout import Readout

    Floats = NDArray[np.float32]

_LOGITS = 16 << 20
"""Logits of a block of rows; some arrays of that size are there at once."""


class TorchKit:
    """See `kit.Kit`; float32, or the products with the unembedding in bfloat16."""

    def __init__(
        self, readout: Readout, device: torch.device | str, precision: str = "float32"
    ) -> None:
        """Bring the model's readout to the device; `precision` is that of the products."""
        self.device = torch.device(device)
        self.readout = readout
        norm = readout.norm
        self.gain = None if norm.weight is None else self.array(np.asarray(norm.weight))
        if self.gain is not None:
            self.gain += norm.offset
        self.shift = None if norm.bias is None else self.array(np.asarray(norm.bias))
        self.w_u = self.array(readout.w_u)
        self.narrow = self.w_u.to(getattr(torch, precision))
        self.b_u = None if readout.b_u is None else self.array(readout.b_u)

    def array(self, values: NDArray[Any]) -> torch.Tensor:
        """A copy on the device."""
        return torch.tensor(np.asarray(values, np.float32), device=self.device)

    def numpy(self, x: torch.Tensor) -> Floats:
        """Back from the device."""
        return x.numpy(force=True)

    def zeros(self, like: torch.Tensor) -> torch.Tensor:
        """Zeros of the same shape."""
        return torch.zeros_like(like)

    def maximum(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The larger of each two numbers."""
        return torch.maximum(x, y)

    def learn(
        self, lesson: Lesson, parameters: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]
    ) -> Floats:
        """Block by block of rows, through the readout and back for every state."""
        n_row = lesson.states.shape[1]
        step = max(1, _LOGITS // self.w_u.shape[1])
        losses = [
            self._block(lesson, slice(at, min(n_row, at + step)), parameters, gradients)
            for at in range(0, n_row, step)
        ]
        return np.concatenate(losses, 1)

    def _block(
        self,
        lesson: Lesson,
        rows: slice,
        parameters: Sequence[torch.Tensor],
        gradients: Sequence[torch.Tensor],
    ) -> Floats:
        taught = self._taught(lesson, rows)
        losses = []
        for state, (weight, bias) in enumerate(zip(parameters[::2], parameters[1::2], strict=True)):
            h = self.array(lesson.states[state, rows])
            moved = (h + h @ weight.T + bias).requires_grad_()
            normed = self.normed(moved)
            loss, by_normed = self._learn(normed.detach(), *taught)
            (gradient,) = torch.autograd.grad(normed, moved, by_normed)
            gradients[2 * state] += gradient.T @ h
            gradients[2 * state + 1] += gradient.sum(0)
            losses.append(self.numpy(loss))
        return np.stack(losses)

    def normed(self, x: torch.Tensor) -> torch.Tensor:
        """Through the model's final norm."""
        norm, width = self.readout.norm, (x.shape[-1],)
        if norm.kind == "none":
            return x
        if norm.kind == "layer_norm":
            return torch.nn.functional.layer_norm(x, width, self.gain, self.shift, norm.eps)
        out = torch.nn.functional.rms_norm(x, width, self.gain, norm.eps)
        return out if self.shift is None else out + self.shift

    def logits(self, normed: torch.Tensor, w_u: torch.Tensor) -> torch.Tensor:
        """`[row, d_model]` -> `[row, d_vocab]`, the product in the dtype of `w_u`."""
        of = self.readout
        out = (normed.to(w_u.dtype) @ w_u).float()
        if self.b_u is not None:
            out += self.b_u
        out *= of.logit_scale
        cap = of.logit_softcap
        return out if cap is None else cap * torch.tanh(out / cap)

    def _taught(
        self, lesson: Lesson, rows: slice
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Probabilities `[row, d_vocab]`, 0 for rows without a target, and `sum p ln p`."""
        if lesson.final is not None:
            # Of the teacher in float32 always: what is learnt should not be rounded.
            normed = self.normed(self.array(lesson.final[rows]))
            log_p = self.logits(normed, self.w_u).log_softmax(1)
            p = log_p.exp()
            return p, None, (p * log_p).sum(1)
        assert lesson.targets is not None
        targets = torch.tensor(lesson.targets[rows].astype(np.int64), device=self.device)
        there = (targets >= 0).float()
        p = torch.zeros((len(targets), self.w_u.shape[1]), device=self.device)
        p[torch.arange(len(p), device=self.device), targets.clamp(min=0)] = there
        return p, there, torch.zeros_like(there)

    def _learn(
        self,
        normed: torch.Tensor,
        p: torch.Tensor,
        there: torch.Tensor | None,
        negentropy: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of each row, and its gradient by the normed row: `(q - p) W_U^T`."""
        of = self.readout
        logits = self.logits(normed, self.narrow)
        log_q = logits.log_softmax(1)
        loss = negentropy - (p * log_q).sum(1)
        q = log_q.exp_() if there is None else log_q.exp_().mul_(there[:, None])
        difference = q.sub_(p).mul_(of.logit_scale)
        if of.logit_softcap is not None:
            difference *= 1 - (logits / of.logit_softcap) ** 2
        return loss, (difference.to(self.narrow.dtype) @ self.narrow.T).float()
