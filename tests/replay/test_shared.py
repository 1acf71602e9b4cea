"""Replays that begin alike share what they have in common, and give what they give alone."""

import re

import numpy as np
import pytest

from residuum.replay import Patch, Scale, Zero
from residuum.replay.edit import Edit
from residuum.replay.plan import Read, Run
from residuum.replay.shared import shared
from residuum.sites import Site

SITES = ["resid_pre", "attn_out", "mlp_out", "q", "k", "v", "z", "resid_post"]
READS = [["logits"], ["logits", ("resid_post", 1)], ["logits", ("z", 0), ("k", 2)]]


def random_patch(rng, n_layer):
    site, layer = rng.choice(SITES), int(rng.integers(n_layer))
    return Patch(site, [int(rng.integers(5))], layer, value=Scale(float(rng.normal())))


@pytest.mark.parametrize("seed", range(20))
def test_together_is_as_alone(opened, seed):
    _, replay, _ = opened
    rng = np.random.default_rng(seed)
    base = [random_patch(rng, 2) for _ in range(2)]
    runs = [
        [*base[: rng.integers(3)], *(random_patch(rng, 3) for _ in range(rng.integers(1, 3)))]
        for _ in range(5)
    ]
    runs.append(runs[0])
    read, tokens = READS[seed % 3], [None, [-1], [1, 3]][seed % 3]
    together = replay.run(runs, read=read, tokens=tokens)
    for run, got in zip(runs, together, strict=True):
        (alone,) = replay.run([run], read=read, tokens=tokens)
        for asked, values in alone.items():
            np.testing.assert_allclose(got[asked], values, rtol=1e-4, atol=2e-5)


def operations(text):
    """Of a plan's last line, in kFLOP."""
    number, unit = re.match(r"([\d.]+) (k|M)FLOP", text.splitlines()[-1]).groups()
    return float(number) * {"k": 1, "M": 1000}[unit]


def test_a_common_start_is_computed_once(opened):
    _, replay, _ = opened
    base = Patch("mlp_out", [0, 1, 2], 0, value=Scale(0.5))
    heads = [[base, Patch("z", [4], 2, [head], value=Zero())] for head in range(5)]
    one, every = (operations(replay.explain(runs)) for runs in (heads[:1], heads))
    assert every < 2.5 * one


def run(edits, read=2, row=0):
    made = [Edit(Site.Z, layer, np.array([0]), scale=scale) for layer, scale in edits]
    return Run(row, 5, made, [Read(Site.RESID_POST, read, np.array([4]))])


def test_leaders_are_found():
    runs = [
        run([(0, 2.0), (1, 3.0)]),
        run([(0, 2.0), (1, 4.0)]),  # another from layer 1 on
        run([(0, 2.0), (2, 4.0)]),  # the first's own edit of layer 1 parts them
        run([(0, 2.0), (1, 4.0), (2, 5.0)]),  # nearest to the second
        run([(0, 9.0), (1, 3.0)]),  # another from the start
        run([(0, 2.0), (1, 3.0)], row=5),  # another example
        run([(0, 2.0), (1, 4.0), (2, 5.0)], read=0),  # asks for what leaders would compute
        run([(0, 2.0)]),
    ]
    found = shared(runs)
    assert found.leader.tolist() == [0, 0, 0, 1, 4, 5, 6, 7]
    assert found.until.tolist() == [0, 1, 1, 2, 0, 0, 0, 0]
