"""The weights beside the activations, and what a store remembers of the model."""

import json

import pytest
import torch
from tiny_models import KIND, MODELS, build, tokenizer

from residuum.capture.adapters import adapter_for
from residuum.capture.facts import hash_state, hash_tokenizer, model_facts
from residuum.capture.readout import readout


def read(name, **options):
    model = build(name, **options)
    adapter = adapter_for(type(model).__name__, KIND.get(name, "text"))
    return model, adapter, readout(model, adapter)


EXPECTED = {
    "gpt2": {"W_U", "W_O", "b_O", "ln_final.w", "ln_final.b"},
    "gpt2_bare": {"W_O", "b_O", "ln_final.w", "ln_final.b"},
    "gpt_neox": {"W_U", "W_O", "b_O", "ln_final.w", "ln_final.b"},
    "llama": {"W_U", "W_O", "b_O", "ln_final.w"},
    "mistral": {"W_U", "W_O", "ln_final.w"},
    "qwen2": {"W_U", "W_O", "ln_final.w"},
    "gemma": {"W_U", "W_O", "b_O", "ln_final.w"},
    "gemma2": {"W_U", "W_O", "b_O", "ln_final.w"},
    "gptj": {"W_U", "b_U", "W_O", "ln_final.w", "ln_final.b"},
    "opt": {"W_U", "W_O", "b_O", "ln_final.w", "ln_final.b"},
    "phi": {"W_U", "b_U", "W_O", "b_O", "ln_final.w", "ln_final.b"},
    "bert": {"W_O", "b_O"},
    "bert_mlm": {"W_O", "b_O"},
    "clip_text": {"W_O", "b_O", "ln_final.w", "ln_final.b", "W_proj"},
    "clip_vision": {"W_O", "b_O", "ln_final.w", "ln_final.b", "W_proj"},
}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_a_readout_holds_what_the_model_has(name):
    model, adapter, out = read(name, dtype=torch.float32)
    assert set(out.weights) == EXPECTED[name]
    dims = adapter.dims(model)
    shapes = {
        "W_U": (dims.d_model, dims.d_vocab),
        "b_U": (dims.d_vocab,),
        "W_O": (3, dims.n_head, dims.d_head, dims.d_model),
        "b_O": (3, dims.d_model),
        "ln_final.w": (dims.d_model,),
        "ln_final.b": (dims.d_model,),
        "W_proj": (dims.d_model, dims.d_embed),
    }
    for key, weight in out.weights.items():
        assert tuple(weight.shape) == shapes[key]
        assert weight.is_contiguous()
        assert weight.dtype == torch.float32
        assert not weight.requires_grad


def test_settings_say_how_to_apply_the_weights():
    assert read("gpt2")[2].settings["norm"] == "layer_norm"
    assert read("gpt2")[2].settings["rotary"] is None
    llama = read("llama")[2].settings
    assert (llama["norm"], llama["eps"], llama["norm_float32"]) == ("rms_norm", 1e-6, True)
    assert llama["rotary"]["rope_theta"] == 10000.0
    assert read("bert")[2].settings["norm"] == "none"
    assert read("bert")[2].settings["post_norm"]
    assert read("gpt_neox")[2].settings["parallel"]
    assert not read("gpt_neox_sequential")[2].settings["parallel"]


def test_a_bias_of_the_unembedding_is_kept():
    model = build("gpt2")
    model.lm_head = torch.nn.Linear(35, 31, bias=True, dtype=torch.float64)
    out = readout(model, adapter_for("GPT2LMHeadModel"))
    assert torch.equal(out.weights["b_U"], model.lm_head.bias)


@pytest.mark.parametrize("name", list(MODELS))
def test_facts_are_plain_json(name):
    model = build(name)
    adapter = adapter_for(type(model).__name__, KIND.get(name, "text"))
    facts = model_facts(model, adapter, name=name, revision=None, weights_hash=hash_state(model))
    assert json.loads(json.dumps(facts)) == facts
    assert facts["n_layer"] == 3
    assert facts["architecture"] == type(model).__name__
    assert facts["readout"]["norm"] in ("layer_norm", "rms_norm", "none")


def test_hashes_tell_models_and_tokenizers_apart():
    model, other = build("gpt2"), build("gpt2")
    assert hash_state(model) == hash_state(other)
    with torch.no_grad():
        other.transformer.h[2].ln_2.bias[3] += 1e-12
    assert hash_state(model) != hash_state(other)
    assert hash_state(build("gpt2", torch.bfloat16)) != hash_state(build("gpt2", torch.float16))

    plain, padded = tokenizer(), tokenizer()
    padded(["w1", "w1 w2"], padding=True, truncation=True, max_length=5)
    assert hash_tokenizer(plain) == hash_tokenizer(padded)
    padded.add_tokens(["w99"])
    assert hash_tokenizer(plain) != hash_tokenizer(padded)
