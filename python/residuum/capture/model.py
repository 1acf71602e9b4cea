"""Load a model from a folder, the hub or memory, with its tokenizer or image processor."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.utils import logging

from residuum.capture.adapters import ADAPTERS, Adapter, adapter_for, architecture_error
from residuum.capture.facts import hash_state, hash_tokenizer, model_facts
from residuum.capture.layerwise.checkpoint import damage
from residuum.capture.layerwise.shell import Shell
from residuum.errors import ModelError
from residuum.store.files import hash_files

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja")
_VOCABULARIES = ("tokenizer.json", "vocab.*", "*.model", "tekken.json")
_TWO_TOWERS = "CLIPModel"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be captured.

    Attributes:
        model: in evaluation mode, on its device.
        adapter: where its sites are.
        tokenizer: for text models; None for image models.
        image_processor: for image models; None for text models.
        facts: what a store remembers of it (`model_facts`), with `tokenizer_hash`.
        device: where it computes.
        shell: for the schedule layerwise, what puts weights into `model`, which has none.
        folder: where its checkpoint lies; None for a model that was in memory.
    """

    model: nn.Module
    adapter: Adapter
    tokenizer: Any
    image_processor: Any
    facts: dict[str, Any]
    device: torch.device
    shell: Shell | None = None
    folder: Path | None = None


def load_model(
    source: str | os.PathLike[str] | nn.Module,
    *,
    kind: Literal["text", "image"] = "text",
    device: str = "auto",
    dtype: torch.dtype | str | None = None,
    processor: Any = None,  # noqa: ANN401 - tokenizers and image processors share no type
    attn_implementation: str | None = None,
    layerwise: bool = False,
) -> LoadedModel:
    """Load a model and what turns inputs into its tensors.

    Args:
        source: a folder, a name on the Hugging Face hub, or a loaded transformers model, which is
            used as it is (`device`, `dtype` and `attn_implementation` do not touch it).
        kind: what the inputs are; it decides the tower of a CLIP checkpoint.
        device: "auto" is the GPU if there is one.
        dtype: to run in; the checkpoint's own by default.
        processor: tokenizer or image processor; required for a loaded model, otherwise the
            checkpoint's own by default.
        attn_implementation: transformers' name of one, such as "eager"; its own choice by default.
        layerwise: load no weights, but what reads them layer by layer.

    Raises:
        ModelError: the folder or name does not hold a model that can be captured; the message says
            what is missing.
    """
    if isinstance(source, nn.Module):
        if layerwise:
            message = (
                "a loaded model is in memory already, so that the schedule layerwise saves "
                "nothing: pass the folder or name of its checkpoint, or use the schedule forward"
            )
            raise ModelError(message)
        return _from_memory(source, kind, processor)
    name = os.fspath(source)
    checkpoint = _locate(name)
    config = _config(checkpoint.folder)
    adapter, class_name = _choose(config, kind)
    files = _weight_files(checkpoint.folder)
    options = {**adapter.load_options.get(class_name, {}), **_projection(config)}
    if attn_implementation is not None:
        options["attn_implementation"] = attn_implementation
    place, shell = _device(device), None
    if layerwise:
        shell = Shell.open(
            checkpoint.folder, class_name, options, dtype=_dtype(dtype), device=place
        )
        model = shell.model
    else:
        model = _load(checkpoint.folder, class_name, {"dtype": dtype or "auto", **options})
        model = model.to(place).eval()
    adapter.check(model)
    facts = model_facts(
        model,
        adapter,
        name=checkpoint.name,
        revision=checkpoint.revision,
        weights_hash=hash_files(files),
    )
    if processor is None:
        processor = _processor(checkpoint.folder, kind)
    return replace(
        _with_processor(model, adapter, processor, facts, place),
        shell=shell,
        folder=checkpoint.folder,
    )


@dataclass(frozen=True)
class _Checkpoint:
    """Where a checkpoint lies on this machine, and what it is called."""

    folder: Path
    name: str
    revision: str | None


def _locate(name: str) -> _Checkpoint:
    """Return the folder of a checkpoint, fetched from the hub (or its cache) if `name` is none."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _Checkpoint(folder, folder.resolve().name, None)
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        message = f"there is no model folder {name}"
        raise ModelError(message)
    folder = _fetch(name, [*_SMALL_FILES, _WEIGHTS[0]])
    if not any(folder.glob(_WEIGHTS[0])):
        folder = _fetch(name, [*_SMALL_FILES, _WEIGHTS[1]])
    return _Checkpoint(folder, name, folder.name)


def _fetch(name: str, patterns: list[str]) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        message = (
            f"the model {name} is neither a folder here nor to be had from the Hugging Face hub: "
            f"{lines[0]} Check the name and the network, or pass a folder that holds the model"
        )
        raise ModelError(message) from error


def _from_memory(model: nn.Module, kind: str, processor: Any) -> LoadedModel:  # noqa: ANN401
    class_name = type(model).__name__
    adapter = adapter_for(class_name, kind)
    if processor is None:
        what = "tokenizer" if kind == "text" else "image processor"
        message = f"a loaded model needs its {what}: pass it together with the {class_name}"
        raise ModelError(message)
    adapter.check(model)
    name = str(getattr(model.config, "_name_or_path", "") or class_name)
    facts = model_facts(
        model,
        adapter,
        name=Path(name).name if Path(name).is_dir() else name,
        revision=getattr(model.config, "_commit_hash", None),
        weights_hash=hash_state(model),
    )
    device = next(model.parameters()).device
    return _with_processor(model, adapter, processor, facts, device)


def _with_processor(
    model: nn.Module,
    adapter: Adapter,
    processor: Any,  # noqa: ANN401
    facts: dict[str, Any],
    device: torch.device,
) -> LoadedModel:
    # A two-part processor (CLIP's) holds both; take the part that this tower reads with.
    if adapter.kind == "image":
        images = getattr(processor, "image_processor", processor)
        return LoadedModel(model, adapter, None, images, {**facts, "tokenizer_hash": None}, device)
    tokenizer = getattr(processor, "tokenizer", processor)
    facts = {**facts, "tokenizer_hash": hash_tokenizer(tokenizer)}
    return LoadedModel(model, adapter, tokenizer, None, facts, device)


def _config(folder: Path) -> Mapping[str, Any]:
    """Read a checkpoint's `config.json`, without building any class from it."""
    path = folder / "config.json"
    if not path.is_file():
        message = f"the model folder {folder} has no config.json, so it holds no transformers model"
        raise ModelError(message)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        message = f"{path} is not JSON: {error}"
        raise ModelError(message) from error
    if not isinstance(config, dict):
        message = f"{path} is not a JSON object"
        raise ModelError(message)
    return config


def _choose(config: Mapping[str, Any], kind: str) -> tuple[Adapter, str]:
    """Return the adapter of a checkpoint and the class to load it as."""
    named = config.get("architectures") or []
    model_type = str(config.get("model_type"))
    for adapter in ADAPTERS:
        if adapter.kind == kind:
            for architecture in named:
                if architecture in adapter.models and architecture != _TWO_TOWERS:
                    return adapter, architecture
            if model_type in adapter.model_types:
                return adapter, adapter.model_types[model_type]
    for architecture in named:
        adapter_for(architecture, kind)  # raises: the class is unknown, or reads another kind
    raise architecture_error(", ".join(named) or f"of model_type {model_type}")


def _projection(config: Mapping[str, Any]) -> dict[str, Any]:
    """The width that a two-tower checkpoint projects to: it counts, whatever its towers say."""
    two_towers = _TWO_TOWERS in (config.get("architectures") or [])
    counts = two_towers and "projection_dim" in config
    return {"projection_dim": config["projection_dim"]} if counts else {}


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that hold a checkpoint's weights: safetensors if there are any."""
    for pattern in _WEIGHTS:
        files = sorted(folder.glob(pattern))
        if files:
            return files
    message = (
        f"the model folder {folder} has a config.json but no weights: there is no "
        f"{' or '.join(_WEIGHTS)} in it"
    )
    raise ModelError(message)


def _load(folder: Path, class_name: str, options: Mapping[str, Any]) -> nn.Module:
    """Load weights; a weight that is missing from the files is an error, not a random number."""
    model_class = getattr(transformers, class_name)
    try:
        with _quietly():
            model, info = model_class.from_pretrained(
                folder, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        why = damage(folder) or error
        message = f"the model folder {folder} cannot be loaded as {class_name}: {why}"
        raise ModelError(message) from error
    if info["mismatched_keys"]:
        name, there, needed = min(info["mismatched_keys"])
        message = (
            f"the weights in {folder} are not those of its config.json: {name} is {list(there)}, "
            f"but the model has {list(needed)}"
        )
        raise ModelError(message)
    missing = sorted(info["missing_keys"])
    if missing:
        message = (
            f"the weights in {folder} are not a whole {class_name}: {len(missing)} are missing, "
            f"the first is {missing[0]}"
        )
        raise ModelError(message)
    loaded: nn.Module = model
    return loaded


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers' report of a load to ourselves: what is missing from it is raised.

    Its progress bar stays where somebody watches it.
    """
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _dtype(dtype: torch.dtype | str | None) -> torch.dtype | str:
    """What to compute in; "auto" is as the checkpoint says."""
    if dtype is None or dtype == "auto":
        return "auto"
    named = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(named, torch.dtype):
        message = f"there is no dtype {dtype!r} to compute in"
        raise ModelError(message)
    return named


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        message = f"the device {name!r} cannot be used: {str(error).splitlines()[0]}"
        raise ModelError(message) from error
    return device


def _processor(folder: Path, kind: str) -> Any:  # noqa: ANN401
    what = "tokenizer" if kind == "text" else "image processor"
    # Without files, AutoTokenizer makes an empty tokenizer that knows no word, and says nothing.
    if kind == "text" and not any(file for name in _VOCABULARIES for file in folder.glob(name)):
        message = (
            f"the model folder {folder} has no {what}: none of {', '.join(_VOCABULARIES)} is in it"
        )
        raise ModelError(message)
    loader = AutoTokenizer if kind == "text" else AutoImageProcessor
    try:
        return loader.from_pretrained(folder)
    except (OSError, ValueError, ImportError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        message = f"the model folder {folder} has no {what} that can be loaded: {lines[0]}"
        raise ModelError(message) from error
