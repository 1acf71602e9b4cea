"""A block's parts in torch, over packed rows: norms, projections, rotation, activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from residuum.replay.architecture import Architecture, Rotary
    from residuum.replay.weights import Block, Linear, Norm

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "gelu_quick": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": functional.relu,
    "silu": functional.silu,
}


def tensor(array: NDArray[Any], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A tensor of an array that may be a mapped file's, in 16 bits or strided."""
    if array.dtype.name == "bfloat16":
        bits = torch.from_numpy(np.array(array.view(np.uint16), copy=True))
        return bits.view(torch.bfloat16).to(device, dtype)
    # A copy: torch warns of memory that must not be written, and would write through it.
    return torch.from_numpy(np.array(array, copy=True)).to(device, dtype)


@dataclass(frozen=True)
class TorchLinear:
    """`x @ w + b`."""

    w: torch.Tensor
    b: torch.Tensor | None

    def __call__(self, x: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        """`[row, in]` -> `[row, out]`, added to `onto` in place where it is given."""
        made = x @ self.w if self.b is None else torch.addmm(self.b, x, self.w)
        return made if onto is None else onto.add_(made)


@dataclass(frozen=True)
class TorchNorm:
    """A norm over the last axis."""

    gain: torch.Tensor
    b: torch.Tensor | None
    eps: float
    centred: bool

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`[row, d_model]` -> the same, normed."""
        if self.centred:
            return functional.layer_norm(x, x.shape[-1:], self.gain, self.b, self.eps)
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.gain


@dataclass(frozen=True)
class TorchBlock:
    """One block's weights on a device; the names are those of `weights.Block`."""

    norms: tuple[TorchNorm, ...]
    branch_norms: tuple[TorchNorm, ...]
    q: TorchLinear
    k: TorchLinear
    v: TorchLinear
    out: TorchLinear
    mlp_in: TorchLinear
    mlp_up: TorchLinear | None
    mlp_out: TorchLinear
    activation: Callable[[torch.Tensor], torch.Tensor]

    @property
    def n_norm(self) -> int:
        """How many norms stand before the branches: 1 where these share it."""
        return len(self.norms)

    @property
    def has_branch_norms(self) -> bool:
        """Whether norms stand behind the branches."""
        return bool(self.branch_norms)

    def norm(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """Of attention (0) or of the MLP (1)."""
        return self.norms[number](x)

    def branch_norm(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """Of what attention (0) or the MLP (1) gives."""
        return self.branch_norms[number](x)

    def mlp(self, x: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        """`[row, d_model]` -> what the MLP gives, not normed; added to `onto` if it is given."""
        active = self.activation(self.mlp_in(x))
        return self.mlp_out(active if self.mlp_up is None else active * self.mlp_up(x), onto)


def torch_block(
    block: Block, of: Architecture, device: torch.device, dtype: torch.dtype
) -> TorchBlock:
    """Bring a block's weights to a device."""

    def linear(one: Linear) -> TorchLinear:
        b = None if one.b is None else tensor(one.b, device, dtype)
        return TorchLinear(tensor(one.w, device, dtype), b)

    def norm(one: Norm) -> TorchNorm:
        gain = tensor(one.w, device, dtype) + of.norm_offset
        b = None if one.b is None else tensor(one.b, device, dtype)
        return TorchNorm(gain, b, of.eps, of.norm == "layer_norm")

    return TorchBlock(
        tuple(map(norm, block.norms)),
        tuple(map(norm, block.branch_norms)),
        linear(block.q),
        linear(block.k),
        linear(block.v),
        linear(block.out),
        linear(block.mlp_in),
        None if block.mlp_up is None else linear(block.mlp_up),
        linear(block.mlp_out),
        ACTIVATIONS[of.activation],
    )


def rotated(x: torch.Tensor, positions: torch.Tensor, rotary: Rotary | None) -> torch.Tensor:
    """Rotate `[row, head, d_head]` by the position of each row, int64 `[row]`."""
    if rotary is None or not len(x):
        return x
    # float32 in every family, as a product and as a table.
    inv_freq = torch.from_numpy(rotary.inv_freq).to(x.device)
    angle = positions.to(torch.float32)[:, None] * inv_freq
    cos = (angle.cos() * rotary.attention_scaling).to(x.dtype)[:, None]
    sin = (angle.sin() * rotary.attention_scaling).to(x.dtype)[:, None]
    pairs = len(rotary.inv_freq)
    turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
    if rotary.interleaved:
        a, b = turned[..., ::2], turned[..., 1::2]
        out = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    else:
        a, b = turned[..., :pairs], turned[..., pairs:]
        out = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    return torch.cat((out, rest), -1)
