"""Heat maps add up to what heads add: a map that does not is a picture of something else."""

import sys

import numpy as np
import pytest
from clip.towers import ALL, N_HEAD, N_LAYER, N_TOKEN

from clip import towers
from residuum.clip import effects, head_maps, map_layers, patch_maps
from residuum.clip.images import Images
from residuum.errors import ArgumentError, SelectionError, SiteError

D = towers.directions()
MAPS = ["z", "resid_final", "pattern", "image_v"]


@pytest.fixture(scope="module")
def model():
    return towers.build("clip_vision_joint")


@pytest.fixture(scope="module")
def some():
    return towers.pictures()


@pytest.fixture(scope="module")
def store(model, some, tmp_path_factory):
    return towers.capture(model, some, tmp_path_factory.mktemp("maps") / "run", ALL)


@pytest.fixture(scope="module")
def summed(store):
    return patch_maps(store, D)


def close(got, want, tolerance):
    assert np.shape(got) == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def test_maps_are_those_of_the_models_own_terms(model, some, store):
    seen, w = towers.run(model, some), towers.weights(model)
    sigma = np.sqrt(seen.stream.var(-1) + w.eps)
    for layer in range(N_LAYER):
        terms = np.einsum("nht,nthd,hde->nhte", seen.pattern[layer], seen.v[layer], w.w_o[layer])
        terms = (terms - terms.mean(-1, keepdims=True)) / sigma[:, None, None, None]
        want = terms * w.gain @ w.projection @ D.T.astype(np.float64)
        got = head_maps(store, D, layer)
        assert (got.shape, got.dtype) == ((6, N_HEAD, N_TOKEN, 3), np.float32)
        close(got, want, 1e-5)


def test_patches_add_up_to_their_head(store):
    whole = effects(store, D)
    for layer in range(N_LAYER):
        heads = whole.heads([(layer, head) for head in range(N_HEAD)])
        close(head_maps(store, D, layer).sum(axis=2), whole.shares[:, heads], 1e-6)


def test_biases_that_are_divided_among_patches_add_up_too(store):
    whole = effects(store, D, convention="even_split")
    for layer in range(N_LAYER):
        heads = whole.heads([(layer, head) for head in range(N_HEAD)])
        maps = head_maps(store, D, layer, convention="even_split")
        close(maps.sum(axis=2), whole.shares[:, heads], 1e-5)
    total = patch_maps(store, D, convention="even_split", heads=[(1, 0), (1, 3)])
    one = head_maps(store, D, 1, convention="even_split")
    close(total, one[:, 0] + one[:, 3], 1e-5)
    with pytest.raises(ArgumentError, match="folded or even_split, not 'odd'"):
        patch_maps(store, D, convention="odd")


def test_heads_and_layers_add_up_to_the_map(store, summed):
    each = [head_maps(store, D, layer) for layer in range(N_LAYER)]
    close(summed, sum(maps.sum(axis=1) for maps in each), 1e-6)
    close(patch_maps(store, D, layers=[2, 0]), (each[0] + each[2]).sum(axis=1), 1e-6)
    chosen = [(2, 4), (0, 1), (2, 0), (2, 4)]
    want = each[0][:, 1] + each[2][:, 0] + each[2][:, 4]
    close(patch_maps(store, D, heads=chosen), want, 1e-6)


def test_values_of_all_tokens_will_do(model, some, tmp_path, store, summed):
    sites = ["z", "resid_final", "pattern", "v"]
    whole = towers.capture(model, some, tmp_path / "run", sites, positions="all")
    close(patch_maps(whole, D), summed, 1e-6)
    close(head_maps(whole, D, 1, examples=[5, 0]), head_maps(store, D, 1)[[5, 0]], 1e-6)
    for layer in range(N_LAYER):
        close(Images.of(whole).values(layer), Images.of(store).values(layer), 1e-6)
    assert map_layers(whole) == map_layers(store) == (0, 1, 2)


def test_half_precision_is_near(model, some, tmp_path, store):
    half = towers.capture(model, some, tmp_path / "run", MAPS, dtype="float16")
    for layer in range(N_LAYER):
        got, want = head_maps(half, D, layer), head_maps(store, D, layer)
        off, of = (np.sqrt((maps**2).sum(axis=(0, 2, 3))) for maps in (got - want, want))
        assert (off < 1e-3 * of).all()


def test_images_and_blocks_change_nothing(store, summed, monkeypatch):
    order = [4, 0, 5, 4]
    close(patch_maps(store, D, examples=order), summed[order], 1e-6)
    close(summed[5], summed[1], 1e-6)
    assert np.abs(summed[0] - summed[1]).max() > 0.01
    want = head_maps(store, D, 1)
    # Room for one image, and for two.
    for block in (1, 2 * 4 * N_TOKEN * (35 + 5 + 6)):
        monkeypatch.setattr(sys.modules["residuum.clip.maps"], "BLOCK", block)
        close(patch_maps(store, D), summed, 1e-6)
        close(head_maps(store, D, 1), want, 1e-6)
    assert patch_maps(store, D, examples=[]).shape == (0, N_TOKEN, 3)
    assert head_maps(store, D[:0], 1).shape == (6, N_HEAD, N_TOKEN, 0)


def test_layers_are_those_that_have_both(model, some, tmp_path, store):
    out = tmp_path / "run"
    towers.capture(model, some, out, ["z", "resid_final", "pooled"])
    towers.capture(model, some, out, ["pattern"], layers=[0, 2], append=True)
    part = towers.capture(model, some, out, ["image_v"], layers=[1, 2], append=True)
    assert map_layers(part) == (2,)
    close(patch_maps(part, D), patch_maps(store, D, layers=[2]), 0)
    says = r"has both of 2, not of layer {}: capture them with --site pattern --site image_v"
    for layer, call in (
        (1, lambda: patch_maps(part, D, layers=[2, 1])),
        (0, lambda: patch_maps(part, D, heads=[(2, 1), (0, 3)])),
        (0, lambda: head_maps(part, D, 0)),
        (-1, lambda: head_maps(part, D, -1)),
    ):
        with pytest.raises(SiteError, match=says.format(layer)):
            call()


def test_what_is_missing_is_named(model, some, tmp_path, store):
    def captured(name, sites, **more):
        return towers.capture(model, some[:2], tmp_path / name, sites, **more)

    lacks = captured("lacks", ["z", "resid_final", "pattern"])
    assert map_layers(lacks) == ()
    for call in (patch_maps, lambda *given: head_maps(*given, 1)):
        with pytest.raises(SiteError, match=r"has both of none.*--site image_v"):
            call(lacks, D)
    with pytest.raises(
        SiteError, match=r"site image_v, which .* does not hold; it holds pattern, z"
    ):
        Images.of(lacks).values(0)
    first = captured("first", ["z", "resid_final", "pattern", "v"])
    with pytest.raises(SiteError, match=r"not of all tokens \(positions=first\): capture image_v"):
        patch_maps(first, D)
    stored = captured("stored", MAPS, keys="stored")
    with pytest.raises(SiteError, match=r"stored tokens for keys alone.*keys='all'"):
        patch_maps(stored, D)
    with pytest.raises(ArgumentError, match="give layers or heads, not both"):
        patch_maps(store, D, layers=[0], heads=[(0, 0)])
    for head in (5, -1):
        with pytest.raises(SelectionError, match=f"head L1H{head} does not exist: layers have 5"):
            patch_maps(store, D, heads=[(0, 1), (1, head)])
    for call in (patch_maps, lambda *given: head_maps(*given, 1)):
        with pytest.raises(ArgumentError, match=r"directions are \[direction, 11\]"):
            call(store, D[:, :5])
    with pytest.raises(SiteError, match="has both of 0, 1, 2: capture"):
        patch_maps(store, D, layers=[])
