"""OPT: learned positions, LayerNorm before each branch, a ReLU MLP that reads flattened tokens."""

from residuum.capture.adapters.base import Adapter, Config, Tap


def _mlp_width(config: Config) -> int:
    return int(config.ffn_dim)


def _unlike(config: Config) -> str | None:
    if config._remove_final_layer_norm:
        return "it has no norm before the unembedding (_remove_final_layer_norm is true)"
    if not config.do_layer_norm_before:
        return "it norms behind each branch (do_layer_norm_before is false), as OPT-350m does"
    if config.word_embed_proj_dim != config.hidden_size:
        return (
            f"its embeddings are {config.word_embed_proj_dim} wide and its stream "
            f"{config.hidden_size}, with a projection between the last norm and the unembedding"
        )
    if not config.layer_norm_elementwise_affine:
        return "its norms have no weights (layer_norm_elementwise_affine is false)"
    return None


OPT = Adapter(
    family="opt",
    kind="text",
    model_types={"opt": "OPTModel"},
    models={"OPTForCausalLM": "model.decoder", "OPTModel": "decoder"},
    heads=frozenset({"OPTForCausalLM"}),
    unlike=_unlike,
    blocks="layers",
    flattens=True,
    attention="self_attn",
    q=Tap("self_attn.q_proj", "output"),
    k=Tap("self_attn.k_proj", "output"),
    v=Tap("self_attn.v_proj", "output"),
    out_proj="self_attn.out_proj",
    attn_out=Tap("self_attn", "output"),
    mlp_out=Tap("fc2", "output"),
    mlp_pre=Tap("fc1", "output"),
    mlp_post=Tap("fc2", "input"),
    norms=("self_attn_layer_norm", "final_layer_norm"),
    final_norm="final_layer_norm",
    mlp_width=_mlp_width,
)
