"""What the tracer reads is what the model computes: every family, every site, in 64-bit."""

from typing import Any

import pytest
import torch
from tiny_models import GATED, HEADS, KIND, MODELS, ROTARY, build, examples, in_64_bit
from torch import nn

from residuum.capture.adapters import adapter_for
from residuum.capture.batch import Batch
from residuum.capture.readout import final_norm, readout
from residuum.capture.tracer import Tracer
from residuum.sites import RowSpace, Site

ACTIVATIONS = ("act", "act_fn", "activation_fn", "intermediate_act_fn")
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
Values = dict[tuple[Site, int | None], torch.Tensor]


@pytest.fixture(autouse=True)
def _wide():
    with in_64_bit():
        yield


def trace(tracer: Tracer, inputs: list[Any]) -> Values:
    """Everything that one batch delivers."""
    found: Values = {}

    def keep(site, layer, tensor):
        assert (site, layer) not in found
        found[site, layer] = tensor.clone()

    tracer.run(tracer.collate(inputs), keep)
    return found


def everything(name: str, attention: str = "sdpa") -> tuple[Any, Tracer, Values]:
    model = build(name, attention=attention)
    adapter = adapter_for(type(model).__name__, KIND.get(name, "text"))
    tracer = Tracer(model, adapter, adapter.sites(model))
    return model, tracer, trace(tracer, examples(name))


@pytest.fixture(scope="module", params=list(MODELS))
def traced(request):
    with in_64_bit():
        return request.param, *everything(request.param)


def own(tracer: Tracer, tensor: torch.Tensor) -> torch.Tensor:
    """Rows `[row, ...]` of the examples' own tokens, of `[example, token, ...]`."""
    batch = tracer.collate(examples_of(tracer))
    keep = torch.arange(batch.n_token)[None] < torch.tensor(batch.lengths)[:, None]
    return tensor[keep]


def examples_of(tracer: Tracer) -> list[Any]:
    return examples("clip_vision" if tracer.adapter.kind == "image" else "gpt2")


def first(out: Any) -> torch.Tensor:
    return out[0] if isinstance(out, tuple) else out


def repeat_kv(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return tensor.repeat_interleave(like.shape[2] // tensor.shape[2], dim=2)


def run_model(model: Any, tracer: Tracer, **options: Any) -> Any:
    """The unmodified model's own output for the same batch."""
    batch = tracer.collate(examples_of(tracer))
    body = tracer.adapter.body(model)
    runs = model if Site.LOGITS in tracer.available else body
    with torch.no_grad():
        if batch.pixel_values is not None:
            return runs(pixel_values=batch.pixel_values, **options)
        if tracer.adapter.pooling is None:
            # A cache changes the memory layout of the keys, and so the last bit.
            options["use_cache"] = False
        return runs(batch.input_ids, attention_mask=batch.attention_mask, **options)


def test_the_stream_adds_up(traced):
    _, model, tracer, at = traced
    parallel = tracer.adapter.parallel(tracer.adapter.config(model))
    close = torch.testing.assert_close
    close(at[Site.EMBED, None], at[Site.RESID_PRE, 0], **TIGHT)
    close(at[Site.RESID_FINAL, None], at[Site.RESID_POST, tracer.dims.n_layer - 1], **TIGHT)
    for layer in tracer.layers:
        pre, post = at[Site.RESID_PRE, layer], at[Site.RESID_POST, layer]
        attn, mlp = at[Site.ATTN_OUT, layer], at[Site.MLP_OUT, layer]
        if layer:
            close(pre, at[Site.RESID_POST, layer - 1], **TIGHT)
        close(post, pre + attn + mlp, **TIGHT)
        if parallel:
            assert (Site.RESID_MID, layer) not in at
        else:
            close(at[Site.RESID_MID, layer], pre + attn, **TIGHT)
            close(post, at[Site.RESID_MID, layer] + mlp, **TIGHT)


def test_heads_sum_to_attention(traced):
    _, model, tracer, at = traced
    out = readout(model, tracer.adapter)
    for layer in tracer.layers:
        heads = torch.einsum("bthd,hdm->bthm", at[Site.Z, layer], out.weights["W_O"][layer])
        total = heads.sum(2)
        if "b_O" in out.weights:
            total = total + out.weights["b_O"][layer]
        if tracer.adapter.post_norm:
            norm = tracer.adapter.block_list(model)[layer].get_submodule(tracer.adapter.norms[0])
            got = norm(at[Site.RESID_PRE, layer] + total)
            torch.testing.assert_close(got, at[Site.RESID_MID, layer], **TIGHT)
        elif tracer.adapter.branch_norms:
            block = tracer.adapter.block_list(model)[layer]
            got = block.get_submodule(tracer.adapter.branch_norms[0])(total)
            torch.testing.assert_close(got, at[Site.ATTN_OUT, layer], **TIGHT)
        else:
            torch.testing.assert_close(total, at[Site.ATTN_OUT, layer], **TIGHT)


def test_hidden_states_agree_where_they_are_the_stream(traced):
    _, model, tracer, at = traced
    states = run_model(model, tracer, output_hidden_states=True).hidden_states
    for layer in tracer.layers:
        torch.testing.assert_close(at[Site.RESID_PRE, layer], states[layer], rtol=0, atol=0)


def test_values_are_those_of_plain_hooks(traced):
    _, model, tracer, at = traced
    blocks = max(
        (m for m in tracer.adapter.body(model).modules() if isinstance(m, nn.ModuleList)), key=len
    )
    seen = []
    handles = [b.register_forward_hook(lambda _m, _a, out: seen.append(first(out))) for b in blocks]
    run_model(model, tracer)
    for handle in handles:
        handle.remove()
    assert len(seen) == tracer.dims.n_layer
    for layer, leaving in enumerate(seen):
        torch.testing.assert_close(at[Site.RESID_POST, layer], leaving, rtol=0, atol=0)


def test_scores_softmax_to_pattern_and_pattern_mixes_values(traced):
    _, _, tracer, at = traced
    for layer in tracer.layers:
        scores, pattern = at[Site.ATTN_SCORES, layer], at[Site.PATTERN, layer]
        unseen = pattern == 0
        want = scores.masked_fill(unseen, float("-inf")).softmax(-1)
        torch.testing.assert_close(own(tracer, pattern), own(tracer, want), **TIGHT)
        assert (scores[unseen] == 0).all()
        values = repeat_kv(at[Site.V, layer], at[Site.Z, layer])
        mixed = torch.einsum("bqhk,bkhd->bqhd", pattern, values)
        torch.testing.assert_close(own(tracer, at[Site.Z, layer]), own(tracer, mixed), **TIGHT)


def test_pattern_looks_only_where_it_can(traced):
    name, _, tracer, at = traced
    lengths = tracer.collate(examples_of(tracer)).lengths
    n_token = max(lengths)
    query, key = torch.arange(n_token)[:, None], torch.arange(n_token)[None]
    for example, length in enumerate(lengths):
        visible = (key < length) & torch.ones_like(query, dtype=torch.bool)
        if tracer.adapter.causal:
            visible &= key <= query
        # Of Gemma 2's layers every second one has a window, and layer 1 has none.
        if name == "mistral":
            visible &= key > query - 4
        got = at[Site.PATTERN, 1][example, :length].permute(1, 0, 2) != 0
        assert (got == visible[:length]).all()


def test_rotated_queries_and_keys_give_the_scores(traced):
    name, model, tracer, at = traced
    rotary = name in ROTARY
    config = tracer.adapter.config(model)
    squared = getattr(config, "query_pre_attn_scalar", tracer.dims.d_head)
    cap = getattr(config, "attn_logit_softcapping", None)
    for layer in tracer.layers:
        q, k = (
            at[site, layer] for site in ((Site.ROT_Q, Site.ROT_K) if rotary else (Site.Q, Site.K))
        )
        scores = torch.einsum("bqhd,bkhd->bqhk", q, repeat_kv(k, q)) * squared**-0.5
        if cap is not None:
            scores = cap * torch.tanh(scores / cap)
        seen = own(tracer, at[Site.PATTERN, layer]) != 0
        delivered = own(tracer, at[Site.ATTN_SCORES, layer])
        torch.testing.assert_close(delivered[seen], own(tracer, scores)[seen], **TIGHT)
        if rotary:
            plain = at[Site.Q, layer]
            assert not torch.allclose(plain[:, 1:], q[:, 1:])
            # Token 0 is rotated by nothing, and a rotation keeps lengths.
            torch.testing.assert_close(plain[:, 0], q[:, 0], **TIGHT)
            torch.testing.assert_close(plain.norm(dim=-1), q.norm(dim=-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", list(MODELS))
def test_pattern_is_the_eager_models_own(name):
    model, tracer, at = everything(name, "eager")
    theirs = run_model(model, tracer, output_attentions=True).attentions
    _, _, beside_sdpa = everything(name, "sdpa")
    for layer in tracer.layers:
        pattern = at[Site.PATTERN, layer].transpose(1, 2)
        torch.testing.assert_close(pattern, theirs[layer], rtol=0, atol=0)
        own_rows = own(tracer, at[Site.PATTERN, layer])
        torch.testing.assert_close(own(tracer, beside_sdpa[Site.PATTERN, layer]), own_rows, **TIGHT)


def test_batched_equals_single(traced):
    name, _, tracer, at = traced
    for i, example in enumerate(examples(name)):
        alone = trace(tracer, [example])
        n = tracer.collate([example]).n_token
        for (site, layer), value in alone.items():
            batched = at[site, layer][i : i + 1]
            if site.row_space is RowSpace.TOKEN:
                batched = batched[:, :n]
            if "key" in site.axes:
                assert (batched[..., n:] == 0).all()
                batched = batched[..., :n]
            torch.testing.assert_close(batched, value, msg=f"{site} {layer} of {i}", **TIGHT)


def test_norm_scale_replays_the_norms(traced):
    _, model, tracer, at = traced
    blocks = tracer.adapter.block_list(model)
    norms = [block.get_submodule(path) for block in blocks for path in tracer.adapter.norms]
    passed = {}
    handles = [
        norm.register_forward_hook(lambda norm, args, out: passed.update({norm: (args[0], out)}))
        for norm in norms
    ]
    run_model(model, tracer)
    for handle in handles:
        handle.remove()
    scales = [scale for layer in tracer.layers for scale in at[Site.NORM_SCALE, layer].unbind(-1)]
    assert len(scales) == len(norms)
    for norm, scale in zip(norms, scales, strict=True):
        entering, leaving = (x.reshape(*scale.shape, -1) for x in passed[norm])
        if isinstance(norm, nn.LayerNorm):
            entering = entering - entering.mean(-1, keepdim=True)
        gain = norm.weight + tracer.adapter.norm_offset
        linear = entering / scale[..., None] * gain + getattr(norm, "bias", 0.0)
        torch.testing.assert_close(linear, leaving, **TIGHT)


def test_mlp_sites_surround_the_activation(traced):
    name, model, tracer, at = traced
    adapter = tracer.adapter
    for layer, block in enumerate(adapter.block_list(model)):
        if adapter.mlp_out is not None:
            last = block.get_submodule(adapter.mlp_post.module)
            got = last(at[Site.MLP_POST, layer])
            if adapter.branch_norms:
                got = block.get_submodule(adapter.branch_norms[1])(got)
            torch.testing.assert_close(got, at[Site.MLP_OUT, layer], **TIGHT)
        parts = dict(block.named_modules())
        act = next(m for n, m in parts.items() if n.rsplit(".", 1)[-1] in ACTIVATIONS)
        activated = act(at[Site.MLP_PRE, layer])
        if name in GATED:
            norm = block.get_submodule(adapter.norms[1])
            up = block.mlp.up_proj(norm(at[Site.RESID_MID, layer]))
            activated = activated * up
        torch.testing.assert_close(activated, at[Site.MLP_POST, layer], **TIGHT)


@pytest.mark.parametrize("name", HEADS)
def test_final_norm_and_unembedding_give_the_models_logits(name):
    model, tracer, at = everything(name)
    out = readout(model, tracer.adapter)
    x, w = at[Site.RESID_FINAL, None], out.weights
    if out.settings["norm"] == "layer_norm":
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + out.settings["eps"]).sqrt()
    x = x * (w["ln_final.w"] + out.settings["norm_offset"])
    if "ln_final.b" in w:
        x = x + w["ln_final.b"]
    logits = x @ w["W_U"] + w.get("b_U", 0)
    if out.settings["logit_softcap"] is not None:
        cap = out.settings["logit_softcap"]
        logits = cap * torch.tanh(logits / cap)
    own_logits = run_model(model, tracer).logits
    torch.testing.assert_close(logits, own_logits, **TIGHT)
    torch.testing.assert_close(at[Site.LOGITS, None], own_logits, rtol=0, atol=0)


def test_masked_lm_logits_come_from_the_last_stream():
    model, tracer, at = everything("bert_mlm")
    got = model.cls(at[Site.RESID_FINAL, None])
    torch.testing.assert_close(at[Site.LOGITS, None], got, **TIGHT)
    torch.testing.assert_close(at[Site.LOGITS, None], run_model(model, tracer).logits, **TIGHT)
    assert "W_U" not in readout(model, tracer.adapter).weights


@pytest.mark.parametrize("name", ["bert", "bert_mlm", "roberta"])
def test_an_encoders_vector_is_the_mean_over_own_tokens(name):
    _, tracer, at = everything(name)
    lengths = tracer.collate(examples(name)).lengths
    final = at[Site.RESID_FINAL, None]
    want = torch.stack([final[i, :n].mean(0) for i, n in enumerate(lengths)])
    torch.testing.assert_close(at[Site.POOLED, None], want, **TIGHT)


@pytest.mark.parametrize(
    "name", ["clip_text", "clip_text_gelu", "clip_vision", "clip_vision_joint"]
)
def test_clip_embeddings_are_the_models_own(name):
    model, tracer, at = everything(name)
    batch = tracer.collate(examples(name))
    with torch.no_grad():
        if name == "clip_text":
            want = model(batch.input_ids, batch.attention_mask).text_embeds
        elif name == "clip_text_gelu":
            want = model.get_text_features(batch.input_ids, batch.attention_mask).pooler_output
        elif name == "clip_vision":
            want = model(batch.pixel_values).image_embeds
        else:
            want = model.get_image_features(batch.pixel_values).pooler_output
    torch.testing.assert_close(at[Site.POOLED, None], want, rtol=0, atol=0)
    # The same from the stream: class token or end of text, final norm, projection.
    final = at[Site.RESID_FINAL, None]
    last = torch.tensor(batch.lengths) - 1
    token = final[:, 0] if tracer.adapter.kind == "image" else final[torch.arange(len(last)), last]
    got = (
        final_norm(model, tracer.adapter)(token) @ readout(model, tracer.adapter).weights["W_proj"]
    )
    torch.testing.assert_close(got, want, **TIGHT)


def test_the_last_stream_of_gpt2_is_not_its_last_hidden_state():
    model, tracer, at = everything("gpt2")
    entering = []
    handle = model.transformer.ln_f.register_forward_pre_hook(lambda _m, a: entering.append(a[0]))
    states = run_model(model, tracer, output_hidden_states=True).hidden_states
    handle.remove()
    last = at[Site.RESID_POST, 2]
    torch.testing.assert_close(last, entering[0], rtol=0, atol=0)
    assert not torch.allclose(last, states[-1], atol=1e-2)


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert", "clip_vision"])
def test_tracing_everything_changes_no_output(name):
    model, tracer, _ = everything(name)
    before = run_model(model, tracer)
    trace(tracer, examples(name))
    after = run_model(model, tracer)
    field = "logits" if "logits" in before else "last_hidden_state"
    assert torch.equal(before[field], after[field])


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "bert"])
def test_a_subset_of_sites_and_layers_is_the_same_numbers(name):
    model, tracer, at = everything(name)
    sites = ["z", "norm_scale", "pattern", "mlp_out"]
    few = trace(Tracer(model, tracer.adapter, sites, layers=[2, 0]), examples(name))
    assert set(few) == {(Site(site), layer) for site in sites for layer in (0, 2)}
    for key, value in few.items():
        torch.testing.assert_close(value, at[key], rtol=0, atol=0)


def test_shapes_say_what_the_sink_gets(traced):
    name, model, tracer, at = traced
    batch = tracer.collate(examples(name))
    shapes = tracer.shapes(n_key=batch.n_token)
    assert set(shapes) == set(tracer.sites)
    for (site, _), value in at.items():
        token = (batch.n_token,) if site.row_space is RowSpace.TOKEN else ()
        assert tuple(value.shape) == (len(batch.lengths), *token, *shapes[site].inner)
        assert str(value.dtype) == f"torch.{shapes[site].dtype}"
        assert shapes[site].n_layer == (3 if site.has_layers else None)
    assert model.training is False


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensors_keep_the_models_dtype(dtype):
    model = build("llama", dtype=dtype)
    adapter = adapter_for("LlamaForCausalLM")
    tracer = Tracer(model, adapter, adapter.sites(model))
    for (site, _), value in trace(tracer, examples("llama")).items():
        assert value.dtype == (torch.float32 if site is Site.NORM_SCALE else dtype)
        assert value.isfinite().all()


def test_token_types_reach_the_encoder():
    model = build("bert")
    tracer = Tracer(model, adapter_for("BertModel"), [Site.RESID_FINAL])
    ids, types = [[5, 6, 7]], [[0, 1, 1]]
    found = []
    batch = Batch.text(ids, pad_id=1, token_types=types)
    tracer.run(batch, lambda _s, _l, x: found.append(x))
    with torch.no_grad():
        want = model(torch.tensor(ids), token_type_ids=torch.tensor(types)).last_hidden_state
    torch.testing.assert_close(found[0], want, **TIGHT)
