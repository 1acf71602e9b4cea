"""The loss brought back block by block, beside a backward pass of the unmodified model."""

from contextlib import nullcontext

import numpy as np
import pytest
import tiny_models
import torch
from replay.backward import by_backward
from tiny_models import HEADS, in_64_bit

import residuum
from residuum.analyses.rows import token_rows
from residuum.errors import ModelError
from residuum.lenses.states import States
from residuum.replay.cost import row_bytes
from residuum.replay.opening import loss_gradients

TEXTS = ["w3 w1 w4 w1 w5 w9 w2", "w6 w5", "w8", "w9 w7 w9 w3 w2 w3 w8 w4 w6 w2"]
IDS = [[int(word[1:]) for word in text.split()] for text in TEXTS]
LENGTHS = np.array([len(ids) for ids in IDS])
CLOSE = {"float32": 1e-4, "float64": 1e-9}
"""Of the largest number. Weights are those of the same float32 files."""


@pytest.fixture(scope="module", params=HEADS)
def family(request):
    """Of decoders."""
    return request.param


@pytest.fixture(scope="module")
def store(family, tmp_path_factory):
    return captured(family, tmp_path_factory.mktemp(family))


def captured(name, folder):
    tiny_models.save(name, folder / "model", torch.float32)
    return residuum.capture(
        folder / "model",
        TEXTS,
        folder / "run",
        sites=["embed", "resid_post"],
        dtype="float32",
        device="cpu",
    )


@pytest.mark.parametrize("dtype", CLOSE)
def test_every_family_against_a_backward_pass(store, family, dtype):
    with in_64_bit() if dtype == "float64" else nullcontext():
        states, gradients = by_backward(family, IDS, getattr(torch, dtype))
    read = States(store, analysis="test").read
    back = loss_gradients(store, dtype=dtype)
    found = back.of_model(
        lambda state: read(state, slice(None)) if dtype == "float32" else states[state],
        LENGTHS,
        token_rows(store).target_id,
    )
    numbers = []
    for state, got in found:
        numbers.append(state)
        want = gradients[state]
        size = np.abs(want).max()
        assert size > 0.01
        np.testing.assert_allclose(got, want, rtol=0, atol=CLOSE[dtype] * size)
        # Nothing comes after the last token of an example.
        assert not got[np.cumsum(LENGTHS) - 1].any()
    assert numbers == [3, 2, 1, 0]


@pytest.mark.parametrize("family", ["llama"], indirect=True)
def test_a_small_budget_changes_nothing(store, monkeypatch):
    """Example by example, and logits of a row at a time."""
    read = States(store, analysis="test").read
    asked = (lambda state: read(state, slice(None)), LENGTHS, token_rows(store).target_id)
    back = loss_gradients(store)
    want = dict(back.of_model(*asked))
    cuts = {}
    for most in (1, 9, 10, 1000):
        back.memory_bytes = most * 3 * row_bytes(back.of, int(LENGTHS.max()))
        cuts[most] = [(rows.start, rows.stop) for rows, _ in back._together(LENGTHS)]
    assert cuts[1] == [(0, 7), (7, 9), (9, 10), (10, 20)]
    assert cuts[9] == [(0, 9), (9, 10), (10, 20)]
    assert cuts[10] == [(0, 10), (10, 20)]
    assert cuts[1000] == [(0, 20)]
    monkeypatch.setattr("residuum.replay.torch_gradients._LOGITS", 1)
    back.memory_bytes = 0
    for state, got in back.of_model(*asked):
        np.testing.assert_allclose(got, want[state], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("family", ["gemma2"], indirect=True)
def test_a_state_read_as_if_it_were_the_last(store, family):
    """Against the readout in float64: by differences along a random direction."""
    back, targets = loss_gradients(store, dtype="float64"), token_rows(store).target_id
    state = States(store, analysis="test").read(1, slice(None)).astype(np.float64)
    there = targets >= 0
    to = np.random.default_rng(0).standard_normal(state.shape)

    def losses(x):
        logits = back.readout.of.logits(x)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        return -logits[np.arange(len(x)), targets] * there

    got = (back.of_readout(state, targets) * to).sum(1)
    want = (losses(state + 1e-5 * to) - losses(state - 1e-5 * to)) / 2e-5
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


def test_who_has_no_next_token_has_no_loss(tmp_path):
    with pytest.raises(ModelError, match="is no decoder"):
        loss_gradients(captured("bert_mlm", tmp_path))
