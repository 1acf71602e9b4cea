"""Patches drawn at random: both executors beside full passes, and what must not matter."""

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import residuum
from residuum.replay import (
    Add,
    Donor,
    Freeze,
    Mean,
    Mix,
    Patch,
    Resample,
    RotateKeys,
    Scale,
    Set,
    Zero,
)
from residuum.replay.edit import ORDER
from residuum.sites import Site

FIRST, LENGTH, N_ROW = [0, 5, 10, 15], [5, 5, 5, 2], 17
SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z"]
SAME_SITE = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@st.composite
def patches(draw, example: int):
    """A patch of some tokens of an example."""
    site = draw(st.sampled_from(SITES))
    rows = draw(
        st.lists(
            st.integers(FIRST[example], FIRST[example] + LENGTH[example] - 1),
            min_size=1,
            max_size=4,
            unique=True,
        )
    )
    layers = draw(st.sampled_from([0, 1, 2, [0, 2], None]))
    heads = draw(st.sampled_from([None, [1], [2, 0]])) if site in ("q", "z") else None
    donors = st.lists(st.integers(0, N_ROW - 1), min_size=len(rows), max_size=len(rows))
    numbers = st.floats(-2, 2, width=32)
    kinds = [
        st.builds(Donor, donors),
        st.builds(Scale, numbers),
        st.builds(Add, numbers),
        st.builds(Set, numbers),
        st.builds(Mix, st.builds(Donor, donors), st.floats(0, 1, width=32)),
        st.builds(Resample, st.none(), st.integers(0, 9)),
        st.just(Zero()),
        st.just(Mean()),
        st.just(Freeze()),
    ]
    return Patch(site, rows, layers, heads, draw(st.one_of(kinds)))


RUNS = st.lists(
    st.integers(0, 3).flatmap(
        lambda example: st.tuples(
            st.just(example), st.lists(patches(example), min_size=1, max_size=3)
        )
    ),
    min_size=1,
    max_size=5,
)


def in_order(replay, together):
    """The edits of one run, in the order in which a pass meets them."""
    edits = [edit for patch in together for edit in replay.resolver.edits(patch)[1]]
    return sorted(edits, key=lambda edit: (edit.layer, ORDER.index(edit.site)))


def spelt_out(replay, oracle, example, edits):
    """Freezes as the numbers that they put there."""
    out = []
    for edit in edits:
        if edit.cached:
            rows = edit.tokens + FIRST[example]
            values = replay.source.read(edit.site, edit.layer, rows, edit.heads)
            edit = type(edit)(edit.site, edit.layer, edit.tokens, edit.heads, shift=values)
        out.append(edit)
    return out


@SAME_SITE
@given(RUNS)
def test_executors_give_what_full_passes_give(opened, runs):
    store, replay, oracle = opened
    wanted = [patch for _, patch in runs]
    found = replay.run(wanted)
    torch_found = residuum.replay(store, executor="torch", verify=False).run(wanted)
    for (example, together), one, other in zip(runs, found, torch_found, strict=True):
        edits = spelt_out(replay, oracle, example, in_order(replay, together))
        want = oracle.with_edits(example, edits, [(Site.LOGITS, None)])[Site.LOGITS, None]
        size = max(1.0, np.abs(want).max())
        np.testing.assert_allclose(one["logits"], want, 0, 4e-5 * size)
        np.testing.assert_allclose(other["logits"], want, 0, 4e-5 * size)


@SAME_SITE
@given(RUNS, st.randoms())
def test_order_and_packing_change_nothing(opened, runs, random):
    store, replay, _ = opened
    wanted = [patch for _, patch in runs]
    whole = replay.run(wanted)
    least = 11 * replay.row_bytes(6)
    small = residuum.replay(store, memory=least, verify=False)
    order = list(range(len(wanted)))
    random.shuffle(order)
    for number, one in zip(order, small.run([wanted[i] for i in order]), strict=True):
        np.testing.assert_allclose(one["logits"], whole[number]["logits"], 2e-5, 2e-5)


def test_the_number_of_threads_changes_nothing(opened):
    """Not even the last bit: sums do not depend on who makes them."""
    store = opened[0]
    digests = {sweep_digest(store.path, threads) for threads in (1, 2, 3)}
    assert len(digests) == 1


SWEEP = """
import hashlib, sys
import residuum
from residuum.replay import logit_diff
replay = residuum.replay(residuum.open(sys.argv[1]))
table = replay.sweep("resid_pre", [0, 1], [2, 0], metric=logit_diff(3, 5))
assert "torch" not in sys.modules
print(hashlib.sha256(table["logit_diff"].to_numpy().tobytes()).hexdigest())
"""


def sweep_digest(path, threads: int) -> str:
    """Of a sweep's metric, in a process with so many threads, which needs no torch."""
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SWEEP, str(path)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("opened", ["llama"], indirect=True)
def test_rotating_there_and_back_is_nothing(opened):
    _, replay, _ = opened
    turn = Patch("k", [0, 1, 2], value=RotateKeys([5, -3, 2]))
    back = Patch("k", [0, 1, 2], value=RotateKeys([-5, 3, -2]))
    plain, both, once = replay.run([Patch("k", [0], 0, value=Freeze()), [turn, back], turn])
    np.testing.assert_allclose(both["logits"], plain["logits"], 1e-5, 1e-5)
    assert not np.allclose(once["logits"], plain["logits"], atol=1e-3)
