"""GPT-J: attention and MLP read one LayerNorm in parallel; partly rotary positions, interleaved."""

from typing import Any

from residuum.capture.adapters.base import Adapter, Config, Tap
from residuum.capture.adapters.gpt2 import mlp_width


def _parallel(_config: Config) -> bool:
    return True


def _rotation(config: Config) -> dict[str, Any]:
    # Its configuration names the width alone; the rest is written into its code.
    return {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "rotary_dim": int(config.rotary_dim),
        "interleaved": True,
    }


GPTJ = Adapter(
    family="gptj",
    kind="text",
    model_types={"gptj": "GPTJModel"},
    models={"GPTJForCausalLM": "transformer", "GPTJModel": ""},
    heads=frozenset({"GPTJForCausalLM"}),
    blocks="h",
    block_returns_tuple=True,
    attention="attn",
    attends="_attn",
    q=Tap("attn.q_proj", "output"),
    k=Tap("attn.k_proj", "output"),
    v=Tap("attn.v_proj", "output"),
    out_proj="attn.out_proj",
    attn_out=Tap("attn", "output"),
    mlp_out=Tap("mlp", "output"),
    mlp_pre=Tap("mlp.fc_in", "output"),
    mlp_post=Tap("mlp.fc_out", "input"),
    norms=("ln_1",),
    final_norm="ln_f",
    parallel=_parallel,
    rotary=True,
    rotation=_rotation,
    mlp_width=mlp_width,
)
