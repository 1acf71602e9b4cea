"""Path patching beside two full passes with hooks that spell out its definition."""

import numpy as np
import pytest

from residuum.errors import ArgumentError, SiteError
from residuum.replay import Receiver, logit_diff
from residuum.replay.edit import Edit
from residuum.sites import Site

METRIC = logit_diff(3, 5)
CLEAN, CORRUPTED = 0, 2
RECEIVERS = {
    "logits": [],
    "queries": [Receiver("q", 2, 4)],
    "keys and values": [Receiver("k", 2, 0), Receiver("v", 2, 0), Receiver("q", 1, 3)],
    "one position": [Receiver("v", 2, 0, tokens=(2,))],
}


def passed(oracle, sender, receivers, mlps):
    """The metric by hand: everything but the sender is frozen, then the receivers are patched."""
    layer, head = sender
    every = np.arange(5)
    z = oracle.at(Site.Z, layer, CLEAN)[:, [head]]
    edits = [Edit(Site.Z, layer, every, np.array([head]), shift=z)]
    for later in range(layer, oracle.of.n_layer):
        if later > layer:
            edits.append(Edit(Site.Z, later, every, shift=oracle.at(Site.Z, later, CORRUPTED)))
        if mlps == "frozen":
            there = oracle.at(Site.MLP_OUT, later, CORRUPTED)
            edits.append(Edit(Site.MLP_OUT, later, every, shift=there))
    if receivers:
        where = [(Site(one.site), one.layer) for one in receivers]
        found = oracle.with_edits(CORRUPTED, edits, where)
        edits = []
        for one, place in zip(receivers, where, strict=True):
            at = every if one.tokens is None else np.array(one.tokens)
            head = np.array([one.head])
            edits.append(Edit(*place, at, head, shift=found[place][at][:, head]))
    logits = oracle.with_edits(CORRUPTED, edits, [(Site.LOGITS, None)])[Site.LOGITS, None]
    return logits[-1, 3] - logits[-1, 5]


@pytest.mark.parametrize("mlps", ["computed", "frozen"])
@pytest.mark.parametrize("case", list(RECEIVERS))
def test_a_path_is_two_passes(opened, case, mlps):
    _, replay, oracle = opened
    receivers = RECEIVERS[case]
    table = replay.paths(CLEAN, CORRUPTED, receivers, metric=METRIC, mlps=mlps)
    last = max((one.layer for one in receivers), default=replay.of.n_layer)
    assert table.num_rows == last * replay.of.n_head
    for row in table.to_pylist():
        want = passed(oracle, (row["layer"], row["head"]), receivers, mlps)
        assert row["logit_diff"] == pytest.approx(want, rel=2e-5, abs=2e-5), row
        assert row["logit_diff_clean"] != row["logit_diff_corrupted"]


def test_chosen_senders_and_pairs(opened):
    _, replay, _ = opened
    senders = [(1, 2), (0, 4)]
    whole = replay.paths(CLEAN, CORRUPTED, metric=METRIC).to_pylist()
    some = replay.paths([0, 1], [2, 0], senders=senders, metric=METRIC).to_pylist()
    assert [(row["layer"], row["head"]) for row in some] == senders * 2
    of = {(row["layer"], row["head"]): row["logit_diff"] for row in whole}
    for row, sender in zip(some, senders, strict=False):
        assert row["logit_diff"] == pytest.approx(of[sender], rel=1e-5)


def test_direct_paths_of_all_heads_add_up(opened):
    """With everything frozen and the norm aside, what the heads send is their z through W_O."""
    store, replay, oracle = opened
    table = replay.paths(CLEAN, CORRUPTED, metric=METRIC, mlps="frozen")
    layer, head = 1, 2
    z = [oracle.at(Site.Z, layer, example)[-1, head] for example in (CLEAN, CORRUPTED)]
    final = store["resid_post"].read([14], replay.of.n_layer - 1)
    moved = final + (z[0] - z[1]) @ store.weights["W_O"][layer, head]
    logits = replay.logits(np.asarray(moved, np.float64), METRIC)
    (row,) = [r for r in table.to_pylist() if (r["layer"], r["head"]) == (layer, head)]
    assert row["logit_diff"] == pytest.approx(float(logits[0, 0] - logits[0, 1]), rel=1e-4)


REFUSED = {
    "a path ends at q, k or v": {"receivers": [Receiver("z", 1, 0)]},
    "head 9 is not at q": {"receivers": [Receiver("q", 1, 9)]},
    "layer 7 is not in the model": {"receivers": [Receiver("q", 7, 0)]},
    "reaches no receiver": {"receivers": [Receiver("q", 1, 0)], "senders": [(1, 0)]},
    "computed or frozen, not 'cold'": {"mlps": "cold"},
}


@pytest.mark.parametrize("says", list(REFUSED))
def test_what_means_nothing_is_refused(opened, says):
    _, replay, _ = opened
    with pytest.raises((ArgumentError, SiteError), match=says):
        replay.paths(CLEAN, CORRUPTED, metric=METRIC, **REFUSED[says])
