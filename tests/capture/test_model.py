"""Loading: from a folder or from memory, and what each broken folder is told."""

import json

import huggingface_hub.constants
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import KIND, MODELS, build, save, tokenizer

from residuum.capture.model import load_model
from residuum.errors import ModelError


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "loaded_as"),
    [
        ("gpt2", "GPT2LMHeadModel"),
        ("gpt_neox", "GPTNeoXForCausalLM"),
        ("llama", "LlamaForCausalLM"),
        ("bert", "BertModel"),
        ("bert_mlm", "BertForMaskedLM"),
        ("clip_text", "CLIPTextModelWithProjection"),
        ("clip_vision", "CLIPVisionModelWithProjection"),
        ("clip_vision_joint", "CLIPVisionModelWithProjection"),
        ("clip_text_gelu", "CLIPTextModelWithProjection"),
    ],
)
def test_a_folder_gives_its_own_weights(tmp_path, name, loaded_as):
    saved = save(name, tmp_path)
    loaded = load_model(tmp_path, kind=KIND.get(name, "text"), device="cpu")
    assert type(loaded.model).__name__ == loaded_as
    assert not loaded.model.training
    theirs = saved.state_dict()
    for key, weight in loaded.model.state_dict().items():
        assert torch.equal(weight, theirs[key])
    assert (loaded.tokenizer is None) == (name in KIND)
    assert (loaded.image_processor is None) == (name not in KIND)
    assert loaded.facts["name"] == tmp_path.name
    assert loaded.facts["weights_hash"].startswith("sha256-files:")
    assert (loaded.facts["tokenizer_hash"] is None) == (name in KIND)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_two_tower_checkpoint_projects_as_wide_as_it_says_itself(tmp_path, kind):
    save("clip_vision_joint" if kind == "image" else "clip_text_gelu", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for tower in ("text_config", "vision_config"):
        config[tower].pop("projection_dim", None)
    edit_config(tmp_path, **config)
    assert load_model(tmp_path, kind=kind, device="cpu").facts["d_embed"] == 11


def test_facts_do_not_depend_on_where_the_folder_lies(tmp_path):
    facts = []
    for parent in ("here", "there"):
        folder = tmp_path / parent / "model"
        save("llama", folder)
        facts.append(load_model(folder, device="cpu").facts)
    assert facts[0] == facts[1]


def test_the_dtype_is_the_checkpoints_unless_told_otherwise(tmp_path):
    save("gpt2", tmp_path, torch.bfloat16)
    assert load_model(tmp_path, device="cpu").facts["dtype"] == "bfloat16"
    wide = load_model(str(tmp_path), device="cpu", dtype=torch.float32)
    assert wide.model.dtype == torch.float32
    assert wide.facts["weights_hash"] == load_model(tmp_path, device="cpu").facts["weights_hash"]


def test_the_attention_implementation_can_be_chosen(tmp_path):
    save("gpt2", tmp_path)
    loaded = load_model(tmp_path, device="cpu", attn_implementation="eager")
    assert loaded.facts["attn_implementation"] == "eager"


def test_loading_says_nothing_where_nobody_watches(tmp_path, capfd):
    save("bert_mlm", tmp_path)
    edit_config(tmp_path, architectures=["BertModel"])
    capfd.readouterr()
    load_model(tmp_path, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_a_model_in_memory_is_used_as_it_is():
    model = build("llama")
    loaded = load_model(model, processor=tokenizer())
    assert loaded.model is model
    assert loaded.facts["dtype"] == "float64"
    assert loaded.facts["weights_hash"].startswith("sha256-state:")
    with pytest.raises(ModelError, match="needs its tokenizer"):
        load_model(model)


def test_a_classifier_is_loaded_as_its_body(tmp_path):
    save("bert", tmp_path)
    edit_config(tmp_path, architectures=["BertForTokenClassification"])
    assert type(load_model(tmp_path, device="cpu").model).__name__ == "BertModel"
    edit_config(tmp_path, architectures=None)
    assert type(load_model(tmp_path, device="cpu").model).__name__ == "BertModel"


def one_paragraph(source, **options):
    with pytest.raises(ModelError) as caught:
        load_model(source, device="cpu", **options)
    message = str(caught.value)
    assert "\n\n" not in message
    return message


def test_a_folder_without_weights(tmp_path):
    save("gpt2", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    message = one_paragraph(tmp_path)
    assert "no weights" in message
    assert str(tmp_path) in message


def test_a_folder_without_config(tmp_path):
    assert "no config.json" in one_paragraph(tmp_path)
    (tmp_path / "config.json").write_text("{")
    assert "not JSON" in one_paragraph(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    assert "not a JSON object" in one_paragraph(tmp_path)


def test_a_folder_that_does_not_exist(tmp_path):
    assert "there is no model folder" in one_paragraph(tmp_path / "nothing")


def test_an_unknown_architecture(tmp_path):
    save("gpt2", tmp_path)
    edit_config(tmp_path, architectures=["MambaForCausalLM"], model_type="mamba")
    message = one_paragraph(tmp_path)
    assert "MambaForCausalLM" in message
    assert "gpt_neox" in message
    assert "base.py" in message
    edit_config(tmp_path, architectures=None)
    assert "model_type mamba" in one_paragraph(tmp_path)


def test_the_wrong_kind_of_input(tmp_path):
    save("gpt2", tmp_path)
    assert "reads text input" in one_paragraph(tmp_path, kind="image")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("opt", {"do_layer_norm_before": False}, "norms behind each branch"),
        ("opt", {"_remove_final_layer_norm": True}, "no norm before the unembedding"),
        ("opt", {"word_embed_proj_dim": 20}, "embeddings are 20 wide"),
        ("opt", {"layer_norm_elementwise_affine": False}, "norms have no weights"),
        ("phi", {"qk_layernorm": True}, "norms queries and keys of each head"),
        ("bert", {"is_decoder": True}, "looks at earlier tokens alone"),
    ],
)
def test_blocks_unlike_those_of_the_family_are_refused(name, settings, said):
    class_name, config = MODELS[name]()
    for key, value in settings.items():
        setattr(config, key, value)
    model = getattr(transformers, class_name)(config)
    with pytest.raises(ModelError, match=f"cannot be captured with these settings: .*{said}"):
        load_model(model, processor=tokenizer())


def test_missing_weights_are_not_made_up(tmp_path):
    save("gpt2", tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    del weights["transformer.h.1.mlp.c_fc.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    message = one_paragraph(tmp_path)
    assert "1 are missing" in message
    assert "h.1.mlp.c_fc.weight" in message


def test_a_truncated_weight_file(tmp_path):
    save("gpt2", tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    message = one_paragraph(tmp_path)
    assert "cannot be loaded as GPT2LMHeadModel" in message
    assert str(file) in message


def test_a_weight_of_another_shape(tmp_path):
    save("gpt2", tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name = "transformer.h.1.mlp.c_fc.weight"
    weights[name] = weights[name][:, :-1].contiguous()
    there, needed = [list(w.shape) for w in (weights[name], load_file(file)[name])]
    save_file(weights, file, metadata={"format": "pt"})
    assert f"c_fc.weight is {there}, but the model has {needed}" in one_paragraph(tmp_path)


def test_a_folder_without_tokenizer(tmp_path):
    build("gpt2").save_pretrained(tmp_path)
    assert "no tokenizer" in one_paragraph(tmp_path)


def test_a_device_that_is_not_there(tmp_path):
    save("gpt2", tmp_path)
    with pytest.raises(ModelError, match="the device 'nonsense' cannot be used"):
        load_model(tmp_path, device="nonsense")


def test_a_hub_name_without_network(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = one_paragraph("nobody/no-such-model")
    assert "nobody/no-such-model is neither a folder here" in message
    assert "network" in message
