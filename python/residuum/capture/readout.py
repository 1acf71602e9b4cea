"""The weights that reading a store needs: from the stream to logits, from heads to the stream.

They are captured beside the activations, so that logits, head contributions and embeddings can be
computed later without the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from residuum.capture.adapters import Adapter


@dataclass(frozen=True)
class Readout:
    """Readout weights, in the model's dtype, and the settings that say how to apply them.

    Attributes:
        weights: by name, those of the following that the model has:
            W_U `[d_model, d_vocab]`, b_U `[d_vocab]`: unembedding; absent also where the head has a
            layer of its own before it (BERT), because norm and W_U alone would be wrong;
            W_O `[layer, head, d_head, d_model]`, b_O `[layer, d_model]`: heads to stream;
            ln_final.w, ln_final.b `[d_model]`: the final norm;
            W_proj `[d_model, d_embed]`: projection to the joint text-image space.
        settings: norm ("layer_norm", "rms_norm" or "none"), eps, norm_offset (added to ln_final.w
            before use), norm_float32 (the norm computes in float32 whatever the dtype),
            logit_scale, logit_softcap, post_norm, branch_norm (what attention and MLP give is
            normed before it is added), parallel, and rotary (None without rotation).
    """

    weights: Mapping[str, torch.Tensor]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """A model's weight as a part of a readout weight: all of it, or that of one layer.

    Attributes:
        weight: name of the readout weight.
        layer: its layer, for weights with a layer axis.
        module: the module that holds it, as its `name`.
        transposed: whether the readout has its two axes the other way round.
        heads: (n_head, d_head) to cut the first axis into, where that is heads side by side.
    """

    weight: str
    layer: int | None
    module: nn.Module
    name: str
    transposed: bool = False
    heads: tuple[int, int] | None = None

    def arrange(self, value: torch.Tensor) -> torch.Tensor:
        """Return the weight with the readout's axes, as a view."""
        turned = value.T if self.transposed else value
        return turned if self.heads is None else turned.unflatten(0, self.heads)


def readout(model: nn.Module, adapter: Adapter) -> Readout:
    """Collect the readout weights of a model; see `Readout` for names and shapes."""
    weights: dict[str, torch.Tensor] = {}
    layers: dict[str, list[torch.Tensor]] = {}
    for part in parts(model, adapter):
        value = part.arrange(getattr(part.module, part.name).detach())
        if part.layer is None:
            weights[part.weight] = value.cpu().contiguous()
        else:
            layers.setdefault(part.weight, []).append(value)
    weights |= {name: torch.stack(values).cpu() for name, values in layers.items()}
    return Readout(weights, settings(model, adapter))


def parts(model: nn.Module, adapter: Adapter) -> list[Part]:
    """Return where in a model its readout weights are; those of layers in their order."""
    found = [*_unembedding(model, adapter), *_heads_out(model, adapter)]
    norm = final_norm(model, adapter)
    if norm is not None:
        found.append(Part("ln_final.w", None, norm, "weight"))
        if getattr(norm, "bias", None) is not None:
            found.append(Part("ln_final.b", None, norm, "bias"))
    projection = adapter.projection(model)
    if projection is not None:
        found.append(Part("W_proj", None, projection, "weight", transposed=True))
    return found


def final_norm(model: nn.Module, adapter: Adapter) -> Any:  # noqa: ANN401 - norms share no type
    """Return the norm between the last block and the readout, None where the family has none."""
    if adapter.final_norm is None:
        return None
    return adapter.body(model).get_submodule(adapter.final_norm)


def _unembedding(model: nn.Module, adapter: Adapter) -> list[Part]:
    if not (adapter.has_head(model) and adapter.linear_unembedding):
        return []
    head = model.get_output_embeddings()  # type: ignore[operator]  # a PreTrainedModel has it
    found = [Part("W_U", None, head, "weight", transposed=True)]
    if head.bias is not None:
        found.append(Part("b_U", None, head, "bias"))
    return found


def _heads_out(model: nn.Module, adapter: Adapter) -> list[Part]:
    dims = adapter.dims(model)
    heads = (dims.n_head, dims.d_head)
    found = []
    for layer, block in enumerate(adapter.block_list(model)):
        projection: Any = block.get_submodule(adapter.out_proj)
        # GPT-2's Conv1D is `[in, out]`, a Linear the other way round.
        turned = not isinstance(projection, Conv1D)
        found.append(Part("W_O", layer, projection, "weight", transposed=turned, heads=heads))
        if projection.bias is not None:
            found.append(Part("b_O", layer, projection, "bias"))
    return found


def norm_eps(norm: Any) -> float:  # noqa: ANN401 - norms share no type
    """Return what a norm adds to the variance before its root."""
    return float(norm.eps if hasattr(norm, "eps") else norm.variance_epsilon)


def settings(model: nn.Module, adapter: Adapter) -> dict[str, Any]:
    """Return how the readout weights are applied; see `Readout.settings`."""
    norm = final_norm(model, adapter)
    config = adapter.config(model)
    return {
        "norm": "none" if norm is None else adapter.norm,
        "eps": 0.0 if norm is None else norm_eps(norm),
        "norm_offset": adapter.norm_offset,
        "norm_float32": adapter.norm_float32,
        "logit_scale": 1.0,
        "logit_softcap": adapter.logit_softcap(config),
        "post_norm": adapter.post_norm,
        "branch_norm": bool(adapter.branch_norms),
        "parallel": adapter.parallel(config),
        "rotary": adapter.rotation(config) if adapter.rotary else None,
    }
