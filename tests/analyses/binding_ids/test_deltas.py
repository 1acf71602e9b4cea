"""Mean differences: what they are by definition, and that no order of reading matters."""

import numpy as np
import pytest
from analyses.binding_ids.tiny_prompts import capture, prompt_rows

from residuum.analyses.binding_ids import deltas
from residuum.analyses.binding_ids.captured import Captured
from residuum.analyses.binding_ids.lookup import prompts_of
from residuum.analyses.binding_ids.params import Params

N = 3


@pytest.fixture(scope="module", params=["gpt2", "gpt_neox"])
def opened(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    store, _ = capture(request.param, folder, prompt_rows(30, 0, N))
    (prompts,) = prompts_of(store, Params())
    return request.param, store, Captured(store, None), prompts


def held(subject, prompts, category, slot):
    """Float64 `[prompt, layer, d_model]`."""
    at = prompts.tokens(category, slot)[:, 0]
    return subject.values(prompts.example, at).astype(np.float64)


def test_a_slot_without_its_difference_is_the_same_item_at_slot_0(opened):
    _, _, subject, prompts = opened
    found = deltas.estimate(subject, prompts)
    default = prompts.of("train", "default")
    for category in ("entity", "attribute"):
        assert not found.by[category][0].any()
        for slot in range(1, N):
            rotated = prompts.of("train", "rotated", slot)
            assert len(rotated) == len(default) == 30
            own = held(subject, default, category, slot) - found.by[category][slot][0]
            there = held(subject, rotated, category, 0)
            np.testing.assert_allclose(own.mean(0), there.mean(0), atol=1e-5)
            # The same words stand there.
            ids = store_ids(opened, default, category, slot)
            assert (ids == store_ids(opened, rotated, category, 0)).all()


def store_ids(opened, prompts, category, slot):
    table = opened[1].tokens.to_table(columns=["example", "token", "token_id"])
    ids = {
        (e, t): i
        for e, t, i in zip(*(table[n].to_pylist() for n in table.column_names), strict=True)
    }
    at = prompts.tokens(category, slot)[:, 0]
    return np.array([ids[e, t] for e, t in zip(prompts.example, at, strict=True)])


def test_streamed_is_at_once(opened, monkeypatch):
    _, _, subject, prompts = opened
    whole = deltas.estimate(subject, prompts)
    monkeypatch.setattr(deltas, "BLOCK_BYTES", 1)
    streamed = deltas.estimate(subject, prompts)
    order = np.random.default_rng(0).permutation(len(prompts))
    mixed = deltas.estimate(subject, prompts.take(order))
    for category, by in whole.by.items():
        np.testing.assert_allclose(streamed.by[category], by, atol=1e-6)
        np.testing.assert_allclose(mixed.by[category], by, atol=1e-6)
        np.testing.assert_allclose(streamed.residual[category], whole.residual[category], 1e-6)


def test_at_layer_0_there_is_position_or_nothing(opened):
    family, store, subject, prompts = opened
    found = deltas.estimate(subject, prompts)
    if family == "gpt_neox":
        for by in found.by.values():
            assert not by[:, :, 0].any()
        return
    from safetensors.numpy import load_file

    folder = store.capture["model_folder"]
    places = load_file(f"{folder}/model.safetensors")["transformer.wpe.weight"].astype(np.float64)
    for category, first in (("entity", prompts.entity[0]), ("attribute", prompts.attribute[0])):
        for slot in range(1, N):
            want = places[first[slot]] - places[first[0]]
            np.testing.assert_allclose(found.by[category][slot, 0, 0], want, atol=1e-6)


def test_random_vectors_are_as_long(opened):
    _, _, subject, prompts = opened
    found = deltas.estimate(subject, prompts)
    drawn = found.random(np.random.default_rng(0))
    for category, by in found.by.items():
        norms = (np.linalg.norm(one, axis=-1) for one in (by, drawn.by[category]))
        np.testing.assert_allclose(next(norms), next(norms), rtol=1e-12)
        assert not np.allclose(by[1:, :, 1:], drawn.by[category][1:, :, 1:])
    rows = deltas.rows(found)
    assert len(rows) == 2 * (N - 1) * subject.n_layer
    assert all(row["n"] == 30 for row in rows)
