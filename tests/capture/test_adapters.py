"""Which adapter reads which model, and what a model without one is told."""

import pytest
import transformers
from tiny_models import KIND, MODELS, build
from torch import nn

from residuum.capture.adapters import ADAPTERS, Tap, adapter_for
from residuum.errors import ModelError
from residuum.sites import Site


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.family)
def test_every_class_an_adapter_names_exists(adapter):
    for name in (*adapter.models, *adapter.model_types.values(), *adapter.heads):
        assert hasattr(transformers, name)
    assert set(adapter.model_types.values()) <= set(adapter.models)
    assert set(adapter.load_options) <= set(adapter.models)
    assert adapter.heads <= set(adapter.models)


@pytest.mark.parametrize("name", list(MODELS))
def test_every_path_leads_to_a_module(name):
    model = build(name)
    adapter = adapter_for(type(model).__name__, KIND.get(name, "text"))
    blocks = adapter.block_list(model)
    assert len(blocks) == adapter.dims(model).n_layer == 3
    taps = [tap for site in Site if isinstance(tap := adapter.locate(site, model.config), Tap)]
    paths = [tap.module for tap in taps] + [adapter.attention, adapter.out_proj, *adapter.norms]
    for path in paths:
        assert isinstance(blocks[0].get_submodule(path), nn.Module)


def test_dims_are_the_models():
    dims = adapter_for("LlamaForCausalLM").dims(build("llama"))
    assert (dims.n_head, dims.n_kv_head, dims.d_head, dims.d_model) == (6, 2, 10, 42)
    assert (dims.d_mlp, dims.d_vocab, dims.d_embed, dims.context) == (52, 31, None, 16)
    vision = adapter_for("CLIPModel", "image").dims(build("clip_vision_joint"))
    assert (vision.d_vocab, vision.d_embed, vision.context, vision.d_mlp) == (None, 11, 10, 52)
    # RoBERTa's table of 18 positions starts behind its padding id, which is 1.
    assert adapter_for("RobertaModel").dims(build("roberta")).context == 16
    assert adapter_for("BertModel").dims(build("bert")).context == 18


def test_an_unknown_architecture_lists_the_adapters_and_how_to_add_one():
    with pytest.raises(ModelError) as caught:
        adapter_for("MambaForCausalLM")
    message = str(caught.value)
    assert "MambaForCausalLM" in message
    assert "adapters/base.py" in message
    assert all(adapter.family in message for adapter in ADAPTERS)
    assert "\n" not in message


def test_the_kind_of_input_picks_the_tower():
    assert adapter_for("CLIPModel", "text").family == "clip_text"
    assert adapter_for("CLIPModel", "image").family == "clip_vision"
    with pytest.raises(ModelError, match="GPT2LMHeadModel reads text input"):
        adapter_for("GPT2LMHeadModel", "image")
