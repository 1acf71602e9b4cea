"""Gradient maps beside finite differences in 64-bit, and beside the definitions written out."""

import numpy as np
import pytest
import tiny_models
import torch

from residuum.clip.gradient_maps import grad_cam, transformer_attribution
from residuum.errors import ArgumentError, ModelError

NAMES = ["clip_vision", "clip_vision_joint"]
N_IMAGE, N_LAYER, N_HEAD, N_TOKEN, D_EMBED = 3, 3, 5, 10, 11


def images():
    return torch.stack(tiny_models.examples("clip_vision"))


def directions():
    generator = torch.Generator().manual_seed(2)
    return torch.randn(N_IMAGE, D_EMBED, dtype=torch.float64, generator=generator)


def by_hand(model, pixels, nudge):
    """The vision tower written out, with attention `[layer, image, head, query, key]` nudged.

    Returns the images' vectors `[image, d_embed]` and the attention.
    """
    tower = model.vision_model
    x = tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    first = tower.embeddings.class_embedding.expand(len(pixels), 1, -1)
    x = torch.cat([first, x], 1) + tower.embeddings.position_embedding.weight
    x = tower.pre_layrnorm(x)
    patterns = []
    for layer, block in enumerate(tower.encoder.layers):
        normed = block.layer_norm1(x)
        q, k, v = (
            part(normed).view(len(x), N_TOKEN, N_HEAD, 7).transpose(1, 2)
            for part in (block.self_attn.q_proj, block.self_attn.k_proj, block.self_attn.v_proj)
        )
        pattern = (q @ k.transpose(2, 3) / 7**0.5).softmax(-1)
        patterns.append(pattern)
        z = ((pattern + nudge[layer]) @ v).transpose(1, 2).reshape(len(x), N_TOKEN, -1)
        x = x + block.self_attn.out_proj(z)
        x = x + block.mlp(block.layer_norm2(x))
    return model.visual_projection(tower.post_layernorm(x[:, 0])), torch.stack(patterns)


def scored(vectors, target, score):
    dots = vectors @ target
    return dots if score == "dot" else dots / vectors.norm(dim=-1) / target.norm()


@torch.no_grad()
def differences(model, score):
    """Attention, and a score's central differences by each entry of it, in numpy.

    Both are `[layer, image, head, query, key]`.
    """
    shape = (N_LAYER, N_HEAD, N_TOKEN, N_TOKEN)
    n, step = int(np.prod(shape)), 1e-5
    nudge = step * torch.eye(n, dtype=torch.float64).view(n, *shape).transpose(0, 1)
    patterns, slopes = [], []
    for pixels, target in zip(images(), directions(), strict=True):
        many = pixels.expand(n, -1, -1, -1)
        up, _ = by_hand(model, many, nudge)
        down, _ = by_hand(model, many, -nudge)
        slope = (scored(up, target, score) - scored(down, target, score)) / (2 * step)
        slopes.append(slope.view(shape))
        _, pattern = by_hand(model, pixels[None], torch.zeros(N_LAYER, 1, 1, 1, 1))
        patterns.append(pattern[:, 0])
    return torch.stack(patterns, 1).numpy(), torch.stack(slopes, 1).numpy()


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return tiny_models.build(name)


@pytest.fixture(scope="module", params=["cosine", "dot"])
def score(request):
    return request.param


@pytest.fixture(scope="module")
def expected(model, score):
    return differences(model, score)


def test_the_tower_written_out_is_the_models(model):
    with tiny_models.in_64_bit(), torch.no_grad():
        tower = model.vision_model(pixel_values=images())
        want = model.visual_projection(tower.pooler_output)
        got, _ = by_hand(model, images(), torch.zeros(N_LAYER, 1, 1, 1, 1))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_grad_cam_follows_finite_differences(model, score, expected):
    pattern, slope = expected
    want = np.maximum(pattern[-1] * slope[-1], 0)[:, :, 0, 1:].mean(1)
    with tiny_models.in_64_bit():
        got = grad_cam(model, images(), directions(), score=score)
    assert (got.shape, got.dtype) == ((N_IMAGE, N_TOKEN - 1), np.float32)
    # Differences over 1e-5 are off by 1e-9 or so; the result is rounded to float32.
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-8)
    assert (want > 0).any()


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_attribution_follows_finite_differences(model, score, expected, scale):
    pattern, slope = expected
    want = np.broadcast_to(np.eye(N_TOKEN), (N_IMAGE, N_TOKEN, N_TOKEN))
    for attention, gradient in zip(pattern, slope, strict=True):
        want = want + np.maximum(scale * gradient * attention, 0).mean(1) @ want
    with tiny_models.in_64_bit():
        got = transformer_attribution(model, images(), directions(), score=score, scale=scale)
    assert (got.shape, got.dtype) == ((N_IMAGE, N_TOKEN - 1), np.float32)
    np.testing.assert_allclose(got, want[:, 0, 1:], rtol=1e-5, atol=1e-7)


MAPS = [grad_cam, transformer_attribution]


@pytest.mark.parametrize("maps", MAPS)
def test_batches_and_numpy_change_nothing(model, maps):
    want = maps(model, images(), directions())
    for batch in (1, 2, 50):
        got = maps(model, images().numpy(), directions().numpy(), batch=batch)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-8)
    assert maps(model, images()[:0], directions()[:0]).shape == (0, N_TOKEN - 1)


@pytest.mark.parametrize("maps", MAPS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_model_is_left_as_it_was(maps, attention, name, model, score):
    want = maps(model, images(), directions(), score=score)
    model = tiny_models.build(name, attention=attention)
    layer = model.vision_model.encoder.layers[1]
    layer.train()
    for config in (layer.self_attn.config, model.vision_model.config):
        config.attention_dropout = 0.5
    layer.self_attn.dropout = 0.5
    modes = [module.training for module in model.modules()]
    for grad in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with grad():
            enabled = torch.is_grad_enabled()
            got = maps(model, images(), directions(), score=score)
            assert torch.is_grad_enabled() == enabled
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-8)
    assert [module.training for module in model.modules()] == modes
    assert model.config._attn_implementation == attention
    assert layer.self_attn.config._attn_implementation == attention
    assert all(weight.grad is None for weight in model.parameters())
    assert not any(
        module._forward_hooks or module._forward_pre_hooks
        for module in model.vision_model.encoder.layers.modules()
    )


def test_frozen_weights_have_maps_too(name, model):
    want = grad_cam(model, images(), directions())
    frozen = tiny_models.build(name)
    frozen.requires_grad_(requires_grad=False)
    np.testing.assert_allclose(grad_cam(frozen, images(), directions()), want, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrow_models_have_nearly_the_same_maps(name, model, dtype):
    want = transformer_attribution(model, images(), directions())
    narrow = tiny_models.build(name, dtype)
    got = transformer_attribution(narrow, images(), directions())
    assert got.dtype == np.float32
    off = np.abs(got - want).max() / want.max()
    assert off < (1e-5 if dtype == torch.float32 else 0.15)


def test_an_error_within_leaves_the_model_as_it_was(model):
    implementation = model.config._attn_implementation
    with pytest.raises(ValueError, match="image size"):
        grad_cam(model, torch.zeros(1, 3, 8, 8), directions()[:1])
    assert model.vision_model.config._attn_implementation == implementation
    layers = model.vision_model.encoder.layers
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in layers.modules())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"directions": directions()[:2]}, r"directions are \[3, 11\], one for each image"),
        ({"directions": directions()[:, :4]}, r"not \[3, 4\]"),
        ({"directions": directions()[0]}, r"`directions` has 1 axes"),
        ({"directions": "a cat"}, "real numbers"),
        ({"pixel_values": images()[0]}, r"`pixel_values` has 3 axes, \[3, 12, 12\]"),
        ({"score": "logit"}, "one of cosine, dot"),
        ({"batch": 0}, "1 at least"),
    ],
)
@pytest.mark.parametrize("maps", MAPS)
def test_what_does_not_fit_is_refused(model, maps, given, words):
    settings = {"pixel_values": images(), "directions": directions(), **given}
    with pytest.raises(ArgumentError, match=words):
        maps(model, **settings)


def test_another_kind_of_model_is_refused():
    with pytest.raises(ModelError, match=r"CLIPTextModelWithProjection has no vision tower"):
        grad_cam(tiny_models.build("clip_text"), images(), directions())
