"""How a model's blocks compute, in words that need neither its code nor its library.

A store keeps this beside its activations, so that `replay` can compute on from them: the numbers
that enter a block's formulas, and the names of the tensors in the model's files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from residuum.capture.readout import norm_eps

if TYPE_CHECKING:
    from torch import nn

    from residuum.capture.adapters import Adapter, Tap
    from residuum.capture.adapters.base import Config

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""transformers' names and ours."""


def blocks(model: nn.Module, adapter: Adapter) -> dict[str, Any]:
    """Describe the blocks of a model, as plain JSON values.

    Returns:
        norm, norm_offset, eps: of the norms in a block, as in the readout's settings;
        post_norm, parallel, causal: as in the readout's settings and the model's facts;
        activation: gelu, gelu_tanh, gelu_quick, relu or silu; None where it is another one;
        scaling, window: by layer, the factor on query times key, and how many keys back a query
            sees (None: all);
        softcap: what bounds the scaled scores, or None;
        rotary: None without rotation, else `inv_freq` (one angle per step for each pair of
            features), `attention_scaling` (on sine and cosine), `interleaved` (pairs are
            neighbours; otherwise halves), `by_length` (the angles depend on how long an input
            is). Sine and cosine are float32 in every family, whatever the model's dtype;
        modules: where the weights are: `path` of a block with `{layer}` in it, and below that
            `norms`, `branch_norms`, `q`, `k`, `v` (each a module, and a part of it where they are
            fused), `out`, `mlp_in`, `mlp_up` (of gated MLPs), `mlp_out`; `transposed` says that
            matrices lie `[in, out]`.
    """
    config = adapter.config(model)
    block_list = adapter.block_list(model)
    norm = block_list[0].get_submodule(adapter.norms[0])
    attends = [block.get_submodule(adapter.attention) for block in block_list]
    softcap = getattr(attends[0], "attn_logit_softcapping", None)
    return {
        "norm": adapter.norm,
        "norm_offset": adapter.norm_offset,
        "eps": norm_eps(norm),
        "post_norm": adapter.post_norm,
        "parallel": adapter.parallel(config),
        "causal": adapter.causal,
        "activation": _ACTIVATIONS.get(_activation(config)),
        "scaling": [_scaling(module, adapter.dims(model).d_head) for module in attends],
        "window": [_window(config, layer) for layer in range(len(block_list))],
        "softcap": None if softcap is None else float(softcap),
        "rotary": _rotary(model, adapter) if adapter.rotary else None,
        "modules": _modules(model, adapter),
    }


def _activation(config: Config) -> str:
    names = ("hidden_act", "hidden_activation", "activation_function")
    return str(next(getattr(config, name) for name in names if hasattr(config, name)))


def _scaling(attention: nn.Module, d_head: int) -> float:
    # GPT-2 may divide by the layer's number, Gemma 2 takes another width.
    for name in ("scaling", "scale"):
        if isinstance(getattr(attention, name, None), float):
            return float(getattr(attention, name))
    return float(d_head**-0.5)


def _window(config: Config, layer: int) -> int | None:
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    slides = kinds is None or kinds[layer] == "sliding_attention"
    return int(window) if window is not None and slides else None


def _rotary(model: nn.Module, adapter: Adapter) -> dict[str, Any]:
    rotation = adapter.rotation(adapter.config(model))
    if rotation.get("interleaved"):  # GPT-J keeps a table in place of the angles
        dim, base = rotation["rotary_dim"], rotation["rope_theta"]
        angles = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=torch.int64) / dim))
        factor, by_length = 1.0, False
    else:
        module: Any = adapter.body(model).get_submodule("rotary_emb")
        angles, factor = module.inv_freq, float(module.attention_scaling)
        by_length = rotation.get("rope_type") in ("dynamic", "longrope")
    return {
        "inv_freq": [float(angle) for angle in angles],
        "attention_scaling": factor,
        "interleaved": bool(rotation.get("interleaved")),
        "by_length": by_length,
    }


def _modules(model: nn.Module, adapter: Adapter) -> dict[str, Any]:
    body = adapter.models[type(model).__name__]
    first = adapter.block_list(model)[0]
    return {
        "path": ".".join(part for part in (body, adapter.blocks, "{layer}") if part),
        "norms": list(adapter.norms),
        "branch_norms": list(adapter.branch_norms),
        "q": _projection(adapter.q),
        "k": _projection(adapter.k),
        "v": _projection(adapter.v),
        "out": adapter.out_proj,
        "mlp_in": adapter.mlp_pre.module,
        "mlp_up": adapter.mlp_up,
        "mlp_out": adapter.mlp_post.module,
        "transposed": isinstance(first.get_submodule(adapter.out_proj), Conv1D),
    }


def _projection(tap: Tap) -> dict[str, Any]:
    return {"module": tap.module, "part": tap.part, "fused": tap.fused}
