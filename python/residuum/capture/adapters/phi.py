"""Phi (1, 1.5, 2): attention and MLP read one LayerNorm in parallel; partly rotary positions."""

from residuum.capture.adapters.base import Adapter, Config, Tap


def _unlike(config: Config) -> str | None:
    if config.qk_layernorm:
        return "it norms queries and keys of each head (qk_layernorm is true)"
    return None


def _parallel(_config: Config) -> bool:
    return True


PHI = Adapter(
    family="phi",
    kind="text",
    model_types={"phi": "PhiModel"},
    models={"PhiForCausalLM": "model", "PhiModel": ""},
    heads=frozenset({"PhiForCausalLM"}),
    unlike=_unlike,
    blocks="layers",
    attention="self_attn",
    q=Tap("self_attn.q_proj", "output"),
    k=Tap("self_attn.k_proj", "output"),
    v=Tap("self_attn.v_proj", "output"),
    out_proj="self_attn.dense",
    attn_out=Tap("self_attn", "output"),
    mlp_out=Tap("mlp", "output"),
    mlp_pre=Tap("mlp.fc1", "output"),
    mlp_post=Tap("mlp.fc2", "input"),
    norms=("input_layernorm",),
    final_norm="final_layernorm",
    parallel=_parallel,
    rotary=True,
)
