"""Maps of attention beside those of the unmodified model's own output_attentions."""

import numpy as np
import PIL.Image
import pytest
import tiny_models
import torch
import transformers as tf

import residuum
from residuum.clip.baselines import (
    attention_rollout,
    random_maps,
    raw_attention,
    value_norm_attention,
)
from residuum.clip.images import Images
from residuum.errors import InputError, SiteError

TIGHT = {"rtol": 0, "atol": 2e-6}


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    some = [PIL.Image.fromarray(rng.integers(0, 255, (12, 12, 3), np.uint8)) for _ in range(5)]
    return [*some, some[1]]


@pytest.fixture(scope="module")
def model():
    return tiny_models.build("clip_vision_joint", torch.float32)


@pytest.fixture(scope="module")
def processor():
    size = {"height": 12, "width": 12}
    return tf.CLIPImageProcessorPil(size={"shortest_edge": 12}, crop_size=size)


@pytest.fixture(scope="module")
def images(model, processor, pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("maps") / "run"
    sites = ["pattern", "v"]
    store = residuum.capture((model, processor), pictures, out, sites=sites, dtype="float32")
    return Images.of(store)


@pytest.fixture(scope="module")
def passes(processor, pictures):
    """The model's own attention `[layer, image, head, query, key]` and layers' inputs, eagerly."""
    eager = tiny_models.build("clip_vision_joint", torch.float32, "eager").vision_model
    pixels = processor(pictures, return_tensors="pt").pixel_values
    with torch.no_grad():
        out = eager(pixel_values=pixels, output_attentions=True, output_hidden_states=True)
    return eager, torch.stack(out.attentions), out.hidden_states


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_raw_attention_is_the_models_own(images, passes, layer):
    got = raw_attention(images, layer)
    assert (got.shape, got.dtype) == ((6, 9), np.float32)
    want = passes[1][layer, :, :, 0, 1:].mean(1)
    np.testing.assert_allclose(got, want.numpy(), **TIGHT)


def test_rollout_is_the_product_of_all_layers(images, passes):
    want = np.eye(10)
    for attention in passes[1].double().numpy():
        mean = (attention.mean(1) + np.eye(10)) / 2
        want = mean / mean.sum(-1, keepdims=True) @ want
    got = attention_rollout(images)
    assert (got.shape, got.dtype) == ((6, 9), np.float32)
    np.testing.assert_allclose(got, want[:, 0, 1:], **TIGHT)


@pytest.mark.parametrize("layer", [0, 2, -2])
def test_value_norms_are_those_of_heads_outputs(images, passes, layer):
    eager, attentions, states = passes
    block = eager.encoder.layers[layer]
    want = torch.zeros(6, 9)
    with torch.no_grad():
        values = block.self_attn.v_proj(block.layer_norm1(states[:-1][layer]))
        for head in range(5):
            columns = slice(7 * head, 7 * (head + 1))
            moved = values[:, 1:, columns] @ block.self_attn.out_proj.weight[:, columns].T
            want += attentions[layer, :, head, 0, 1:] * moved.norm(dim=-1) / 5
    got = value_norm_attention(images, layer)
    assert (got.shape, got.dtype) == ((6, 9), np.float32)
    np.testing.assert_allclose(got, want.numpy(), rtol=0, atol=1e-5)


def test_images_in_another_order_and_small_blocks_change_nothing(images, monkeypatch):
    # A budget as small as is allowed holds all these; so blocks are cut by hand.
    some = images.named([4, 0, 5, 4])
    maps = {call: call(images) for call in (raw_attention, attention_rollout, value_norm_attention)}
    cut = []

    def blocks(self, bytes_each, budget):
        cut.append((bytes_each, budget))
        return [slice(0, 1), slice(1, 3), slice(3, 4)]

    monkeypatch.setattr(Images, "blocks", blocks)
    for call, want in maps.items():
        np.testing.assert_allclose(call(some, memory="20MB"), want[[4, 0, 5, 4]], rtol=1e-6)
    pattern = 4 * 5 * 10
    values = 3 * 4 * 10 * 5 * 7
    assert [each for each, _ in cut] == [pattern, 10 * pattern, pattern + values]
    assert {budget for _, budget in cut} == {20_000_000}


def test_no_images_have_no_maps(images):
    none = images.taken(slice(0, 0))
    for call in (raw_attention, attention_rollout, value_norm_attention):
        assert call(none).shape == (0, 9)


@pytest.fixture(scope="module")
def captured(model, processor, pictures, tmp_path_factory):
    def make(sites, **settings):
        out = tmp_path_factory.mktemp("part") / "run"
        return Images.of(
            residuum.capture((model, processor), pictures[:2], out, sites=sites, **settings)
        )

    return make


def test_class_tokens_alone_suffice_for_raw_attention(images, captured):
    first = captured(["pattern"], positions="first")
    np.testing.assert_array_equal(raw_attention(first), raw_attention(images)[:2])
    with pytest.raises(SiteError, match=r"of all tokens.*positions='all'"):
        attention_rollout(first)


def test_what_was_not_captured_is_named(captured):
    values = captured(["v"])
    with pytest.raises(SiteError, match="site pattern, which"):
        raw_attention(values)
    with pytest.raises(SiteError, match=r"does not hold: capture pattern with positions='all'"):
        attention_rollout(values)
    with pytest.raises(SiteError, match="pattern"):
        value_norm_attention(values)
    some = captured(["pattern"], layers=[0, 2])
    with pytest.raises(SiteError, match=r"all 3 layers.*lacks layer 1"):
        attention_rollout(some)
    with pytest.raises(SiteError, match="layer"):
        raw_attention(some, 1)
    with pytest.raises(SiteError, match="image_v"):
        value_norm_attention(some, 2)
    for layer in (3, -4):
        with pytest.raises(SiteError, match=f"layer {layer} is not in .* has 3"):
            value_norm_attention(some, layer)
    with pytest.raises(InputError, match="memory"):
        raw_attention(some, memory="little")


def test_random_maps_know_their_seed_alone():
    got = random_maps(400, 9, seed=3)
    assert (got.shape, got.dtype) == ((400, 9), np.float32)
    np.testing.assert_array_equal(got, random_maps(400, 9, seed=3))
    assert not np.array_equal(got, random_maps(400, 9, seed=4))
    assert 0 <= got.min() < got.max() < 1
    assert got.mean() == pytest.approx(0.5, abs=0.02)
