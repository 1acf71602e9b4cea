"""Gemma 2: as Gemma, with a norm behind each branch too and soft-capped scores and logits."""

from dataclasses import replace

from residuum.capture.adapters.base import Adapter, Config, Tap
from residuum.capture.adapters.gemma import GEMMA


def _logit_softcap(config: Config) -> float | None:
    cap = config.final_logit_softcapping
    return None if cap is None else float(cap)


# Of transformers' attention functions only eager caps the scores; sdpa leaves that out in silence.
_CAPPED = {"attn_implementation": "eager"}

GEMMA2: Adapter = replace(
    GEMMA,
    family="gemma2",
    model_types={"gemma2": "Gemma2Model"},
    models={"Gemma2ForCausalLM": "model", "Gemma2Model": ""},
    load_options={"Gemma2ForCausalLM": _CAPPED, "Gemma2Model": _CAPPED},
    heads=frozenset({"Gemma2ForCausalLM"}),
    attn_out=Tap("post_attention_layernorm", "output"),
    mlp_out=Tap("post_feedforward_layernorm", "output"),
    norms=("input_layernorm", "pre_feedforward_layernorm"),
    branch_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
    logit_softcap=_logit_softcap,
)
