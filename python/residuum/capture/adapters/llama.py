"""Llama, Mistral, Qwen2: rotary positions, grouped keys, RMSNorm, a gated MLP.

Qwen2 has biases in q, k and v alone.
"""

from residuum.capture.adapters.base import Adapter, Tap

LLAMA = Adapter(
    family="llama",
    kind="text",
    model_types={"llama": "LlamaModel", "mistral": "MistralModel", "qwen2": "Qwen2Model"},
    models={
        "LlamaForCausalLM": "model",
        "LlamaModel": "",
        "MistralForCausalLM": "model",
        "MistralModel": "",
        "Qwen2ForCausalLM": "model",
        "Qwen2Model": "",
    },
    heads=frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}),
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
    mlp_up="mlp.up_proj",
    norms=("input_layernorm", "post_attention_layernorm"),
    final_norm="norm",
    norm="rms_norm",
    norm_float32=True,
    rotary=True,
)
