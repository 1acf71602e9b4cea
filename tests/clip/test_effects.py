"""Shares of components beside the model's own passes: a share that is off, or a term that is left
out, would credit the wrong head, and every table, map and ablation after it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from clip.towers import ALL, D_EMBED, N_HEAD, N_LAYER, N_TOKEN

import residuum
from clip import towers
from residuum.clip import Tower, effects
from residuum.clip.effects import heads
from residuum.errors import ArgumentError, InputError, SelectionError, SiteError, StoreError

D = towers.directions()
MODELS = [
    (name, act) for name in ("clip_vision", "clip_vision_joint") for act in ("quick_gelu", "gelu")
]
PART = ["z", "resid_final"]


@pytest.fixture(scope="module", params=MODELS, ids="-".join)
def model(request):
    return towers.build(*request.param)


@pytest.fixture(scope="module")
def one():
    """One of the models, for what is no matter of weights."""
    return towers.build("clip_vision_joint")


@pytest.fixture(scope="module")
def some():
    return towers.pictures()


@pytest.fixture(scope="module")
def store(one, some, tmp_path_factory):
    return towers.capture(one, some, tmp_path_factory.mktemp("whole") / "run", ALL)


@pytest.fixture(scope="module")
def whole(store):
    return effects(store, D)


def close(got, want, tolerance):
    """Relative to the largest number that is wanted."""
    assert np.shape(got) == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def by_definition(seen, w):
    """Each component `[image, d_model]` of the stream, by name."""
    found = {"embedding": seen.embedding}
    for layer in range(N_LAYER):
        for head in range(N_HEAD):
            found[f"L{layer}H{head}"] = seen.z[layer, :, head] @ w.w_o[layer, head]
        found[f"L{layer} attention bias"] = np.broadcast_to(w.b_o[layer], seen.stream.shape)
        found[f"L{layer} MLP"] = seen.mlp[layer]
    return found


def test_shares_are_those_of_the_models_own_terms(model, some, tmp_path):
    seen, w = towers.run(model, some), towers.weights(model)
    got = effects(towers.capture(model, some, tmp_path / "run", ALL), D)
    assert got.shares.dtype == got.total.dtype == np.float32
    terms = by_definition(seen, w)
    np.testing.assert_allclose(sum(terms.values()), seen.stream, rtol=0, atol=1e-12)
    sigma = np.sqrt(seen.stream.var(-1) + w.eps)[:, None]
    assert got.components["component"].to_pylist() == list(terms)
    want = [(c - c.mean(-1, keepdims=True)) / sigma * w.gain @ w.projection for c in terms.values()]
    total = seen.vector @ D.T.astype(np.float64)
    scale = np.abs(total).max()
    for share, vector in zip(got.shares.transpose(1, 0, 2), want, strict=True):
        np.testing.assert_allclose(share, vector @ D.T, rtol=0, atol=1e-5 * scale)
    close(got.total, total, 1e-5)
    close(got.shares.sum(axis=1) + got.constant, total, 1e-5)


def test_the_fold_is_exact_in_64_bit(model, some, tmp_path):
    seen = towers.run(model, some)
    tower = Tower.of(towers.capture(model, some[:2], tmp_path / "run", PART)).astype(np.float64)
    wide = D.astype(np.float64)
    along, divisor = tower.along(wide), tower.divisor(seen.stream)
    close(tower.embedding(seen.stream), seen.vector, 1e-12)
    total = np.broadcast_to(tower.constant(wide), (len(some), len(D))).copy()
    for layer in range(N_LAYER):
        shares = heads(tower, seen.z[layer], layer, along, divisor)
        assert shares.dtype == np.float64
        total += shares.sum(axis=1)
        total += (seen.mlp[layer] + tower.b_o[layer]) @ along / divisor[:, None]
    total += seen.embedding @ along / divisor[:, None]
    close(total, seen.vector @ wide.T, 1e-12)


def reference(seen, w):
    """Tensors of the paper's code, which divides what is no component's evenly among all cells.

    Returns `[layer, image, head, d_embed]` summed over tokens, `[1 + layer, image, d_embed]` of the
    embedding and MLPs, and each vector's length.
    """
    n_part, n_cell = 2 * N_LAYER + 1, N_TOKEN * N_HEAD
    cells = np.einsum("lnht,lnthd,lhde->lnthe", seen.pattern, seen.v, w.w_o)
    cells = cells + w.b_o[:, None, None, None] / n_cell
    mlps = np.concatenate([seen.embedding[None], seen.mlp])
    mean = seen.stream.mean(-1, keepdims=True)
    sigma = np.sqrt(seen.stream.var(-1, keepdims=True) + w.eps)

    def normed(parts, mean, sigma, n):
        return ((parts - mean / n) / sigma * w.gain + w.shift / n) @ w.projection

    cells = normed(cells, mean[:, None, None], sigma[:, None, None], n_part * n_cell)
    return cells.sum(axis=2), normed(mlps, mean, sigma, n_part), np.linalg.norm(seen.vector, axis=1)


def test_even_split_is_the_papers_code(model, some, tmp_path):
    attentions, mlps, length = reference(towers.run(model, some), towers.weights(model))
    store = towers.capture(model, some, tmp_path / "run", ALL)
    got = effects(store, D, convention="even_split", unit=True)
    wide = D.T.astype(np.float64)
    for layer in range(N_LAYER):
        shares = got.shares[:, got.heads([(layer, head) for head in range(N_HEAD)])]
        close(shares, attentions[layer] @ wide / length[:, None, None], 1e-5)
    parts = got.shares[:, [*got.numbers("embedding"), *got.numbers("MLP")]]
    close(parts, (mlps @ wide).transpose(1, 0, 2) / length[:, None, None], 1e-5)
    assert set(got.components["kind"].to_pylist()) == {"embedding", "head", "MLP"}
    assert not got.constant.any()
    folded = effects(store, D, unit=True)
    close(got.total, folded.total, 1e-6)
    close(got.shares.sum(axis=1), folded.shares.sum(axis=1) + folded.constant, 1e-5)


def test_unit_divides_by_each_vectors_length(store, whole, one, some):
    length = np.linalg.norm(towers.run(one, some).vector, axis=1)
    got = effects(store, D, unit=True)
    close(got.shares * length[:, None, None], whole.shares, 1e-6)
    close(got.constant * length[:, None], whole.constant, 1e-6)
    close(got.total * length[:, None], whole.total, 1e-6)


@pytest.mark.parametrize("convention", ["folded", "even_split"])
@pytest.mark.parametrize(
    ("sites", "layers", "told"),
    [
        (PART, None, {"head": 15}),
        ([*PART, "mlp_out"], None, {"head": 15, "MLP": 3}),
        ([*PART, "embed"], None, {"head": 15, "embedding": 1}),
        ([*PART, "mlp_out", "embed"], [0, 2], {"head": 10, "MLP": 2, "embedding": 1}),
    ],
)
def test_what_was_not_captured_is_the_rest(
    one, some, store, tmp_path, sites, layers, told, convention
):
    got = effects(
        towers.capture(one, some, tmp_path / "run", sites, layers=layers), D, convention=convention
    )
    want = effects(store, D, convention=convention)
    kinds = got.components["kind"].to_pylist()
    folded = {"attention bias": told["head"] // N_HEAD} if convention == "folded" else {}
    assert {kind: kinds.count(kind) for kind in kinds} == {**told, **folded, "rest": 1}
    names = want.components["component"].to_pylist()
    here = got.components["component"].to_pylist()[:-1]
    same = [names.index(name) for name in here]
    close(got.shares[:, :-1], want.shares[:, same], 1e-6)
    others = [number for number in range(len(names)) if number not in same]
    rest = want.shares[:, others].sum(axis=1)
    close(got.shares[:, -1], rest, 1e-5 * max(1, np.abs(want.shares).max() / np.abs(rest).max()))
    assert got.components.to_pylist()[-1] == {
        "component": "rest",
        "kind": "rest",
        "layer": None,
        "head": None,
    }


def same_effects(got, want, tolerance=1e-6):
    assert got.components.equals(want.components)
    close(got.shares, want.shares, tolerance)
    close(got.constant, want.constant, tolerance)
    close(got.total, want.total, tolerance)


def test_positions_make_no_difference(one, some, tmp_path, whole):
    store = towers.capture(one, some, tmp_path / "run", ALL[:4], positions="all")
    assert store.n_row == N_TOKEN * (len(some) - 1)
    same_effects(effects(store, D), whole)
    got = effects(store, D, examples=[4, 0, 5])
    close(got.total, whole.total[[4, 0, 5]], 1e-6)


def test_other_positions_lack_class_tokens(one, some, tmp_path):
    store = towers.capture(one, some, tmp_path / "run", PART, positions="last")
    with pytest.raises(StoreError, match=r"example 0 of .* has no row of its class token: capture"):
        effects(store, D)


def test_a_repeated_image_has_the_shares_of_the_first(whole, store):
    assert store.n_row == 5
    assert whole.images.example.tolist() == [0, 1, 2, 3, 4, 5]
    close(whole.shares[5], whole.shares[1], 1e-6)
    assert np.abs(whole.shares[0] - whole.shares[1]).max() > 0.01


def test_half_precision_is_near(one, some, tmp_path, whole):
    got = effects(towers.capture(one, some, tmp_path / "run", ALL[:4], dtype="float16"), D)
    heads_of = got.numbers("head")
    off = np.linalg.norm((got.shares - whole.shares)[:, heads_of], axis=(0, 2))
    of = np.linalg.norm(whole.shares[:, heads_of], axis=(0, 2))
    assert (off < 1e-3 * of).all()
    close(got.shares.sum(axis=1) + got.constant, got.total, 5e-3)


def test_a_store_that_grew_has_the_same_shares(one, some, tmp_path, whole, store):
    out = tmp_path / "run"
    # A site with one row for each image is added to those that have such rows.
    towers.capture(one, some, out, [*PART, "pooled"])
    towers.capture(one, some, out, ALL[1:3], append=True)
    grown = towers.capture(one, some, out, ["pattern", "image_v"], layers=[1, 2], append=True)
    assert grown["image_v"].layers == (1, 2)
    same_effects(effects(grown, D), whole, 0)
    more = towers.capture(one, towers.pictures(3, seed=4), out, None, append=True)
    assert more.n_example == len(some) + 3
    got = effects(more, D)
    close(got.shares[: len(some)], whole.shares, 1e-6)
    assert got.images.example.tolist() == list(range(len(some) + 3))
    assert more.verify().ok


def test_a_copy_has_the_same_shares(store, tmp_path, whole):
    copy = residuum.export(store, tmp_path / "copy.residuum", format="store", progress=False)
    same_effects(effects(residuum.open(copy), D), whole, 0)


@pytest.mark.parametrize("block", [1, 5_000])
def test_blocks_and_order_change_nothing(store, whole, monkeypatch, block):
    # Named so, `residuum.clip.effects` is the function.
    monkeypatch.setattr(sys.modules["residuum.clip.effects"], "BLOCK", block)
    same_effects(effects(store, D), whole)
    order = [3, 5, 0, 3, 1]
    got = effects(store, D, examples=order)
    assert got.images.example.tolist() == order
    close(got.shares, whole.shares[order], 1e-6)
    assert effects(store, D, examples=[]).shares.shape == (0, 22, 3)


def test_the_last_stream_will_do_for_the_final_one(one, some, tmp_path, whole):
    store = towers.capture(one, some, tmp_path / "run", ["z", "resid_post"])
    close(effects(store, D).total, whole.total, 1e-6)


def test_chunks_change_nothing(one, some, tmp_path, whole):
    store = towers.capture(one, some, tmp_path / "run", ALL[:4], shard_rows=2, chunk_rows=1)
    same_effects(effects(store, D), whole)


def test_threads_change_nothing(store, tmp_path, whole):
    code = (
        "import sys, numpy, residuum.clip as clip, residuum\n"
        "store, out = residuum.open(sys.argv[1]), sys.argv[2]\n"
        "d = numpy.random.default_rng(9).normal(size=(3, 11)).astype(numpy.float32)\n"
        "numpy.savez(out, clip.effects(store, d).shares, clip.patch_maps(store, d),"
        " clip.text_bases(store, d)[0].explained)\n"
    )
    found = []
    for threads in ("1", "3"):
        out = tmp_path / f"{threads}.npz"
        subprocess.run(
            [sys.executable, "-c", code, str(store.path), str(out)],
            env={**os.environ, "RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            check=True,
        )
        found.append(list(np.load(out).values()))
    close(found[0][0], whole.shares, 1e-6)
    for one, other in zip(*found, strict=True):
        close(one, other, 1e-6)


def test_ablating_everything_leaves_all_images_alike(whole):
    every = np.arange(whole.components.num_rows)
    left = whole.ablated(every)
    close(left, np.broadcast_to(whole.total.mean(axis=0), left.shape), 1e-5)
    assert np.ptp(whole.total, axis=0).min() > 0.1
    np.testing.assert_array_equal(whole.ablated([]), whole.total)


def test_ablation_by_shares_is_that_of_summed_vectors(store, whole):
    """Full vectors, component by component, with some replaced by their means."""
    full = effects(store, np.eye(D_EMBED))
    chosen = full.heads([(2, 4), (0, 1), (2, 4)]).tolist() + full.numbers("MLP").tolist()
    vectors = full.shares.astype(np.float64)
    replaced = vectors.copy()
    replaced[:, chosen] = vectors[:, chosen].mean(axis=0)
    want = (replaced.sum(axis=1) + full.constant) @ D.T
    close(whole.ablated(chosen), want, 1e-5)
    kept = [0, 2, 3]
    replaced[:, chosen] = vectors[kept][:, chosen].mean(axis=0)
    want = (replaced.sum(axis=1) + full.constant) @ D.T
    close(whole.ablated(chosen, reference=kept), want, 1e-5)
    lost = whole.lost(kept)
    close(lost[kept].mean(axis=0) + 1, np.ones(lost.shape[1:]), 1e-6)


def test_components_are_found_by_kind_layer_and_head(whole):
    rows = whole.components.to_pylist()
    some = whole.numbers("head", layers=[2, 0])
    assert [rows[n]["layer"] for n in some] == [0] * N_HEAD + [2] * N_HEAD
    assert [rows[n]["component"] for n in whole.heads([(2, 0), (0, 4)])] == ["L2H0", "L0H4"]
    assert whole.numbers("rest").size == 0
    for pair in [(3, 0), (0, 5), (-1, 0)]:
        with pytest.raises(SelectionError, match=f"head L{pair[0]}H{pair[1]} is not among"):
            whole.heads([pair])


def test_what_cannot_be_answered_is_refused_by_name(store, one, some, tmp_path, gpt2_folder):
    with pytest.raises(ArgumentError, match="convention is folded or even_split, not 'odd'"):
        effects(store, D, convention="odd")
    for given in (D[:, :4], D[0], np.zeros((2, 12))):
        with pytest.raises(ArgumentError, match=r"directions are \[direction, 11\]"):
            effects(store, given)
    for number in (6, -1):
        with pytest.raises(SelectionError, match=f"example {number} is not among .* are 6"):
            effects(store, D, examples=[0, number])
    no_z = towers.capture(one, some, tmp_path / "no_z", ["resid_final"])
    with pytest.raises(SiteError, match=r"the site z, which .* --site z"):
        effects(no_z, D)
    no_end = towers.capture(one, some, tmp_path / "no_end", ["z"])
    with pytest.raises(SiteError, match="--site resid_final"):
        effects(no_end, D)
    bare = towers.build("clip_vision").vision_model
    bare = towers.capture(bare, some, tmp_path / "bare", PART)
    with pytest.raises(StoreError, match="no projection to the joint space: capture CLIPModel"):
        effects(bare, D)
    text = residuum.capture(gpt2_folder, ["a dog"], tmp_path / "text", sites=PART, device="cpu")
    with pytest.raises(StoreError, match=r"holds gpt2, but this asks the vision tower of a CLIP"):
        effects(text, D)


def test_masks_select_components_and_images(whole):
    chosen, kept = np.arange(22) % 3 == 0, np.arange(6) < 4
    want = whole.ablated(np.flatnonzero(chosen), reference=np.flatnonzero(kept))
    np.testing.assert_array_equal(whole.ablated(chosen, reference=kept), want)
    np.testing.assert_array_equal(whole.ablated(chosen.tolist(), reference=kept.tolist()), want)
    np.testing.assert_array_equal(whole.taken(kept).total, whole.total[:4])


def test_chosen_components_alone_are_computed(whole, monkeypatch):
    """Of many images and components all the rest would be most of the time."""
    want = whole.lost()[:, [4, 2]]
    np.testing.assert_array_equal(whole.lost(components=[4, 2]), want)
    sizes = []
    lost = type(whole).lost

    def seen(self, *args, **more):
        found = lost(self, *args, **more)
        sizes.append(found.shape)
        return found

    monkeypatch.setattr(type(whole), "lost", seen)
    whole.ablated([4, 2, 4])
    assert sizes == [(6, 2, 3)]


@pytest.mark.parametrize(
    ("components", "error", "words"),
    [
        ([True, False], ArgumentError, "as long as there are components, 22, not 2"),
        ([0, 22], SelectionError, "component 22 is not there: there are 22"),
        (-1, SelectionError, "component -1 is not there: there are 22"),
        ([1.5], ArgumentError, "components are a list of whole numbers"),
        (["L2 MLP"], ArgumentError, r"not names such as 'L2 MLP': numbers\(\) gives"),
        ("L2 MLP", ArgumentError, r"not names such as 'L2 MLP'"),
        ([[1], [2, 3]], ArgumentError, "components are whole numbers"),
    ],
)
def test_components_that_are_not_there_are_refused(whole, components, error, words):
    with pytest.raises(error, match=words):
        whole.ablated(components)


@pytest.mark.parametrize(
    ("reference", "error", "words"),
    [
        ([True, False], ArgumentError, "as long as there are images, 6, not 2"),
        ([0, 6], SelectionError, "image 6 is not there: there are 6"),
        ([-1], SelectionError, "image -1"),
        ([], ArgumentError, "the reference is empty"),
        (np.zeros(6, bool), ArgumentError, "the reference is empty"),
        ([0.5], ArgumentError, "images are a list of whole numbers"),
    ],
)
def test_a_reference_that_is_not_there_is_refused(whole, reference, error, words):
    for call in (whole.lost, lambda of: whole.ablated([1], reference=of)):
        with pytest.raises(error, match=words):
            call(reference)


def test_kinds_layers_and_heads_are_checked(whole):
    with pytest.raises(ArgumentError, match=r"no kind 'mlp' .*: embedding, head, .*, MLP, rest"):
        whole.numbers("mlp")
    for layer in (3, -1):
        with pytest.raises(SelectionError, match=f"no layer {layer}: the model's are 0 to 2"):
            whole.numbers("head", layers=[0, layer])
    with pytest.raises(ArgumentError, match="layers are"):
        whole.numbers("head", layers="12")
    assert whole.numbers("head", layers=1).tolist() == whole.numbers("head", layers=[1]).tolist()
    for pairs in ([(1, 1, 1)], (2, 4), ["L2"], ["L2H4"], [(0, 1.5)], [(True, 0)], 3, [(0, None)]):
        with pytest.raises(ArgumentError, match=r"of heads|heads are pairs of layer and head"):
            whole.heads(pairs)


def test_a_path_stands_for_its_store(store, whole):
    for path in (str(store.path), Path(store.path)):
        same_effects(effects(path, D), whole)
    with pytest.raises(StoreError, match="nowhere"):
        effects("nowhere", D)
    with pytest.raises(ArgumentError, match="a store is what"):
        effects(None, D)


def test_directions_are_finite(store):
    for bad in (np.nan, np.inf, 1e300):
        with pytest.raises(ArgumentError, match="directions are finite numbers"):
            effects(store, np.where(np.arange(11) == 3, bad, np.ones((2, 11))))
    with pytest.raises(ArgumentError, match="directions are real numbers"):
        effects(store, ["a dog"])


def test_examples_are_whole_numbers_or_a_mask_of_all(store, whole):
    mask = np.array([True, False, True, False, False, True])
    got = effects(store, D, examples=mask)
    assert got.images.example.tolist() == [0, 2, 5]
    close(got.total, whole.total[mask], 1e-6)
    assert got.images.named([False, True, True]).example.tolist() == [2, 5]
    with pytest.raises(ArgumentError, match=r"a mask of examples is as long as .* 6, not 2"):
        effects(store, D, examples=[True, False])
    with pytest.raises(ArgumentError, match="examples are a list of whole numbers"):
        effects(store, D, examples=[1.7])
    with pytest.raises(SelectionError, match=r"example 3 is not among .* searched, which are 3"):
        got.images.named([0, 3])


def test_shares_beyond_the_memory_are_refused(store):
    needed = 6 * 3 * (4 * 22 + 12)
    effects(store, D, memory=needed)
    with pytest.raises(ArgumentError, match=r"6 images, 22 comp.* 3 dir.* take 1.8e-06 GB.*examp"):
        effects(store, D, memory=needed - 1)
    effects(store, D, examples=[0], memory=needed - 1)
    with pytest.raises(InputError, match="memory 'much'"):
        effects(store, D, memory="much")
