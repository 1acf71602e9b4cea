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
            logit_scale, logit_softcap, post_norm, parallel, and rotary (None without rotation).
    """

    weights: Mapping[str, torch.Tensor]
    settings: Mapping[str, Any]


def readout(model: nn.Module, adapter: Adapter) -> Readout:
    """Collect the readout weights of a model; see `Readout` for names and shapes."""
    weights = {**_unembedding(model, adapter), **_heads_out(model, adapter)}
    norm = final_norm(model, adapter)
    if norm is not None:
        weights["ln_final.w"] = norm.weight
        if getattr(norm, "bias", None) is not None:
            weights["ln_final.b"] = norm.bias
    projection = adapter.projection(model)
    if projection is not None:
        weights["W_proj"] = projection.weight.T
    kept = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    return Readout(kept, settings(model, adapter))


def final_norm(model: nn.Module, adapter: Adapter) -> Any:  # noqa: ANN401 - norms share no type
    """Return the norm between the last block and the readout, None where the family has none."""
    if adapter.final_norm is None:
        return None
    return adapter.body(model).get_submodule(adapter.final_norm)


def _unembedding(model: nn.Module, adapter: Adapter) -> dict[str, torch.Tensor]:
    if not (adapter.has_head(model) and adapter.linear_unembedding):
        return {}
    head = model.get_output_embeddings()  # type: ignore[operator]  # a PreTrainedModel has it
    found = {"W_U": head.weight.T}
    if head.bias is not None:
        found["b_U"] = head.bias
    return found


def _heads_out(model: nn.Module, adapter: Adapter) -> dict[str, torch.Tensor]:
    dims = adapter.dims(model)
    projections: list[Any] = [
        block.get_submodule(adapter.out_proj) for block in adapter.block_list(model)
    ]
    with torch.no_grad():
        weight = torch.stack([_in_out(projection) for projection in projections])
        found = {"W_O": weight.unflatten(1, (dims.n_head, dims.d_head))}
        if projections[0].bias is not None:
            found["b_O"] = torch.stack([projection.bias for projection in projections])
    return found


def _in_out(projection: Conv1D | nn.Linear) -> torch.Tensor:
    """Return a projection's weight as `[in, out]`: so in GPT-2's Conv1D, transposed in Linear."""
    weight: torch.Tensor = projection.weight
    return weight if isinstance(projection, Conv1D) else weight.T


def norm_eps(norm: Any) -> float:  # noqa: ANN401 - norms share no type
    """Return what a norm adds to the variance before its root."""
    return float(norm.eps if isinstance(norm, nn.LayerNorm) else norm.variance_epsilon)


def settings(model: nn.Module, adapter: Adapter) -> dict[str, Any]:
    """Return how the readout weights are applied; see `Readout.settings`."""
    norm = final_norm(model, adapter)
    config = adapter.config(model)
    return {
        "norm": "none" if norm is None else adapter.norm,
        "eps": 0.0 if norm is None else norm_eps(norm),
        "norm_offset": 0.0,
        "norm_float32": adapter.norm_float32,
        "logit_scale": 1.0,
        "logit_softcap": None,
        "post_norm": adapter.post_norm,
        "parallel": adapter.parallel(config),
        "rotary": dict(config.rope_parameters) if adapter.rotary else None,
    }
