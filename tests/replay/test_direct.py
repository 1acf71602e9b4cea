"""Direct effects: sums of shares beside a stream that is put together by hand."""

import numpy as np
import pytest
import tiny_models
import torch
from replay.conftest import TEXTS

import residuum
from residuum.errors import ArgumentError, SelectionError
from residuum.replay import direct_effects

SITES = ["embed", "z", "mlp_out", "resid_final"]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def store(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tiny_models.save(request.param, folder / "model", torch.float32)
    return residuum.capture(folder / "model", TEXTS, folder / "run", sites=SITES, dtype="float32")


def ablated(store, rows, subset):
    """The logit difference of tokens 3 and 5 with components' outputs set to their means."""
    w_o, w_u = store.weights["W_O"], store.weights["W_U"].astype(np.float64)
    final = store["resid_final"].read(rows).astype(np.float64)
    settings = store.model["readout"]
    centred = final - (final.mean(1, keepdims=True) if settings["norm"] == "layer_norm" else 0.0)
    scale = np.sqrt((centred**2).mean(1, keepdims=True) + settings["eps"])
    for kind, layer, head in subset:
        if kind == "head":
            out = store["z"].read(rows, layer)[:, head].astype(np.float64) @ w_o[layer, head]
        elif kind == "embed":
            out = store["embed"].read(rows).astype(np.float64)
        else:
            out = store["mlp_out"].read(rows, layer).astype(np.float64)
        final = final - (out - out.mean(0))
    if settings["norm"] == "layer_norm":
        final = final - final.mean(1, keepdims=True)
    normed = final / scale * store.weights["ln_final.w"]
    if "ln_final.b" in store.weights:
        normed = normed + store.weights["ln_final.b"]
    return normed @ (w_u[:, 3] - w_u[:, 5])


def test_subsets_are_means_in_place_of_outputs(store):
    rows = np.arange(2, 15)
    effects = direct_effects(store, [3], [5], rows=rows)
    subsets = [
        [],
        [("head", 1, 2)],
        [("head", 0, 0), ("head", 2, 4), ("MLP", 1, None)],
        [("embed", None, None), ("MLP", 0, None), ("MLP", 2, None)],
    ]
    numbers = []
    for subset in subsets:
        of = {"head": effects.head, "MLP": lambda layer, _: effects.mlp(layer)}
        numbers.append(
            [
                effects.component("embedding") if kind == "embed" else of[kind](layer, head)
                for kind, layer, head in subset
            ]
        )
    got = effects.ablated(numbers)
    for one, subset in zip(got, subsets, strict=True):
        np.testing.assert_allclose(one, ablated(store, rows, subset), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(got[0], effects.logits)


def test_a_matrix_says_the_same_as_lists(store):
    effects = direct_effects(store, [3, 4])
    rng = np.random.default_rng(0)
    chosen = rng.random((50, len(effects.means))) < 0.5
    lists = [np.flatnonzero(row) for row in chosen]
    np.testing.assert_array_equal(effects.ablated(chosen), effects.ablated(lists))


def test_all_shares_add_to_the_logit(store):
    """All components with means over nothing else: what is left is the same in every row."""
    effects = direct_effects(store, [3], [5])
    rest = effects.logits - effects.shares.sum(1)
    np.testing.assert_allclose(rest, rest[0], atol=1e-4)


def test_means_of_other_rows(store):
    effects = direct_effects(store, [3], [5], rows=[1, 2], reference=range(17))
    whole = direct_effects(store, [3], [5])
    products = whole.shares * whole.divisors[:, None]
    np.testing.assert_allclose(effects.means, products.mean(0), rtol=1e-6)


def test_what_is_not_there_is_refused(store):
    effects = direct_effects(store, [3])
    with pytest.raises(SelectionError, match="L9H9 is not among the components"):
        effects.head(9, 9)
    with pytest.raises(ArgumentError, match="component 99 is not there"):
        effects.ablated([[99]])
    with pytest.raises(ArgumentError, match=r"there are \d+ components"):
        effects.ablated(np.zeros((2, 3), bool))
    with pytest.raises(ArgumentError, match="the list of tokens is empty"):
        direct_effects(store, [])
    with pytest.raises(SelectionError, match="row 17 is not in"):
        direct_effects(store, [3], rows=[17])
