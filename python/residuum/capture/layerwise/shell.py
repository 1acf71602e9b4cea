"""A model without weights, into which they are put part by part.

The model is built on torch's `meta` device, where tensors have shapes and no memory. Weights that
a stage computes with are read from the checkpoint. Those that the model's code passes on the way
there, such as the embeddings in front of block 20, are *hollow*: zeros that take up one number of
memory, whose results nobody looks at. So masks, positions and rotary tables are made by the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import nn

from residuum.capture.layerwise.checkpoint import Checkpoint
from residuum.capture.layerwise.names import sources
from residuum.capture.layerwise.raw import empty
from residuum.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

Place = tuple[nn.Module, str]


@dataclass(frozen=True, eq=False)
class Weight:
    """A parameter or persistent buffer of a model.

    Attributes:
        keys: its names in the model's `state_dict`; more than one where it is tied.
        places: the modules that hold it, each with its name there.
        meta: stands for it while it has no memory; it has the shape and dtype to compute in.
        source: the checkpoint's tensor.
    """

    keys: tuple[str, ...]
    places: tuple[Place, ...]
    meta: torch.Tensor
    source: str


class Shell:
    """A model on no device, its weights, and the checkpoint that they come from."""

    def __init__(self, model: nn.Module, checkpoint: Checkpoint, device: torch.device) -> None:
        """Find each weight of `model`, which is on the device `meta`, in the checkpoint.

        Raises:
            ModelError: a weight is missing, or has another shape.
        """
        self.model = model
        self.checkpoint = checkpoint
        self.device = device
        self.weights: list[Weight] = list(_weights(model, checkpoint))
        _make_buffers(model, device)

    @classmethod
    def open(
        cls,
        folder: Path,
        class_name: str,
        options: Mapping[str, Any],
        *,
        dtype: torch.dtype | str,
        device: torch.device,
    ) -> Shell:
        """Build the model of a folder, as `from_pretrained` with these options would.

        Raises:
            ModelError: no safetensors, or not those of this class.
        """
        checkpoint = Checkpoint(folder)
        model_class = getattr(transformers, class_name)
        try:
            config, rest = model_class.config_class.from_pretrained(
                folder, return_unused_kwargs=True, **options
            )
            if dtype == "auto":
                dtype = config.dtype or checkpoint.dtype or torch.get_default_dtype()
            with torch.device("meta"):
                model = model_class._from_config(config, dtype=dtype, **rest)
        except (OSError, ValueError, TypeError) as error:
            message = f"the model folder {folder} cannot be loaded as {class_name}: {error}"
            raise ModelError(message) from error
        # What `from_pretrained` notes of where a model comes from.
        model.config.name_or_path = str(folder)
        return cls(model.eval(), checkpoint, device)

    def under(self, *modules: nn.Module | None) -> list[Weight]:
        """The weights that any of these modules holds."""
        inside = {id(part) for module in modules if module is not None for part in module.modules()}
        return [w for w in self.weights if any(id(holder) in inside for holder, _ in w.places)]

    def read(self, weight: Weight) -> torch.Tensor:
        """Read a weight to the device, in the dtype that the model computes in."""
        return self.checkpoint.read(weight.source).to(self.device, weight.meta.dtype)

    def empty_like(self, weight: Weight) -> torch.Tensor:
        """Memory in which a weight that was read earlier lies as `read` lays it."""
        dtype = weight.meta.dtype
        at = self.checkpoint.place(weight.source, dtype)
        return empty(weight.meta.shape, dtype, at)

    def put(self, weight: Weight, value: torch.Tensor) -> None:
        """Let the model compute with `value`."""
        for module, name in weight.places:
            if name in module._parameters:
                module._parameters[name] = nn.Parameter(value, requires_grad=False)
            else:
                module._buffers[name] = value

    def hollow(self, weights: Iterable[Weight]) -> None:
        """Let the model pass weights whose results nobody looks at."""
        for weight in weights:
            zero = torch.zeros((), dtype=weight.meta.dtype, device=self.device)
            self.put(weight, zero.expand(weight.meta.shape))

    def empty(self) -> None:
        """Take all weights out of the model again."""
        for weight in self.weights:
            self.put(weight, weight.meta)


def _weights(model: Any, checkpoint: Checkpoint) -> Iterator[Weight]:  # noqa: ANN401
    found = sources(model, checkpoint.names)
    missing = []
    for keys, places, meta in _held(model):
        source = next((found[key] for key in keys if key in found), None)
        if source is None:
            missing.append(keys[0])
        elif checkpoint.shape(source) != tuple(meta.shape):
            message = (
                f"the model folder {checkpoint.folder} cannot be loaded as "
                f"{type(model).__name__}: {source} is {list(checkpoint.shape(source))}, not "
                f"{list(meta.shape)}"
            )
            raise ModelError(message)
        else:
            yield Weight(tuple(keys), tuple(places), meta, source)
    if missing:
        message = (
            f"the weights in {checkpoint.folder} are not a whole {type(model).__name__}: "
            f"{len(missing)} are missing, the first is {min(missing)}"
        )
        raise ModelError(message)


def _held(model: nn.Module) -> list[tuple[list[str], list[Place], torch.Tensor]]:
    """Parameters and persistent buffers, each once, with all names and places."""
    held: dict[int, tuple[list[str], list[Place], torch.Tensor]] = {}
    for prefix, module in model.named_modules():
        lasting = {
            name: buffer
            for name, buffer in module._buffers.items()
            if name not in module._non_persistent_buffers_set
        }
        for name, tensor in {**module._parameters, **lasting}.items():
            if tensor is not None:
                keys, places, _ = held.setdefault(id(tensor), ([], [], tensor))
                keys.append(f"{prefix}.{name}" if prefix else name)
                places.append((module, name))
    return list(held.values())


def _make_buffers(model: Any, device: torch.device) -> None:  # noqa: ANN401
    """Make what is computed from the configuration and in no checkpoint, such as rotary tables.

    On `meta` it has no values; the library's own initialisation gives them, as when it loads.
    """
    for path, module in model.named_modules():
        names = [
            n for n in module._non_persistent_buffers_set if module._buffers.get(n) is not None
        ]
        if not names:
            continue
        for name in names:
            module._buffers[name] = torch.empty_like(module._buffers[name], device="cpu")
        with torch.no_grad():
            _owner(model, path)._init_weights(module)
        for name in names:
            module._buffers[name] = module._buffers[name].to(device)


def _owner(model: Any, path: str) -> Any:  # noqa: ANN401
    """The model, or model within it, to which a module belongs."""
    owner, part = model, model
    for name in path.split("."):
        part = part.get_submodule(name)
        if isinstance(part, transformers.PreTrainedModel):
            owner = part
    return owner
