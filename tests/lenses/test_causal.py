"""Causal bases: their energies by definition in float64, and that no other directions have more."""

import numpy as np
import pytest
from lenses.test_analysis import believed

from residuum.errors import ArgumentError, SiteError
from residuum.lenses import Recipe, TunedLens, causal_basis, train
from residuum.lenses.causal import Energy, random_directions
from residuum.lenses.removal import instead
from residuum.lenses.states import States
from residuum.replay.readout import readout

STATE = 1


@pytest.fixture(scope="module")
def lens(store):
    return train(store, Recipe("adam", steps=30, rate_scale=5.0), progress=False).lens


def energy_of(store, lens, removal="mean"):
    h = States(store, analysis="test").read(STATE, slice(None))
    return Energy(readout(store, analysis="test"), lens, STATE, h, instead(h, removal, 0))


def test_the_energy_is_its_definition(store, lens, monkeypatch):
    directions = random_directions(3, store.model["d_model"], 0)
    found = energy_of(store, lens)(directions)
    rows = np.arange(store.n_row)
    log_p = believed(store, lens, STATE, rows)
    read = States.read
    for v, value in zip(directions, found, strict=True):

        def without(self, state, rows, v=v):
            h = read(self, state, rows).astype(np.float64)
            return h + (h.mean(0) - h) @ np.outer(v, v)

        with monkeypatch.context() as patched:
            patched.setattr(States, "read", without)
            log_q = believed(store, lens, STATE, rows)
        want = (np.exp(log_p) * (log_p - log_q)).sum(-1).mean()
        assert value == pytest.approx(want, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("removal", ["mean", "zero", "resample"])
def test_the_gradient_is_that_of_the_energy(store, lens, removal):
    energy = energy_of(store, lens, removal)
    v, to = random_directions(2, store.model["d_model"], 1)
    value, gradient = energy.gradient(v)
    assert value == pytest.approx(float(energy(v[None])[0]), rel=1e-5)
    step = 1e-2
    up, down = energy(np.stack([v + step * to, v - step * to]))
    assert gradient @ to == pytest.approx((up - down) / (2 * step), rel=2e-2, abs=1e-5)


def test_a_basis_has_more_energy_than_what_is_left(store, lens):
    basis = causal_basis(store, lens, STATE, n=3)
    np.testing.assert_allclose(basis.vectors @ basis.vectors.T, np.eye(3), atol=1e-5)
    assert (np.diff(basis.energies) <= 0).all()
    energy = energy_of(store, lens)
    np.testing.assert_allclose(energy(basis.vectors), basis.energies, rtol=1e-5)
    np.testing.assert_allclose(energy(-basis.vectors), basis.energies, rtol=1e-4)
    drawn = random_directions(100, store.model["d_model"], 2)
    left = drawn - drawn @ basis.vectors.T @ basis.vectors
    left /= np.linalg.norm(left, axis=1, keepdims=True)
    assert basis.energies[0] >= energy(drawn).max()
    assert basis.energies.min() >= energy(left).max()


def test_a_width_unlike_the_vocabulary_and_the_logit_lens(store):
    """The package transposes the unembedding and fails unless both are as wide."""
    assert store.weights["W_U"].shape[0] != store.weights["W_U"].shape[1]
    d_model = store.model["d_model"]
    logit = causal_basis(store, None, STATE, n=2, evaluations=20)
    same = causal_basis(store, TunedLens.untrained(4, d_model), STATE, n=2, evaluations=20)
    np.testing.assert_array_equal(logit.vectors, same.vectors)
    every = causal_basis(store, None, STATE, n=d_model, evaluations=3)
    np.testing.assert_allclose(every.vectors @ every.vectors.T, np.eye(d_model), atol=1e-5)


def test_more_starts_find_no_less(store, lens):
    one, more = (
        causal_basis(store, lens, STATE, n=1, starts=starts).energies[0] for starts in (1, 6)
    )
    assert more >= one
    found = causal_basis(store, lens, STATE, n=3, starts=6)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(3), atol=1e-5)


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_bad_input(store, lens):
    for more, says in (
        ({"n": 0}, "a basis of 0 directions: the stream has 1 to"),
        ({"n": 1000}, "a basis of 1000 directions"),
        ({"removal": "median"}, "not 'median'"),
        ({"rows": []}, "of 0 rows changes nothing"),
        ({"rows": [5]}, "removal='mean' of 1 rows changes nothing"),
        ({"rows": [], "removal": "zero"}, "of 0 rows"),
        ({"starts": 0}, "from one start at least, not 0"),
    ):
        with pytest.raises(ArgumentError, match=says):
            causal_basis(store, lens, STATE, **more)
    with pytest.raises(SiteError, match="state 9"):
        causal_basis(store, lens, 9)
