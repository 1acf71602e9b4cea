"""A block's parts in torch, over packed rows, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from residuum.replay.torch_attention import attend
from residuum.replay.torch_blocks import TorchBlock, rotated, tensor, torch_block

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.replay.architecture import Architecture
    from residuum.replay.kit import Change, Keys, Look, Queries, Seen
    from residuum.replay.weights import Weights


class TorchKit:
    """Computes for one model on one device; see `kit.Kit`."""

    def __init__(
        self,
        of: Architecture,
        weights: Weights,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Weights are brought to the device when a layer is first computed, and stay there."""
        self.of = of
        self.weights = weights
        self.device = torch.device(device)
        self.dtype = dtype
        self._blocks: dict[int, TorchBlock] = {}

    def array(self, values: NDArray[Any]) -> torch.Tensor:
        """Numbers on the device."""
        return tensor(values, self.device, self.dtype)

    def gathered(
        self, first: torch.Tensor, second: torch.Tensor, rows: NDArray[np.int64]
    ) -> torch.Tensor:
        """Rows of two arrays, counted through both."""
        return torch.cat((first, second))[self.index(rows)]

    def index(self, rows: NDArray[Any]) -> torch.Tensor:
        """Row numbers on the device."""
        return torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)

    def numpy(self, x: torch.Tensor) -> NDArray[Any]:
        """Numbers off the device."""
        return np.asarray(x.cpu().numpy())

    def block(self, layer: int) -> TorchBlock:
        """One block's weights on the device."""
        if layer not in self._blocks:
            made = torch_block(self.weights.block(layer), self.of, self.device, self.dtype)
            self._blocks[layer] = made
        return self._blocks[layer]

    def rotated(self, x: torch.Tensor, tokens: NDArray[np.int64]) -> torch.Tensor:
        """`[row, head, d_head]`, rotated by the position of each row where the model rotates."""
        return rotated(x, self.index(tokens), self.of.rotary)

    def attend(
        self,
        queries: Queries,
        cached: Keys,
        own: Keys,
        seen: Seen,
        look: Look,
        change: Change | None,
    ) -> torch.Tensor:
        """Pattern-weighted values: z, `[row, head, d_head]`."""
        return attend(queries, cached, own, seen, look, change, self.index)
