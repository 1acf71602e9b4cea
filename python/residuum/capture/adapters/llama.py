"""Llama and Mistral: rotary positions, grouped keys, RMSNorm, a gated MLP."""

from residuum.capture.adapters.base import Adapter, Tap

LLAMA = Adapter(
    family="llama",
    kind="text",
    model_types={"llama": "LlamaModel", "mistral": "MistralModel"},
    models={
        "LlamaForCausalLM": "model",
        "LlamaModel": "",
        "MistralForCausalLM": "model",
        "MistralModel": "",
    },
    heads=frozenset({"LlamaForCausalLM", "MistralForCausalLM"}),
    blocks="layers",
    attention="self_attn",
    q=Tap("self_attn.q_proj", "output"),
    k=Tap("self_attn.k_proj", "output"),
    v=Tap("self_attn.v_proj", "output"),
    out_proj="self_attn.o_proj",
    attn_out=Tap("self_attn", "output"),
    mlp_out=Tap("mlp", "output"),
    mlp_pre=Tap("mlp.gate_proj", "output"),
    mlp_post=Tap("mlp.down_proj", "input"),
    norms=("input_layernorm", "post_attention_layernorm"),
    final_norm="norm",
    norm="rms_norm",
    norm_float32=True,
    rotary=True,
)
