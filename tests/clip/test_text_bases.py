"""TextSpan from moments beside the published algorithm on all images, and texts as directions.

The short cut is worth nothing if it names a head by other texts than the algorithm it stands for.
"""

import numpy as np
import pyarrow as pa
import pytest
import tiny_models
import torch
from clip.towers import D_EMBED, D_HEAD, N_HEAD

import residuum
from clip import towers
from residuum import kernels
from residuum.clip import (
    Tower,
    classes,
    general_descriptions,
    head_vectors,
    text_bases,
    texts,
)
from residuum.clip.text_bases import head_span
from residuum.errors import ArgumentError, SelectionError, SiteError, StoreError

PART = ["z", "resid_final"]


def literal(outputs, pool, n_pick, rank):
    """The published algorithm: outputs `[image, d]`, texts `[text, d]`, all in float64."""
    c, t = outputs.astype(np.float64), pool.astype(np.float64)
    v = np.linalg.svd(c, full_matrices=False)[2][:rank]
    t = t @ v.T @ v
    c = c - c.mean(axis=0)
    picks, explained = [], []
    for _ in range(n_pick):
        best = int(np.argmax((c @ t.T).std(axis=0)))
        unit = t[best] / np.linalg.norm(t[best])
        picks.append(best)
        explained.append((c @ unit).var())
        c = c - np.outer(c @ unit, unit)
        t = t - np.outer(t @ unit, unit)
    return picks, explained


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("rank", [None, 4])
def test_moments_stand_for_images(seed, rank):
    rng = np.random.default_rng(seed)
    n_image, n_text, d_head, d_embed = 61, 83, 7, 13
    through = rng.normal(size=(d_head, d_embed))
    z = rng.normal(size=(n_image, d_head)) @ np.diag(rng.uniform(0.3, 2, d_head)) + 1
    pool = unit(rng.normal(size=(n_text, d_embed)))
    covariance = np.cov(z.T, bias=True)
    mean = z.mean(axis=0)
    span = head_span(through, covariance + np.outer(mean, mean), rank)
    assert span.shape == (d_embed, rank or d_head)
    inside = through @ span
    got = kernels.textspan(pool @ span, inside.T @ covariance @ inside, 4)
    want, explained = literal(z @ through, pool, 4, rank or d_head)
    assert got.texts.tolist() == want
    # Texts come in float32, and so do what is left of them.
    np.testing.assert_allclose(got.explained, explained, rtol=1e-4)


@pytest.fixture(scope="module")
def model():
    return towers.build("clip_vision_joint")


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("bases") / "run"
    return towers.capture(model, towers.pictures(30), out, PART)


@pytest.fixture(scope="module")
def pool():
    return unit(np.random.default_rng(3).normal(size=(60, D_EMBED))).astype(np.float32)


def test_heads_of_a_store_have_the_texts_of_the_algorithm(store, pool):
    bases = text_bases(store, pool, n_text=4)
    assert [(b.layer, b.head) for b in bases] == [(x, h) for x in range(3) for h in range(N_HEAD)]
    for basis in bases:
        outputs = head_vectors(store, [(basis.layer, basis.head)], centred=False)
        want, explained = literal(outputs, pool, 4, D_HEAD)
        assert basis.texts.tolist() == want
        total = outputs.astype(np.float64).var(axis=0).sum()
        assert basis.variance == pytest.approx(total, rel=1e-5)
        np.testing.assert_allclose(basis.explained, np.array(explained) / total, rtol=1e-4)
        np.testing.assert_allclose(basis.mean, outputs.mean(axis=0), rtol=0, atol=1e-5)


def test_picks_explain_more_and_more_and_stand_at_right_angles(store, pool):
    for basis in text_bases(store, pool, n_text=D_HEAD):
        n = len(basis.texts)
        assert n == len(set(basis.texts.tolist())) == D_HEAD
        assert (basis.explained > 0).all()
        # As many directions as a head has features: nothing is left.
        assert np.cumsum(basis.explained)[-1] == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(basis.directions @ basis.directions.T, np.eye(n), atol=1e-6)
        outputs = head_vectors(store, [(basis.layer, basis.head)]).astype(np.float64)
        left = outputs
        for number, direction in enumerate(basis.directions):
            left = left - np.outer(left @ direction, direction)
            chosen = basis.directions[: number + 1]
            assert np.abs(left @ chosen.T).max() < 1e-6 * np.abs(outputs).max()
        assert np.abs(left).max() < 1e-5 * np.abs(outputs).max()


def test_a_rank_keeps_to_the_leading_directions(store, pool):
    for basis in text_bases(store, pool, layers=[1], n_text=5, rank=3):
        outputs = head_vectors(store, [(1, basis.head)], centred=False)
        assert basis.texts.tolist() == literal(outputs, pool, 3, 3)[0], "no more than the rank"
        assert basis.explained.sum() < 1, "of all of the head's variance"


def test_a_planted_head_is_its_two_texts(tmp_path, pool):
    """Head L2H3 writes what two of the texts say, the second of them less, and nothing else."""
    model = towers.build("clip_vision_joint")
    attention = model.vision_model.encoder.layers[2].self_attn
    own = slice(3 * D_HEAD, 4 * D_HEAD)
    projection = model.visual_projection.weight.detach().double().numpy().T
    gain = model.vision_model.post_layernorm.weight.detach().double().numpy()
    wide = gain[:, None] * projection
    folded = wide - wide.mean(axis=0)
    # Rows of the stream without a mean that read as the texts: the head says nothing but them.
    back = np.linalg.pinv(folded)
    planted = np.zeros((D_HEAD, back.shape[1]))
    planted[0], planted[4] = 1.0 * pool[17] @ back, 0.4 * pool[41] @ back
    with torch.no_grad():
        attention.out_proj.weight[:, own] = torch.from_numpy(planted.T).float()
    planted_store = towers.capture(model, towers.pictures(30), tmp_path / "run", PART)
    basis = text_bases(planted_store, pool, layers=[2])[3]
    assert (basis.layer, basis.head) == (2, 3)
    assert sorted(basis.texts[:2].tolist()) == [17, 41]
    assert basis.explained[:2].sum() == pytest.approx(1, abs=1e-6)
    assert len(basis.texts) == 2, "nothing is left for a third"


def test_a_head_that_says_nothing_has_no_texts(tmp_path, pool):
    model = towers.build("clip_vision_joint")
    with torch.no_grad():
        model.vision_model.encoder.layers[1].self_attn.out_proj.weight[:, :D_HEAD] = 0
    silent = towers.capture(model, towers.pictures(12), tmp_path / "run", PART)
    first, second = text_bases(silent, pool, layers=[1])[:2]
    assert (first.texts.size, first.explained.size, first.variance) == (0, 0, 0)
    assert first.directions.shape == (0, D_EMBED)
    assert second.texts.size == D_HEAD
    # One image varies in nothing.
    alone = text_bases(silent, pool, layers=[1], examples=[2])[1]
    assert (alone.texts.size, alone.variance) == (0, 0)
    assert np.abs(alone.mean).max() > 0.1


def test_images_are_those_that_are_named(store, pool):
    some = [9, 2, 25, 4, 13, 17, 28, 6, 11]
    for basis in text_bases(store, pool, layers=[0], n_text=2, examples=some):
        outputs = head_vectors(store, [(0, basis.head)], examples=some, centred=False)
        assert basis.texts.tolist() == literal(outputs, pool, 2, D_HEAD)[0]


def test_layers_are_the_last_four_or_those_that_are_named(model, store, pool, tmp_path):
    assert [b.layer for b in text_bases(store, pool, layers=[-1, 0])[::N_HEAD]] == [2, 0]
    part = towers.capture(model, towers.pictures(5), tmp_path / "run", PART, layers=[0, 2])
    assert [b.layer for b in text_bases(part, pool)[::N_HEAD]] == [0, 2]
    with pytest.raises(SiteError, match="layer 1"):
        text_bases(part, pool, layers=[1])


def test_what_cannot_be_spanned_is_refused(store, pool):
    for given in (pool[:, :4], pool[0]):
        with pytest.raises(ArgumentError, match=r"texts are \[text, 11\].*take the text tower of"):
            text_bases(store, given)
    for more in ({"n_text": 0}, {"rank": 0}):
        with pytest.raises(ArgumentError, match="n_text and rank are at least 1"):
            text_bases(store, pool, **more)
    with pytest.raises(ArgumentError, match="one image at least"):
        text_bases(store, pool, examples=[])
    with pytest.raises(SelectionError, match="example 99"):
        text_bases(store, pool, examples=[99])


SAID = ["w1 w2", "w3", "w4 w5 w6", "w7", "w1 w2"]


@pytest.fixture(scope="module")
def reader():
    return tiny_models.build("clip_text", torch.float32), tiny_models.tokenizer()


def read(reader, inputs, out, **more):
    return residuum.capture(reader, inputs, out, sites=["pooled"], device="cpu", **more)


def embedded(reader, said):
    """Unit vectors of texts by the model itself, one at a time."""
    model, tokenizer = reader
    with torch.no_grad():
        vectors = [model(**tokenizer(text, return_tensors="pt")).text_embeds[0] for text in said]
    return unit(torch.stack(vectors).double().numpy())


def test_texts_are_unit_vectors_in_their_order(reader, tmp_path):
    kept = read(reader, SAID, tmp_path / "run")
    found = texts(kept)
    assert found.text == SAID
    assert len(found) == 5
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(found.vectors, embedded(reader, SAID), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(texts(str(tmp_path / "run")).vectors, found.vectors)
    np.testing.assert_array_equal(found.of("w7", "w3"), found.vectors[[3, 1]])
    with pytest.raises(ArgumentError, match="no text 'w9' among the 5"):
        found.of("w3", "w9")
    assert classes(kept).text == SAID, "each a class of its own"


def test_classes_are_ensembles_of_prompts(reader, tmp_path):
    table = pa.table({"text": SAID, "class": ["b", "a", "b", "a", "c"], "kind": [1, 2, 2, 1, 1]})
    kept = read(reader, table, tmp_path / "run", text_column="text")
    found, each = classes(kept), embedded(reader, SAID)
    assert found.text == ["b", "a", "c"], "in the order of their first prompts"
    want = [each[[0, 2]].mean(axis=0), each[[1, 3]].mean(axis=0), each[4]]
    np.testing.assert_allclose(found.vectors, unit(np.stack(want)), rtol=0, atol=1e-5)
    assert classes(kept, "kind").text == ["1", "2"]
    plain = read(reader, SAID, tmp_path / "plain")
    assert classes(plain).text == SAID, "without the column each text is a class"


def test_texts_that_were_added_come_last(reader, tmp_path):
    read(reader, SAID[1:3], tmp_path / "run")
    more = read(reader, ["w8 w9", SAID[1]], tmp_path / "run", append=True)
    found = texts(more)
    assert found.text == [*SAID[1:3], "w8 w9", SAID[1]]
    np.testing.assert_allclose(found.vectors, embedded(reader, found.text), rtol=0, atol=1e-5)


def test_stores_without_texts_are_refused_by_name(reader, store, model, tmp_path):
    other = residuum.capture(reader, SAID, tmp_path / "other", sites=["embed"], device="cpu")
    seen = towers.capture(model, towers.pictures(3), tmp_path / "seen", ["pooled"])
    for wrong in (store, other, seen):
        for call in (texts, classes):
            with pytest.raises(StoreError, match=rf"{wrong.path} holds no vectors of texts: cap"):
                call(wrong)


def test_the_pool_of_descriptions_is_large_and_clean():
    pool = general_descriptions()
    assert len(pool) == len(set(pool)) >= 1000
    assert all(line == line.strip() != "" for line in pool)
    assert len({line.casefold() for line in pool}) == len(pool)


def test_a_tower_is_one_dtype(store):
    tower = Tower.of(store)
    arrays = ("w_o", "b_o", "gain", "shift", "projection")
    assert {getattr(tower, name).dtype.name for name in arrays} == {"float32"}
    wide = tower.astype(np.float64)
    assert {getattr(wide, name).dtype.name for name in arrays} == {"float64"}
    assert (tower.n_layer, tower.n_head, tower.d_embed) == (3, N_HEAD, D_EMBED)
