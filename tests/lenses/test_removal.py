"""Directions taken out of states, and how far predictions are apart: the definitions."""

import numpy as np
import pytest

from residuum.errors import ArgumentError
from residuum.lenses import divergence
from residuum.lenses.lbfgs import minimise
from residuum.lenses.removal import instead, others, removed


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.mark.parametrize("removal", ["mean", "zero", "resample"])
def test_states_have_along_directions_what_is_put(removal):
    h, a = drawn(30, 8), drawn(3, 8, seed=1)
    put = instead(h, removal, seed=2)
    found = removed(h, a, put)
    np.testing.assert_allclose(found @ a.T, np.broadcast_to(put @ a.T, (30, 3)), atol=1e-12)
    # What is at right angles stays, and doing it again changes nothing.
    q = np.linalg.qr(a.T)[0]
    rest = np.eye(8) - q @ q.T
    np.testing.assert_allclose(found @ rest, h @ rest, atol=1e-12)
    np.testing.assert_allclose(removed(found, a, put), found, atol=1e-12)
    # Any directions that span the same are the same.
    np.testing.assert_allclose(removed(h, q.T, put), found, atol=1e-12)
    np.testing.assert_allclose(removed(h, [*a, a[0] + a[1]], put), found, atol=1e-12)


def test_what_is_put_is_the_mean_or_nothing_or_another_row():
    h = drawn(5, 4)
    np.testing.assert_allclose(instead(h, "mean"), h.mean(0, keepdims=True))
    assert not instead(h, "zero").any()
    np.testing.assert_array_equal(instead(h, "resample", 3), h[others(5, 3)])
    for n in (2, 3, 10):
        for seed in range(5):
            other = others(n, seed)
            assert sorted(other) == list(range(n))
            assert (other != np.arange(n)).all()
    with pytest.raises(ArgumentError, match="mean, zero, resample, not 'median'"):
        instead(h, "median")
    with pytest.raises(ArgumentError, match="there is 1"):
        others(1, 0)
    with pytest.raises(ArgumentError, match="not zero"):
        removed(h, np.zeros(4), h)


def test_divergences_keep_their_bounds():
    p, q = (divergence.log_softmax(3 * drawn(50, 20, seed=seed)) for seed in (1, 2))
    kl, js = divergence.kl(p, q), divergence.js(p, q)
    tv = divergence.total_variation(p, q)
    assert (kl > 0).all()
    np.testing.assert_allclose(js, divergence.js(q, p))
    assert (js <= np.log(2)).all()
    assert (tv <= np.sqrt(kl / 2)).all()
    assert (tv <= 1).all()
    assert not divergence.kl(p, p).any()
    np.testing.assert_allclose(divergence.js(p, p), 0, atol=1e-12)
    assert not divergence.total_variation(p, p).any()
    apart = np.array([[0.0, -np.inf]])
    assert divergence.js(apart, apart[:, ::-1]) == pytest.approx(np.log(2))
    assert divergence.total_variation(apart, apart[:, ::-1]) == 1


def test_a_valley_is_found():
    """Rosenbrock's, whose floor bends; and a bowl in one step of the budget less."""
    used = []

    def valley(x):
        used.append(x)
        a, b = x
        value = (1 - a) ** 2 + 100 * (b - a * a) ** 2
        return value, np.array([-2 * (1 - a) - 400 * a * (b - a * a), 200 * (b - a * a)])

    x, value = minimise(valley, np.array([-1.2, 1.0]), evaluations=200, tolerance=1e-12)
    assert len(used) <= 200
    np.testing.assert_allclose(x, 1, atol=1e-4)
    assert value < 1e-8
    used.clear()
    _, value = minimise(valley, np.array([-1.2, 1.0]), evaluations=5, tolerance=0)
    assert len(used) == 5
    assert value < 24.2
    still = np.array([1.0, 1.0])
    assert minimise(valley, still, evaluations=5, tolerance=0)[0] is still
