"""Lens checkpoints as the package tuned-lens 0.2 reads and writes them.

A folder with `config.json` and `params.pt`: a dict `{state}.weight` [d_model, d_model] and
`{state}.bias` [d_model] for every state but the last, without the identity, in the dtype of the
model. It is a pickle, which torch reads here without running code of its own.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import ArgumentError, ModelError
from residuum.lenses.tuned import Translator, TunedLens
from residuum.store.files import write_atomic

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from types import ModuleType

CONFIG, PARAMS = "config.json", "params.pt"
_LINEAR = "linear_tuned_lens"
_NAMES = re.compile(r"[0-9]+\.(weight|bias)")
_DAMAGED = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
"""What torch raises of a file that is no pickle of tensors."""


def published(folder: str | os.PathLike[str]) -> TunedLens:
    """Read a checkpoint.

    Raises:
        ModelError: files that are missing, damaged, or of another kind of lens.
    """
    folder = Path(folder)
    for name in (CONFIG, PARAMS):
        if not (folder / name).is_file():
            message = f"{folder} is no lens checkpoint: it has no {name} beside its other files"
            raise ModelError(message)
    try:
        config = json.loads((folder / CONFIG).read_text())
        d_model, n_layer = int(config["d_model"]), int(config["num_hidden_layers"])
    except (ValueError, TypeError, KeyError) as error:
        message = f"{folder / CONFIG} does not say d_model and num_hidden_layers: {error!r}"
        raise ModelError(message) from error
    if d_model < 1 or n_layer < 1:
        message = f"{folder / CONFIG} says d_model {d_model} and num_hidden_layers {n_layer}"
        raise ModelError(message)
    kind = config.get("lens_type", _LINEAR)
    if kind != _LINEAR:
        message = f"{folder} is a lens of type {kind!r}; only {_LINEAR!r} is known"
        raise ModelError(message)
    tensors = _read(folder / PARAMS)
    if config.get("bias") is False or "bias" not in config:
        for state in range(n_layer):
            tensors.setdefault(f"{state}.bias", np.zeros(d_model, np.float32))
    translators = {i: _translator(folder, tensors, i, d_model) for i in range(n_layer)}
    about = {
        "model": config.get("base_model_name_or_path"),
        "revision": config.get("base_model_revision"),
        "unembed_hash": config.get("unembed_hash"),
        "checkpoint": str(folder),
    }
    return TunedLens(translators, n_layer + 1, about)


def _torch() -> ModuleType:
    try:
        import torch  # noqa: TID251  its pickles are read by nothing else
    except ModuleNotFoundError as error:
        message = (
            "published lens checkpoints are torch's files, and torch is not installed: "
            "pip install 'residuum[capture]'"
        )
        raise ModuleNotFoundError(message, name=error.name) from error
    return torch


def _read(path: Path) -> dict[str, Any]:
    torch = _torch()
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        # What torch says is left out: it advises to run the code that the file may hold.
        message = f"{path} cannot be read as tensors alone: it is damaged, or holds other objects"
        raise ModelError(message) from error
    if not isinstance(tensors, dict):
        message = f"{path} holds {type(tensors).__name__}, not a dict of tensors"
        raise ModelError(message)
    parts = {name: x for name, x in tensors.items() if _NAMES.fullmatch(str(name))}
    return {name: _numbers(path, name, x, torch) for name, x in parts.items()}


def _numbers(path: Path, name: str, x: Any, torch: ModuleType) -> Any:  # noqa: ANN401
    """A tensor as float32.

    Raises:
        ModelError: it is none, or of numbers that are not real and finite.
    """
    dense = torch.is_tensor(x) and x.layout == torch.strided and x.device.type == "cpu"
    if not dense or not x.is_floating_point():
        message = f"{path}: {name!r} is no dense tensor of real numbers"
        raise ModelError(message)
    values = x.detach().float().numpy()
    if not np.isfinite(values).all():
        message = f"{path}: {name!r} has NaN or infinity, so that the lens says nothing"
        raise ModelError(message)
    return values


def _translator(folder: Path, tensors: Mapping[str, Any], state: int, d_model: int) -> Translator:
    weight: Any = tensors.get(f"{state}.weight")
    bias: Any = tensors.get(f"{state}.bias")
    shapes = tuple(None if x is None else x.shape for x in (weight, bias))
    if shapes != ((d_model, d_model), (d_model,)):
        message = (
            f"{folder / PARAMS} has no translator of state {state} that is {d_model} wide, as "
            f"{CONFIG} says: weight and bias are {shapes[0]} and {shapes[1]}"
        )
        raise ModelError(message)
    return Translator(weight, bias)


def publish(
    lens: TunedLens,
    folder: str | os.PathLike[str],
    w_u: Any = None,  # noqa: ANN401  any array
) -> None:
    """Write a checkpoint that `TunedLens.from_model_and_pretrained` of tuned-lens loads.

    Args:
        lens: with a translator for every state.
        folder: to write to; files of a checkpoint that are there are replaced.
        w_u: `[d_model, d_vocab]`, the model's unembedding, for the hash that the package compares.

    Raises:
        ArgumentError: a state without a translator.
    """
    torch = _torch()
    missing = sorted(set(range(lens.n_state - 1)) - set(lens.translators))
    if missing:
        message = (
            f"the lens has no translator for state {missing[0]}, and a checkpoint has one for each "
            "state: train it with the states of all blocks (capture embed, or resid_pre)"
        )
        raise ArgumentError(message)
    params = {}
    for state in range(lens.n_state - 1):
        of = lens.translators[state]
        params[f"{state}.weight"] = torch.tensor(np.asarray(of.weight))
        params[f"{state}.bias"] = torch.tensor(np.asarray(of.bias))
    config = {
        "base_model_name_or_path": lens.about.get("model"),
        "d_model": lens.d_model,
        "num_hidden_layers": lens.n_state - 1,
        "bias": True,
        "base_model_revision": lens.about.get("revision"),
        "unembed_hash": lens.about.get("unembed_hash") if w_u is None else unembed_hash(w_u),
        "lens_type": _LINEAR,
    }
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / PARAMS, lambda file: torch.save(params, file))
    write_atomic(folder / CONFIG, lambda file: file.write(json.dumps(config).encode()))


def unembed_hash(w_u: Any) -> str:  # noqa: ANN401  any array
    """What tuned-lens knows an unembedding by: sha256 of how numpy prints a summary of it."""
    rows = np.ascontiguousarray(np.asarray(w_u, np.float32).T)
    with np.printoptions(threshold=1000, edgeitems=3, linewidth=75, suppress=False):
        text = np.array_str(rows, precision=1)
    return hashlib.sha256(text.encode()).hexdigest()
