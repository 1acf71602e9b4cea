"""GPT-NeoX and Pythia: rotary positions, q/k/v fused head by head, blocks parallel or not."""

from residuum.capture.adapters.base import Adapter, Config, Tap


def _parallel(config: Config) -> bool:
    return bool(config.use_parallel_residual)


GPT_NEOX = Adapter(
    family="gpt_neox",
    kind="text",
    model_types={"gpt_neox": "GPTNeoXModel"},
    models={"GPTNeoXForCausalLM": "gpt_neox", "GPTNeoXModel": ""},
    heads=frozenset({"GPTNeoXForCausalLM"}),
    blocks="layers",
    attention="attention",
    q=Tap("attention.query_key_value", "output", part=0, fused="heads"),
    k=Tap("attention.query_key_value", "output", part=1, fused="heads"),
    v=Tap("attention.query_key_value", "output", part=2, fused="heads"),
    out_proj="attention.dense",
    attn_out=Tap("attention", "output"),
    mlp_out=Tap("mlp", "output"),
    mlp_pre=Tap("mlp.dense_h_to_4h", "output"),
    mlp_post=Tap("mlp.dense_4h_to_h", "input"),
    norms=("input_layernorm", "post_attention_layernorm"),
    final_norm="final_layer_norm",
    parallel=_parallel,
    rotary=True,
)
