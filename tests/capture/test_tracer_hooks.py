"""The model is left as it was found, and does no more than it was asked for."""

import pytest
import torch
from tiny_models import build, examples
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from residuum.capture.adapters import adapter_for
from residuum.capture.batch import Batch
from residuum.capture.tracer import Tracer
from residuum.errors import CaptureError, InputError, SiteError
from residuum.sites import Site


def tracer_of(name, sites=None, layers=None, **options):
    model = build(name, **options)
    adapter = adapter_for(type(model).__name__)
    return Tracer(model, adapter, sites or adapter.sites(model), layers)


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def count_calls(module, calls):
    module.register_forward_pre_hook(lambda *_: calls.append(module))


class Full(Exception):
    """What a sink might raise."""


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_left_behind(attention, fails):
    tracer = tracer_of("llama", attention=attention)
    registry = dict(ALL_ATTENTION_FUNCTIONS._local_mapping)
    seen = []

    def sink(site, layer, _tensor):
        seen.append(site)
        if fails and site is Site.PATTERN and layer == 1:
            raise Full

    tracer.model.train()
    tracer.model.model.layers[0].eval()
    if fails:
        with pytest.raises(Full):
            tracer.run(tracer.collate(examples("llama")), sink)
    else:
        tracer.run(tracer.collate(examples("llama")), sink)
    assert seen
    assert hooks_of(tracer.model) == 0
    assert registry == ALL_ATTENTION_FUNCTIONS._local_mapping
    assert tracer.model.training
    assert tracer.model.model.layers[1].training
    assert not tracer.model.model.layers[0].training
    # And it still runs: the registry gives the model its own attention.
    tracer.model(torch.tensor([[1, 2, 3]]))


def test_another_models_attention_is_not_watched():
    other = build("gpt2", attention="sdpa")
    tracer = tracer_of("llama", [Site.PATTERN], attention="sdpa")
    seen = []

    def sink(_site, _layer, tensor):
        seen.append(tensor)
        other(torch.tensor([[1, 2, 3]]), use_cache=False)

    tracer.run(tracer.collate(examples("llama")), sink)
    assert len(seen) == 3


def test_the_pass_ends_with_the_last_site():
    tracer = tracer_of("gpt2", ["resid_post", "z"], layers=[0, 1])
    calls = []
    for part in (*tracer.model.transformer.h, tracer.model.transformer.ln_f, tracer.model.lm_head):
        count_calls(part, calls)
    tracer.run(tracer.collate(examples("gpt2")), lambda *_: None)
    assert calls == list(tracer.model.transformer.h)[:2]


def test_the_head_runs_only_for_logits():
    for sites, runs in ((["resid_final"], 0), (["logits"], 1)):
        tracer = tracer_of("gpt2", sites)
        calls = []
        count_calls(tracer.model.lm_head, calls)
        tracer.run(tracer.collate(examples("gpt2")), lambda *_: None)
        assert len(calls) == runs


def test_attention_is_watched_only_for_attention_sites(monkeypatch):
    monkeypatch.setattr(
        "residuum.capture.attention.Attention._raw_scores",
        lambda _self: pytest.fail("scores were computed, but nobody asked for them"),
    )
    tracer = tracer_of("llama", ["q", "z", "rot_q", "rot_k", "resid_post"])
    tracer.run(tracer.collate(examples("llama")), lambda *_: None)


def test_training_dropout_is_off():
    model = build("gpt2")
    model.transformer.drop.p = 0.9
    model.train()
    tracer = Tracer(model, adapter_for("GPT2LMHeadModel"), ["embed"])
    found = []
    for _ in range(2):
        tracer.run(tracer.collate([[1, 2, 3]]), lambda _s, _l, x: found.append(x.clone()))
    assert torch.equal(*found)
    assert (found[0] != 0).all()


@pytest.mark.parametrize(
    ("name", "site", "why"),
    [
        ("gpt_neox", "resid_mid", "in parallel"),
        ("gpt2", "rot_q", "does not rotate"),
        ("gpt2_bare", "logits", "no language-model head"),
        ("gpt2", "pooled", "decoder"),
        ("bert", "logits", "no language-model head"),
    ],
)
def test_a_site_the_model_lacks_is_an_error_that_says_why(name, site, why):
    with pytest.raises(SiteError, match=why) as caught:
        tracer_of(name, ["resid_post", site])
    assert "resid_post" in str(caught.value)


def test_an_unknown_site_lists_the_known_ones():
    with pytest.raises(SiteError) as caught:
        tracer_of("gpt2", ["resid_postt"])
    message = str(caught.value)
    assert message.startswith("there is no site called 'resid_postt'")
    assert all(site in message for site in Site)


@pytest.mark.parametrize("layers", [[3], [-1, 0], []])
def test_layers_outside_the_model_are_an_error(layers):
    with pytest.raises(SiteError, match="layer"):
        tracer_of("gpt2", ["z"], layers=layers)


def test_a_path_the_adapter_does_not_know_is_an_error_and_not_a_gap():
    tracer = tracer_of("gpt2", ["pattern"], attention="eager", dtype=torch.float32)
    for block in tracer.model.transformer.h:
        block.attn.reorder_and_upcast_attn = True
    with pytest.raises(CaptureError, match="without passing pattern at layer 0"):
        tracer.run(tracer.collate(examples("gpt2")), lambda *_: None)


def test_an_unreadable_attention_is_an_error():
    tracer = tracer_of("gpt2", ["pattern"])
    tracer.model.config._attn_implementation_internal = "flex_attention"
    with pytest.raises(CaptureError, match="flex_attention"):
        tracer.run(tracer.collate(examples("gpt2")), lambda *_: None)
    assert hooks_of(tracer.model) == 0


@pytest.mark.parametrize("bad", [[], [[1], []]])
def test_an_empty_example_is_an_error(bad):
    with pytest.raises(InputError, match="at least one"):
        Batch.text(bad, pad_id=0)


def test_a_batch_checks_its_parts():
    with pytest.raises(InputError, match="either input_ids or pixel_values"):
        Batch((1,))
    with pytest.raises(InputError, match="axis `example` is 2"):
        Batch((1,), input_ids=torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(InputError, match="one entry for each token"):
        Batch.text([[1, 2]], pad_id=0, token_types=[[0]])
