"""The analyses on a captured GPT-2 of random weights, against the unmodified model."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import residuum
from residuum.analyses import registry
from residuum.report import StoreCard, build

TEXTS = ["the red dog sees the red dog", "one", "a cat in a blue circle runs and the cat sleeps"]
SITES = ["embed", "z", "mlp_out", "resid_post", "resid_final", "pattern"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # two float32 passes over rows of 35


@pytest.fixture(scope="module")
def store(gpt2_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("store") / "gpt2.residuum"
    return residuum.capture(gpt2_folder, TEXTS, out, sites=SITES)


@pytest.fixture(scope="module")
def passes(gpt2_folder):
    """Per text: ids, log-probabilities by layer [layer, token, vocabulary], logits, attentions."""
    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder, attn_implementation="eager").eval()
    found = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt").input_ids
        seen: list[torch.Tensor] = []

        def keep(_module, _args, output, seen=seen):
            seen.append(output[0] if isinstance(output, tuple) else output)

        hooks = [block.register_forward_hook(keep) for block in model.transformer.h]
        with torch.no_grad():
            result = model(ids, output_attentions=True)
            lens = [model.lm_head(model.transformer.ln_f(x)).log_softmax(-1)[0] for x in seen]
        for hook in hooks:
            hook.remove()
        attentions = torch.stack(result.attentions)[:, 0].numpy()
        found.append((ids[0].numpy(), torch.stack(lens).numpy(), result.logits[0], attentions))
    return found


def test_lens_is_torchs_log_softmax(store, passes):
    table = registry.run("logit_lens", store)["trajectory"]
    n_layer = 3
    p = np.concatenate([lens.transpose(1, 0, 2) for _, lens, _, _ in passes])
    shape = (len(p), n_layer)

    def column(name):
        return np.array(table[name].to_pylist(), float).reshape(shape)

    np.testing.assert_allclose(column("top_probability"), np.exp(p.max(-1)), **CLOSE)
    np.testing.assert_allclose(column("entropy"), -(np.exp(p) * p).sum(-1), **CLOSE)
    final = p[:, -1:]
    kl = (np.exp(final) * (final - p)).sum(-1)
    np.testing.assert_allclose(column("kl_to_final"), kl, **CLOSE)
    targets = np.concatenate([np.append(ids[1:], -1) for ids, *_ in passes])
    has = targets >= 0
    logprob = np.take_along_axis(p[has], targets[has][:, None, None], -1)[..., 0]
    np.testing.assert_allclose(column("target_logprob")[has], logprob, **CLOSE)
    assert np.isnan(column("target_logprob")[~has]).all()


def test_the_report_of_all_that_can_be_asked(store):
    asked = registry.answerable(store)
    results = [one.run(store, **({"k": 3} if one.name == "clusters" else {})) for one in asked]
    page = build(StoreCard.of(store.info()), results)
    assert "<h1>gpt2.residuum</h1>" in page
    assert page.count('<section class="result"') == len(results) == 4
    assert "All components were captured: their sum equals the model&#x27;s logit" in page


def test_the_last_layer_is_the_model(store, passes):
    top = registry.run("logit_lens", store, k=3)["top"]
    last = [row for row in top.to_pylist() if row["layer"] == 2]
    best = torch.cat([logits for _, _, logits, _ in passes]).topk(3)
    assert [row["token_id"] for row in last] == best.indices.flatten().tolist()
    np.testing.assert_allclose([row["logit"] for row in last], best.values.flatten(), **CLOSE)


def test_the_parts_are_the_models_logit(store, passes):
    table = registry.run("head_attribution", store)["logits"]
    want = [
        float(logits[token, ids[token + 1]])
        for ids, _, logits, _ in passes
        for token in range(len(ids) - 1)
    ]
    np.testing.assert_allclose(table["logit"].to_pylist(), want, **CLOSE)
    np.testing.assert_allclose(table["sum_of_parts"].to_pylist(), want, **CLOSE)
    assert table["difference"].null_count == 0


def test_roles_are_in_the_attention(store, passes):
    table = registry.run("attention_roles", store)["heads"].to_pylist()
    attentions = [attention for *_, attention in passes if attention.shape[-1] > 1]
    previous = [np.diagonal(a, -1, axis1=2, axis2=3) for a in attentions]
    want = np.concatenate(previous, axis=-1).mean(-1).ravel()
    scores = [row["score"] for row in table if row["role"] == "previous_token"]
    np.testing.assert_allclose(scores, want, rtol=1e-4)
    assert {row["n"] for row in table if row["role"] == "duplicate_token"} == {
        5
    }  # the, red, dog; a, cat
