"""Files of `torch.save`, and tensors, as numpy arrays: all that an import knows of torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from residuum.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIXES = (".pt", ".pth", ".bin")


def load(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a file by name; one that stands alone has the name "".

    Tensors are read as data alone, never as code, and mapped into memory where the file allows it.

    Raises:
        InputError: the file holds something else than a tensor or a dict of tensors.
        ModuleNotFoundError: torch is not installed.
    """
    torch = _library(path)
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True}
    try:
        try:
            held = torch.load(path, mmap=True, **options)
        except RuntimeError:  # an old file, which is no archive, cannot be mapped
            held = torch.load(path, **options)
    except ModuleNotFoundError:
        raise
    except Exception as error:  # a damaged pickle ends in any of them
        message = (
            f"{path} is no file of plain tensors: it is damaged, or holds objects that only code "
            "can load, which is not run. Save a tensor or a dict of tensors with torch.save."
        )
        raise InputError(message) from error
    named = held if isinstance(held, dict) else {"": held}
    for name, value in named.items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            what = type(value).__name__ if isinstance(held, dict) else type(held).__name__
            place = f" under {name!r}" if isinstance(held, dict) else ""
            message = f"{path} holds a {what}{place}: save a tensor, or a dict of tensors by name."
            raise InputError(message)
    return {name: to_numpy(tensor, str(path)) for name, tensor in named.items()}


def is_tensor(value: object) -> bool:
    """Whether this is a tensor, told without importing torch."""
    return any(f"{c.__module__}.{c.__name__}" == "torch.Tensor" for c in type(value).__mro__)


def to_numpy(tensor: Any, name: str) -> NDArray[Any]:  # noqa: ANN401  a tensor; torch is not imported
    """A tensor as an array over the same memory; bfloat16 as `ml_dtypes.bfloat16`.

    Raises:
        InputError: a sparse or quantised tensor.
    """
    plain = tensor.detach().cpu()
    try:
        if str(plain.dtype) == "torch.bfloat16":
            bits: NDArray[Any] = plain.view(_library(None).int16).numpy()
            return bits.view(ml_dtypes.bfloat16)
        return np.asarray(plain.numpy())
    except (TypeError, RuntimeError) as error:
        message = f"{name}: the tensor of {plain.dtype} is none that numpy can hold: {error}"
        raise InputError(message) from error


def _library(path: Path | None) -> Any:  # noqa: ANN401  a module
    try:
        import torch  # noqa: TID251  only torch reads its own files; it is loaded for these alone
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        message = (
            f"reading {path} needs torch, which is not installed: pip install 'residuum[capture]'."
        )
        raise ModuleNotFoundError(message, name=error.name) from error
    return torch
