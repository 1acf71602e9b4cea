"""Measures against their definitions in the plainest words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from residuum.analyses.overthinking import controls, metrics, turning
from residuum.analyses.overthinking.curves import Curve, measured
from residuum.analyses.overthinking.lens import Seen
from residuum.analyses.overthinking.tasks import Task
from residuum.errors import ArgumentError


def plain_calibrated(p, label):
    """Section 2 of the paper, prompt by prompt."""
    n_class = p.shape[1]
    right = []
    shares = [[(x + 1e-14) / sum(y + 1e-14 for y in row) for x in row] for row in p]
    for row, true in zip(shares, label, strict=True):
        threshold = np.quantile([other[true] for other in shares], (n_class - 1) / n_class)
        right.append(
            1.0 if row[true] > threshold else 1 / n_class if row[true] == threshold else 0.0
        )
    return np.array(right)


@pytest.mark.parametrize("n_class", [2, 3, 4, 14])
def test_calibrated_is_its_definition(n_class):
    rng = np.random.default_rng(n_class)
    # Some rounded, so that shares tie.
    p = rng.dirichlet(np.ones(n_class), 1000 if n_class == 4 else 101)
    p[::3] = np.round(p[::3], 1)
    label = rng.integers(n_class, size=len(p))
    found = metrics.calibrated(p, label)
    # Sums over classes in another order differ in the last bit, which no share here is close to.
    np.testing.assert_array_equal(found, plain_calibrated(p, label))
    assert set(found) <= {0.0, 1 / n_class, 1.0}


@given(st.integers(0, 1000))
def test_calibrated_sees_only_the_order_in_each_class(seed):
    """Two classes: any increasing map of one share is one of both."""
    rng = np.random.default_rng(seed)
    share = rng.random(41)
    label = rng.integers(2, size=41)
    before = metrics.calibrated(np.stack([share, 1 - share], 1), label)
    bent = share**3
    after = metrics.calibrated(np.stack([bent, 1 - bent], 1), label)
    np.testing.assert_array_equal(before, after)


def test_calibrated_forgives_a_bias_that_plain_accuracy_does_not():
    label = np.arange(1000) % 2
    p = np.where(label == 0, 0.9, 0.8)
    both = np.stack([p, 1 - p], 1)
    assert metrics.uncalibrated(both, label).mean() == 0.5
    assert metrics.calibrated(both, label).mean() == 1.0


@pytest.mark.parametrize("n_class", [2, 3, 5])
def test_equal_probabilities_are_chance(n_class):
    label = np.arange(60) % n_class
    found = metrics.calibrated(np.full((60, n_class), 0.01), label)
    np.testing.assert_array_equal(found, 1 / n_class)


def test_permuted_score_without_a_shift_is_calibrated_accuracy():
    rng = np.random.default_rng(0)
    true = rng.integers(4, size=(100, 1))
    seen = Seen(rng.dirichlet(np.ones(4), (100, 2, 1)), np.zeros((100, 2, 1, 4), np.int64))
    whole = (np.arange(4), *(np.zeros((100, 2, 1), np.int64),) * 2)
    for shift in (0, 1):
        task = Task("d", "f", "permuted", true, (true + shift) % 4, *whole)
        found = measured(task, seen, 1, 0, 0)
        same = found["permuted_score"] == found["calibrated"]
        assert same.all() == (shift == 0)


def test_plain_measures():
    p = np.array([[0.2, 0.1], [0.3, 0.3], [0.0, 0.5]])
    label = np.array([0, 1, 0])
    np.testing.assert_array_equal(metrics.uncalibrated(p, label), [1, 1, 0])
    token_id = np.array([7, 3])
    top = np.array([[7, 3], [3, 7], [5, 3]])
    np.testing.assert_array_equal(metrics.top_1(top, token_id, label), [1, 1, 0])
    np.testing.assert_array_equal(metrics.top_match(top, token_id), [1, 1, 0])


def test_a_band_is_two_standard_errors_wide():
    mean = metrics.mean_of(np.array([1.0, 0.0, 1.0, 1.0]))
    assert mean.band["mean"] == 0.75
    assert mean.band["hi"] - mean.band["mean"] == pytest.approx(1.96 * 0.5 / 2)
    both = metrics.average([mean, metrics.Mean(0.25, mean.error, 4)])
    assert (both.mean, both.n) == (0.5, 8)
    assert both.error == pytest.approx(mean.error / 2**0.5)


def curve(true, false, n=400, seed=0, dataset="set0"):
    """A curve whose prompts are right with these probabilities, by state."""
    rng = np.random.default_rng(seed)
    task = Task(dataset, "f", "permuted", *(np.zeros((2, 2), np.int64),) * 5)
    last = rng.random((len(true), 2, n)) < np.stack([true, false], 1)[:, :, None]
    return Curve(task, last.astype(np.float64), {})


def test_the_critical_layer_is_the_first_with_half_the_gap():
    (gap,) = turning.gaps([curve([0.25, 0.8, 0.9, 0.95], [0.25, 0.75, 0.2, 0.05])])
    assert gap.critical == 2
    (row,) = turning.critical_rows([gap], "m")
    assert (row["state_index"], row["block"]) == (2, 1)
    assert turning.exit_state([gap], "permuted") == 1


def test_a_gap_that_is_noise_has_no_critical_layer():
    alike = [0.25, 0.8, 0.9]
    (gap,) = turning.gaps([curve(alike, alike)])
    assert abs(gap.gap[-1]) < 4 * gap.error
    assert gap.critical is None
    assert turning.critical_rows([gap], "m")[0]["block"] is None


def test_early_exit_sums_over_data_sets():
    gaps = turning.gaps(
        [
            curve([0.5, 0.5, 0.9], [0.5, 0.9, 0.1], dataset="a"),
            curve([0.5, 0.5, 0.9], [0.9, 0.8, 0.1], seed=1, dataset="b"),
        ]
    )
    assert [gap.dataset for gap in gaps] == ["a", "b", "all"]
    assert turning.exit_state(gaps, "permuted") == 1
    rows = turning.exit_rows(gaps, {"permuted": 2}, "m")
    # Exit at the last state is no exit.
    assert all(row["delta_true"] == row["delta_false"] == 0 for row in rows)


HEADS = [(1, 0), (1, 2), (3, 4)]


@pytest.mark.parametrize("seed", range(20))
def test_random_heads_are_others_that_there_are(seed):
    near = controls.matched(HEADS, 5, seed)
    far = controls.anywhere(HEADS, 4, 5, seed)
    for drawn in (near, far):
        assert len(set(drawn)) == 3
        assert not set(drawn) & set(HEADS)
        assert all(0 <= layer < 4 and 0 <= head < 5 for layer, head in drawn)
    assert sorted(layer for layer, _ in near) == [1, 1, 3]
    assert near == controls.matched(HEADS, 5, seed)
    assert far == controls.anywhere(HEADS, 4, 5, seed)


def test_random_heads_come_from_everywhere():
    drawn = {head for seed in range(200) for head in controls.anywhere(HEADS, 4, 5, seed)}
    assert drawn == {(la, h) for la in range(4) for h in range(5)} - set(HEADS)


def test_too_few_heads_left_is_said():
    with pytest.raises(ArgumentError, match="block 1 has 3 heads, of which 2 are chosen"):
        controls.matched([(1, 0), (1, 1)], 3, 0)
    with pytest.raises(ArgumentError, match="too few are left"):
        controls.anywhere([(0, 0), (0, 1)], 1, 3, 0)
