"""Open a store for replay: its model's weights, and what computes with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from residuum.errors import ArgumentError, ModelError
from residuum.quantities import parse_memory
from residuum.replay.architecture import architecture
from residuum.replay.course import KitExecutor
from residuum.replay.engine import Replay
from residuum.replay.readout import readout
from residuum.replay.rust_kit import RustKit
from residuum.replay.source import a_store
from residuum.replay.weights import Weights, tensors_of
from residuum.store.files import hash_files

if TYPE_CHECKING:
    import os

    import torch  # noqa: TID251  for the type alone

    from residuum.replay.architecture import Architecture
    from residuum.replay.kit import Kit
    from residuum.replay.torch_gradients import LossGradients
    from residuum.store import Store

_BY_FILES = "sha256-files:"


def replay(
    store: Store,
    model: str | os.PathLike[str] | None = None,
    *,
    executor: Literal["auto", "rust", "torch"] = "auto",
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    memory: int | str = "1GB",
    verify: bool = True,
    progress: bool | None = None,
) -> Replay:
    """Open a store for replay.

    Args:
        store: of a captured model, with the stream that enters its blocks (`resid_pre`, or `embed`
            and `resid_post`).
        model: folder of the captured model's safetensors; by default where it lay at capture.
        executor: what computes the blocks: "rust" in float32 on the CPU, or "torch", which has to
            be installed, on any device and in float64 too; "auto" is Rust where it can.
        device: of torch, such as "cuda".
        dtype: that blocks are computed in.
        memory: bytes for the rows of one batch of replays, such as "1GB".
        verify: compare the hash of the weights with the store's, which reads all of them.
        progress: show a bar of the replays done; by default where stderr is a terminal.

    Raises:
        StoreError: the store does not say how its model computes.
        ModelError: the weights are missing, or not those of the captured model.
        ArgumentError: an executor that cannot do what is asked.
    """
    of = architecture(a_store(store))
    chosen = _chosen(executor, device, dtype)
    kit = _kit(chosen, of, _weights(store, of, model, verify=verify), device, dtype)
    # How much a replay needs depends on its length, so that `Replay` refuses what is too little.
    budget = parse_memory(memory, least=0)
    return Replay(store, KitExecutor(of, kit), memory_bytes=budget, progress=progress)


def loss_gradients(
    store: Store,
    model: str | os.PathLike[str] | None = None,
    *,
    device: str = "cpu",
    dtype: Literal["float32", "float64"] = "float32",
    memory: int | str = "1GB",
    verify: bool = True,
) -> LossGradients:
    """Open a store's model for the way back from its loss; torch has to be installed.

    Args:
        store: of a captured decoder with an unembedding.
        model: as of `replay`.
        device: as of `replay`.
        dtype: as of `replay`.
        memory: bytes for the examples that go through a block together; one does in any case.
        verify: as of `replay`.

    Raises:
        ModuleNotFoundError: torch is not installed.
        StoreError, ModelError, ArgumentError: as of `replay`; and a model that is no decoder.
    """
    of = architecture(a_store(store))
    if not of.causal or of.post_norm:
        message = (
            f"the model of {store.path} is no decoder with norms before its branches: there is no "
            "loss of the next token to bring back through it"
        )
        raise ModelError(message)
    where = torch_device(device)
    import torch  # noqa: TID251  it is there

    from residuum.replay.torch_gradients import LossGradients

    weights = _weights(store, of, model, verify=verify)
    read = readout(store, analysis="the gradient of the loss")
    budget = parse_memory(memory, least=0)
    return LossGradients(of, weights, read, where, getattr(torch, dtype), budget)


def _weights(
    store: Store, of: Architecture, model: str | os.PathLike[str] | None, *, verify: bool
) -> Weights:
    """The captured model's, which are compared with the store's hash if that is asked."""
    folder = _folder(store, model)
    if verify:
        _check(store, folder)
    return Weights(tensors_of(folder), of)


def _chosen(executor: str, device: str, dtype: str) -> str:
    """Rust or torch.

    Raises:
        ArgumentError: Rust cannot do what is asked, or there is no such executor.
    """
    if executor not in ("auto", "rust", "torch"):
        message = f"there is no executor {executor!r}: it is auto, rust or torch"
        raise ArgumentError(message)
    if dtype not in ("float32", "float64"):
        message = f"blocks are computed in float32 or float64, not in {dtype!r}"
        raise ArgumentError(message)
    plain = device == "cpu" and dtype == "float32"
    if executor == "rust" and not plain:
        message = (
            f"the Rust executor computes in float32 on the CPU, not in {dtype} on {device}: take "
            'executor="torch"'
        )
        raise ArgumentError(message)
    if executor == "auto":
        return "rust" if plain else "torch"
    return executor


def _kit(executor: str, of: Architecture, weights: Weights, device: str, dtype: str) -> Kit:
    if executor == "rust":
        return RustKit(of, weights)
    where = torch_device(device)
    import torch  # noqa: TID251  it is there

    from residuum.replay.torch_kit import TorchKit

    return TorchKit(of, weights, where, getattr(torch, dtype))


def torch_device(device: str) -> torch.device:
    """A device that torch can use.

    Raises:
        ModuleNotFoundError: torch is not installed.
        ArgumentError: there is no such device here.
    """
    try:
        import torch  # noqa: TID251  the executor that needs it
    except ModuleNotFoundError as error:
        message = (
            "the torch executor needs torch, which is not installed: "
            "pip install 'residuum[capture]'."
        )
        raise ModuleNotFoundError(message, name=error.name) from error
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
        return where
    except (RuntimeError, TypeError, AssertionError) as error:
        message = f"torch cannot use the device {device!r} here: {str(error).splitlines()[0]}"
        raise ArgumentError(message) from error


def _folder(store: Store, model: str | os.PathLike[str] | None) -> Path:
    if model is not None:
        try:
            folder = Path(model).expanduser()
        except TypeError as error:
            message = f"`model` is the folder of the captured model's weights, not {model!r}"
            raise ArgumentError(message) from error
        if not folder.is_dir():
            message = f"there is no model folder {folder}"
            raise ModelError(message)
        return folder
    known = store.capture.get("model_folder")
    if known is None or not Path(known).is_dir():
        name = store.model["name"]
        where = (
            "was captured from memory: write it with save_pretrained and pass that folder as "
            "`model`, with verify=False, since its files have no hash in the store"
            if known is None
            else f"lay in {known}, which is gone: pass its folder as `model`"
        )
        message = f"the model {name} of {store.path} {where}"
        raise ModelError(message)
    return Path(known)


def _check(store: Store, folder: Path) -> None:
    """Refuse weights that are not the captured model's."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        message = (
            f"the model folder {folder} holds no safetensors files, which replay reads: write the "
            "model with save_pretrained"
        )
        raise ModelError(message)
    expected = str(store.model.get("weights_hash"))
    if not expected.startswith(_BY_FILES):
        message = (
            f"the model of {store.path} was captured from memory, so that its files cannot be "
            "compared with it: pass verify=False if they are the same"
        )
        raise ModelError(message)
    found = hash_files(files)
    if found != expected:
        message = (
            f"the weights in {folder} are not those of the model in {store.path}: their hash is "
            f"{found}, the captured model's {expected}"
        )
        raise ModelError(message)
