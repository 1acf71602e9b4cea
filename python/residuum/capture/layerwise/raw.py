"""Tensors as bytes in files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from io import FileIO

_LINE = 64  # bytes


def raw(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous tensor in host memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def empty(shape: torch.Size, dtype: torch.dtype, at: int = 0) -> torch.Tensor:
    """A tensor in host memory that lies in its cache line as byte `at` of a mapped file does.

    Some BLAS sum a product with a single row in an order that depends on that. A model loaded as a
    whole computes with weights in a map of their file, and the same bits should come out.
    """
    n_bytes = shape.numel() * dtype.itemsize
    memory = torch.empty(n_bytes + _LINE, dtype=torch.uint8)
    begin = (at - memory.data_ptr()) % _LINE // dtype.itemsize * dtype.itemsize
    return memory[begin : begin + n_bytes].view(dtype).view(shape)


def fill(file: FileIO, tensor: torch.Tensor) -> bool:
    """Fill a contiguous tensor from where a file stands; False if the file ends before."""
    left = raw(tensor)
    while left:
        n = file.readinto(left)
        if not n:
            return False
        left = left[n:]
    return True
