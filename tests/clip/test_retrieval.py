"""Images by what heads say, beside a full comparison: a wrong neighbour looks like any other."""

import numpy as np
import pytest
import torch
from clip.towers import D_EMBED, D_HEAD

from clip import towers
from residuum.clip import effects, head_vectors, similar_images, top_images
from residuum.errors import ArgumentError, SelectionError, SiteError

N = 24
PAIR = [(2, 4), (0, 1), (2, 4)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = tmp_path_factory.mktemp("retrieval") / "run"
    some = towers.pictures(N)
    model = towers.build("clip_vision_joint")
    with torch.no_grad():
        # A head that writes nothing.
        model.vision_model.encoder.layers[1].self_attn.out_proj.weight[:, :D_HEAD] = 0
    return towers.capture(model, some, out, ["z", "resid_final"])


@pytest.fixture(scope="module")
def vectors(store):
    """What the two heads of `PAIR` add, `[image, d_embed]`, by shares along every axis."""
    whole = effects(store, np.eye(D_EMBED))
    return whole.shares[:, whole.heads([(0, 1), (2, 4)])].astype(np.float64).sum(axis=1)


def cosines(vectors):
    centred = vectors - vectors.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    return unit @ unit.T


def test_vectors_are_sums_of_shares(store, vectors):
    got = head_vectors(store, PAIR, centred=False)
    assert (got.shape, got.dtype) == ((N, D_EMBED), np.float32)
    np.testing.assert_allclose(got, vectors, rtol=0, atol=1e-5)
    centred = vectors - vectors.mean(axis=0)
    np.testing.assert_allclose(head_vectors(store, PAIR), centred, rtol=0, atol=1e-5)
    some = [7, 3, 3]
    got = head_vectors(store, iter(PAIR), examples=some)
    want = vectors[some] - vectors[some].mean(axis=0)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [1, 5, N - 1, 100])
def test_neighbours_are_those_of_a_full_comparison(store, vectors, k):
    queries = [3, 0, 17]
    scores = cosines(vectors)[queries]
    scores[np.arange(3), queries] = -2
    order = np.argsort(-scores, axis=1, kind="stable")[:, : min(k, N - 1)]
    # Images 1 and N - 1 are one picture: equal scores, the first one first.
    got = similar_images(store, PAIR, queries, k=k)
    np.testing.assert_array_equal(got.example, order)
    want = np.take_along_axis(scores, order, 1)
    np.testing.assert_allclose(got.value, want, rtol=0, atol=1e-5)
    assert got.value.dtype == np.float32


def test_neither_an_image_nor_its_repeats_are_found_for_it(store, vectors):
    got = similar_images(store, PAIR, [1, N - 1], k=3)
    scores = cosines(vectors)[1]
    order = [at for at in np.argsort(-scores) if at not in (1, N - 1)]
    assert got.example.tolist() == [order[:3]] * 2
    np.testing.assert_allclose(got.value, [scores[order[:3]]] * 2, rtol=0, atol=1e-5)
    # Where as many are asked for as there are others, the repeat's place stays empty.
    every = similar_images(store, PAIR, [1], k=100)
    assert every.example.tolist() == [[*order, -1]]
    assert np.isnan(every.value[0, -1])
    assert not np.isnan(every.value[0, :-1]).any()


def test_repeats_of_another_image_are_found(store):
    found = similar_images(store, PAIR, 0, k=N).example[0].tolist()
    assert found.index(N - 1) == found.index(1) + 1
    # Repeated numbers among those that are searched are repeats too.
    assert similar_images(store, PAIR, 3, k=2, examples=[3, 3, 8]).example.tolist() == [[8, -1]]


def test_one_query_is_a_list_of_it_and_a_mask_selects(store):
    want = similar_images(store, PAIR, [0], k=3)
    for got in (
        similar_images(store, PAIR, 0, k=3),
        similar_images(store, PAIR, np.arange(N) == 0, k=3),
        similar_images(str(store.path), PAIR, [0], k=3),
    ):
        np.testing.assert_array_equal(got.example, want.example)
    assert head_vectors(store, PAIR, examples=[]).shape == (0, D_EMBED)


def test_only_what_is_searched_is_found(store, vectors):
    some = [20, 4, 9, 11, 2]
    scores = cosines(vectors[some])
    got = similar_images(store, PAIR, [9, 20], k=2, examples=some)
    for query, examples in zip([2, 0], got.example, strict=True):
        order = [at for at in np.argsort(-scores[query]) if at != query]
        assert examples.tolist() == [some[at] for at in order[:2]]
    with pytest.raises(SelectionError, match="example 3 is not"):
        similar_images(store, PAIR, [3], examples=some)
    assert similar_images(store, PAIR, [], k=4).example.shape == (0, 4)


def test_a_head_that_says_nothing_finds_nothing(store):
    got = similar_images(store, [(1, 0)], [2, 5], k=3)
    assert got.example.tolist() == [[-1] * 3] * 2
    assert np.isnan(got.value).all()


@pytest.mark.parametrize("k", [1, 6, 100])
def test_top_images_are_those_with_the_greatest_shares(store, k):
    direction = towers.directions(1)[0]
    whole = effects(store, direction[None])
    share = whole.shares[:, whole.heads([(2, 3)])[0], 0]
    # The repeated image comes after its first, in either order.
    order = np.argsort(-share, kind="stable")[:k]
    got = top_images(store, 2, 3, direction, k=k)
    np.testing.assert_array_equal(got.example, order[None])
    np.testing.assert_allclose(got.value, share[order][None], rtol=0, atol=1e-5)
    deviation = share - share.mean()
    order = np.argsort(-np.abs(deviation), kind="stable")[:k]
    got = top_images(store, 2, 3, direction, k=k, by="deviation")
    np.testing.assert_array_equal(got.example, order[None])
    np.testing.assert_allclose(got.value, deviation[order][None], rtol=0, atol=1e-5)
    assert k == 1 or (got.value < 0).any(), "either way"


def test_what_cannot_be_ranked_is_refused(store):
    direction = towers.directions(1)[0]
    with pytest.raises(ArgumentError, match="name one head at least"):
        similar_images(store, [], [1])
    for head in (5, -1):
        with pytest.raises(SelectionError, match=f"head L0H{head} does not exist: layers have 5"):
            head_vectors(store, [(0, head)])
    with pytest.raises(SiteError, match="3 is out of range for axis `layer`"):
        head_vectors(store, [(3, 0)])
    with pytest.raises(SelectionError, match=f"example {N} is not among .* are {N}"):
        similar_images(store, PAIR, [N])
    for given in (direction[:4], direction[None]):
        with pytest.raises(ArgumentError, match=r"a direction is \[11\], not \["):
            top_images(store, 0, 1, given)
    with pytest.raises(ArgumentError, match="by is share or deviation, not 'size'"):
        top_images(store, 0, 1, direction, by="size")


def test_numbers_that_mean_nothing_are_refused(store):
    direction = towers.directions(1)[0]
    for k in (0, -1):
        with pytest.raises(ArgumentError, match=f"k is 1 at least, not {k}"):
            similar_images(store, PAIR, [0], k=k)
        with pytest.raises(ArgumentError, match=f"k is 1 at least, not {k}"):
            top_images(store, 0, 1, direction, k=k)
    with pytest.raises(ArgumentError, match=r"k is a whole number, not 1.5"):
        similar_images(store, PAIR, [0], k=1.5)
    for heads in ([(1, 1, 1)], (2, 4), ["L2"]):
        with pytest.raises(ArgumentError, match=r"heads are pairs .* such as \[\(10, 3\)\], not"):
            similar_images(store, heads, [0])
    with pytest.raises(ArgumentError, match="a mask of examples"):
        similar_images(store, PAIR, [True, False])
    with pytest.raises(ArgumentError, match="examples are a list of whole numbers"):
        similar_images(store, PAIR, [0.5])
    with pytest.raises(ArgumentError, match="a direction are finite"):
        top_images(store, 0, 1, direction * np.nan)
