"""GPT-2: learned positions, fused q/k/v, LayerNorm before each branch."""

from residuum.capture.adapters.base import Adapter, Config, Tap


def mlp_width(config: Config) -> int:
    """Width of the MLP: four times the stream where the configuration does not say."""
    return int(config.n_inner or 4 * config.hidden_size)


GPT2 = Adapter(
    family="gpt2",
    kind="text",
    model_types={"gpt2": "GPT2Model"},
    models={"GPT2LMHeadModel": "transformer", "GPT2Model": ""},
    heads=frozenset({"GPT2LMHeadModel"}),
    blocks="h",
    attention="attn",
    q=Tap("attn.c_attn", "output", part=0, fused="thirds"),
    k=Tap("attn.c_attn", "output", part=1, fused="thirds"),
    v=Tap("attn.c_attn", "output", part=2, fused="thirds"),
    out_proj="attn.c_proj",
    attn_out=Tap("attn", "output"),
    mlp_out=Tap("mlp", "output"),
    mlp_pre=Tap("mlp.c_fc", "output"),
    mlp_post=Tap("mlp.c_proj", "input"),
    norms=("ln_1", "ln_2"),
    final_norm="ln_f",
    mlp_width=mlp_width,
)
