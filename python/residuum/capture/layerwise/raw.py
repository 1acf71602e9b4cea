"""Tensors as bytes in files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from io import FileIO


def raw(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor in host memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def fill(file: FileIO, tensor: torch.Tensor) -> bool:
    """Fill a contiguous tensor from where a file stands; False if the file ends before."""
    left = raw(tensor)
    while left:
        n = file.readinto(left)
        if not n:
            return False
        left = left[n:]
    return True
