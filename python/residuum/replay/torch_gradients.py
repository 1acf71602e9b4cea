"""The loss brought back through the blocks, to every state of the stream, in torch.

    loss ──readout──▶ state n_layer ──block n_layer - 1──▶ … ──block 0──▶ state 0

The store holds what enters each block, so that no pass has to be kept: a block is computed once
more from there, and the gradient by what leaves it becomes that by what enters. In memory are the
weights of one block, as many examples as the budget has room for, and the gradient of all rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from residuum.replay.cost import row_bytes
from residuum.replay.kit import Keys, Look, Queries, Seen
from residuum.replay.torch_blocks import TorchNorm, torch_block
from residuum.replay.torch_kit import TorchKit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from residuum.replay.architecture import Architecture
    from residuum.replay.readout import Readout
    from residuum.replay.torch_blocks import TorchBlock
    from residuum.replay.weights import Weights

    Floats = NDArray[Any]
    Rows = NDArray[np.int64]
    States = Callable[[int], Floats]
    """A state of all rows, `[row, d_model]`: s enters block s, and leaves block s - 1."""

_LOGITS = 8 << 20
"""Logits of a block of rows; some arrays of that size are there at once."""
_KEPT = 3
"""The way back through a block takes so many times what the way there takes, about."""


class LossGradients:
    """What the cross-entropy with the next token asks of each state of a decoder's stream."""

    def __init__(
        self,
        of: Architecture,
        weights: Weights,
        readout: Readout,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        memory_bytes: int = 1 << 30,
    ) -> None:
        """Use `opening.loss_gradients`, which finds the weights and refuses what is no decoder."""
        self.of, self.memory_bytes = of, memory_bytes
        self.kit = TorchKit(of, weights, device, dtype)
        self.readout = _TorchReadout(readout, self.kit)

    def of_model(
        self, states: States, n_token: Rows, targets: NDArray[np.int32]
    ) -> Iterator[tuple[int, Floats]]:
        """Gradients of each example's loss, summed over its tokens, by every state.

        A token's state counts for its own loss and for those of all later tokens, which see it.

        Args:
            states: by number.
            n_token: int64 `[example]`; the rows of states are theirs, one example after another.
            targets: int32 `[row]`, the next tokens, negative for none.

        Yields:
            the number of a state, from the last to 0, and the gradient, `[row, d_model]`.
        """
        last = self.of.n_layer
        gradient = self.of_readout(states(last), targets)
        yield last, gradient
        for layer in reversed(range(last)):
            gradient = self._back(layer, states(layer), gradient, n_token)
            yield layer, gradient

    def of_readout(self, state: Floats, targets: NDArray[np.int32]) -> Floats:
        """The same of one state read as if it were the last: of each token its own loss alone."""
        out = np.empty_like(state)
        step = max(1, _LOGITS // self.readout.d_vocab)
        for at in range(0, len(state), step):
            rows = slice(at, at + step)
            x = self.kit.array(state[rows]).requires_grad_()
            # In float64: what is sure leaves next to nothing of 1 - p.
            logits = self.readout(x).double()
            next_id = self.kit.index(np.maximum(targets[rows], -1).astype(np.int64))
            loss = functional.cross_entropy(logits, next_id, ignore_index=-1, reduction="sum")
            out[rows] = self.kit.numpy(torch.autograd.grad(loss, x)[0])
        return out

    def _back(self, layer: int, entering: Floats, gradient: Floats, n_token: Rows) -> Floats:
        """From the gradient by what leaves a block to that by what enters, `[row, d_model]`."""
        kit, out = self.kit, np.empty_like(gradient)
        # Not the kit's own, which would stay.
        block = torch_block(kit.weights.block(layer), self.of, kit.device, kit.dtype)
        for rows, n in self._together(n_token):
            x = kit.array(entering[rows]).requires_grad_()
            leaving = self._leaving(block, layer, x, n)
            (back,) = torch.autograd.grad(leaving, x, kit.array(gradient[rows]))
            out[rows] = kit.numpy(back)
        return out

    def _together(self, n_token: Rows) -> Iterator[tuple[slice, Rows]]:
        """Rows of examples that fit into the budget together, and the tokens of each."""
        most = self.memory_bytes // (_KEPT * row_bytes(self.of, int(n_token.max(initial=1))))
        ends = np.cumsum(n_token)
        begin = 0
        while begin < len(n_token):
            first = ends[begin] - n_token[begin]
            end = max(begin + 1, int(np.searchsorted(ends, first + most, side="right")))
            yield slice(int(first), int(ends[end - 1])), n_token[begin:end]
            begin = end

    def _leaving(self, block: TorchBlock, layer: int, x: torch.Tensor, n: Rows) -> torch.Tensor:
        """What leaves a block, `[row, d_model]`, of what enters; every token of examples."""
        h = block.norm(0, x)
        attn = self._branch(block, 0, block.out(self._z(block, layer, h, n)))
        if self.of.parallel:
            entering = h if block.n_norm == 1 else block.norm(1, x)
        else:
            entering = block.norm(1, x + attn)
        return x + attn + self._branch(block, 1, block.mlp(entering))

    def _branch(self, block: TorchBlock, number: int, given: torch.Tensor) -> torch.Tensor:
        return block.branch_norm(number, given) if block.has_branch_norms else given

    def _z(self, block: TorchBlock, layer: int, h: torch.Tensor, n: Rows) -> torch.Tensor:
        """What the heads give, `[row, head * d_head]`: each example is a run of its own."""
        of, kit = self.of, self.kit
        q, k, v = (part(h).reshape(len(h), -1, of.d_head) for part in (block.q, block.k, block.v))
        token = np.concatenate([np.arange(one) for one in n])
        example, none = np.arange(len(n)), np.empty(0, np.int64)
        start = np.concatenate(([0], np.cumsum(n)))
        seen = Seen(example, start, none, none, np.zeros((len(n), int(n.max())), bool))
        z = kit.attend(
            Queries(kit.rotated(q, token), np.repeat(example, n), token),
            Keys(kit.rotated(k, token), v),
            Keys(k[:0], v[:0]),
            seen,
            Look(of.scaling[layer], of.softcap, of.window[layer], of.causal),
            None,
        )
        return z.reshape(len(h), -1)


class _TorchReadout:
    """`[row, d_model]` -> logits `[row, d_vocab]`; see `readout.Readout`."""

    def __init__(self, of: Readout, kit: TorchKit) -> None:
        self.of, self.d_vocab = of, of.d_vocab
        self.w_u = kit.array(of.w_u)
        self.b_u = None if of.b_u is None else kit.array(of.b_u)
        self.norm = None if of.norm.kind == "none" else self._norm(kit)
        bias = of.norm.bias
        self.shift = None if bias is None else kit.array(np.asarray(bias))

    def _norm(self, kit: TorchKit) -> TorchNorm:
        norm = self.of.norm
        gain = kit.array(np.ones(len(self.of.w_u)))
        if norm.weight is not None:
            gain = kit.array(np.asarray(norm.weight)) + norm.offset
        return TorchNorm(gain, None, norm.eps, norm.kind == "layer_norm")

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        normed = x if self.norm is None else self.norm(x)
        if self.shift is not None:
            normed = normed + self.shift
        logits = normed @ self.w_u
        if self.b_u is not None:
            logits = logits + self.b_u
        logits = logits * self.of.logit_scale
        cap = self.of.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)
