"""What a store remembers of the model it came from: sizes, configuration and hashes.

Two captures whose facts agree read the same model.
"""

import hashlib
import json
from typing import Any

import torch
from torch import nn

from residuum.capture.adapters import Adapter
from residuum.capture.blocks import blocks
from residuum.capture.readout import settings


def model_facts(
    model: nn.Module, adapter: Adapter, *, name: str, revision: str | None, weights_hash: str
) -> dict[str, Any]:
    """Return what is known of a model, as plain JSON values.

    Lengths carry the names of STYLE's axes (`n_layer`, `n_head`, `n_kv_head`, `d_model`, `d_head`,
    `d_mlp`, `d_vocab`, `d_embed`; None where the model has none); `context` is the longest example.
    `readout` and `blocks` say how logits and blocks are computed.
    """
    config = adapter.config(model)
    settings_of_body = json.loads(config.to_json_string(use_diff=False))
    # Where the checkpoint lay is no property of the model.
    settings_of_body.pop("_name_or_path", None)
    return {
        "name": name,
        "revision": revision,
        "family": adapter.family,
        "kind": adapter.kind,
        "architecture": type(model).__name__,
        **vars(adapter.dims(model)),
        "causal": adapter.causal,
        "sites": [site.value for site in adapter.sites(model)],
        "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
        "attn_implementation": config._attn_implementation,
        "config": settings_of_body,
        "weights_hash": weights_hash,
        "readout": dict(settings(model, adapter)),
        "blocks": blocks(model, adapter),
    }


def hash_state(model: nn.Module) -> str:
    """Return a hash of a model in memory: name, dtype, shape and bytes of each weight."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return f"sha256-state:{digest.hexdigest()}"


def hash_tokenizer(tokenizer: Any) -> str:  # noqa: ANN401 - transformers' tokenizers share no type
    """Return a hash of how a tokenizer cuts text: its rules, vocabulary and chat template.

    Padding and truncation are left out: they are settings of a call, not of the tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules: dict[str, Any]
    if backend is None:
        rules = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    else:
        rules = json.loads(backend.to_str())
    kept = {key: value for key, value in rules.items() if key not in ("padding", "truncation")}
    kept["chat_template"] = getattr(tokenizer, "chat_template", None)
    text = json.dumps(kept, sort_keys=True, ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
