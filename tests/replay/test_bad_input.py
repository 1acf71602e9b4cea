"""What means nothing is refused in one sentence, before anything is computed."""

import numpy as np
import pyarrow.compute as pc
import pytest
import tiny_models
import torch
from replay.conftest import TEXTS

import residuum
from residuum.errors import ArgumentError, ModelError, ResiduumError, SiteError
from residuum.replay import (
    Donor,
    Mean,
    Mix,
    Patch,
    ProjectOut,
    Receiver,
    Resample,
    RotateKeys,
    Scale,
    Zero,
    accuracy,
    direct_effects,
    expression,
    kl,
    log_prob,
    logit,
    logit_diff,
    rank,
)

MASK = np.array([False, True])
PATCHES = {
    "a mask give np.flatnonzero": Patch("z", MASK, 1),
    "rows are a list of whole numbers, not 1.5": Patch("z", 1.5, 1),
    "rows are a list of whole numbers, not '1'": Patch("z", "1", 1),
    "rows are a list of whole numbers, not None": Patch("z", None, 1),
    "layers are a list of whole numbers, not 1.5": Patch("z", [1], 1.5),
    "a layer is named twice among": Patch("z", [1], [1, 1]),
    "no numbers that numpy can read: Can't call": Patch(
        "z", [1], 1, value=torch.zeros(1, 5, 7, requires_grad=True)
    ),
    "the list of layers is empty": Patch("z", [1], []),
    "the list of heads is empty": Patch("z", [1], 1, []),
    "heads are a list of whole numbers": Patch("z", [1], 1, "1"),
    "row -1 is not in": Patch("z", [1], 1, value=Donor([-1])),
    "row 17 is not in": Patch("z", [1], 1, value=Mean([17])),
    "row -2 is not in": Patch("z", [1], 1, value=Resample([-2, 3])),
    "a seed is a whole number": Patch("z", [1], 1, value=Resample(seed=0.5)),
    "rows are a list of whole numbers, not \\[1.7\\]": Patch("z", [1], 1, value=Donor([1.7])),
    "real numbers, not None": Patch("z", [1], 1, value=None),
    "real numbers, not 'hello'": Patch("z", [1], 1, value="hello"),
    "real numbers, not \\[\\[1": Patch("z", [1], 1, value=[[1, 2], [3]]),
    "real numbers, not 1j": Patch("z", [1], 1, value=1j),
    "a scale is a finite number": Patch("z", [1], 1, value=Scale(float("nan"))),
    "the weight of a mix is a finite": Patch("z", [1], 1, value=Mix(Donor([2]), float("inf"))),
    "Zero\\(\\) cannot be mixed in": Patch("z", [1], 1, value=Mix(Zero(), 0.5)),
    "the numbers for z are finite in float32: one": Patch("z", [1], 1, value=1e300),
    "a scale is a finite number of float32": Patch("z", [1], 1, value=Scale(1e300)),
    "the numbers for z are finite": Patch("z", [1], 1, value=np.full((1, 5, 7), np.nan)),
    "the patch's are \\[1, 2, 5": Patch("z", [1], [0, 2], value=np.zeros((1, 3, 5, 7))),
    "one of them at least is not zero": Patch("z", [1], 1, value=ProjectOut(np.zeros(7))),
    "not of the pattern": Patch("pattern", [1], 1, value=ProjectOut(np.ones(5))),
}


@pytest.mark.parametrize("opened", ["gpt2"], indirect=True)
@pytest.mark.parametrize("says", list(PATCHES))
def test_patches(opened, says):
    _, replay, _ = opened
    with pytest.raises(ResiduumError, match=says):
        replay.run([PATCHES[says]])


CALLS = {
    "one replay for each element": lambda r: r.run(Patch("z", [0])),
    "'x' is no patch": lambda r: r.run(["x"]),
    "`read` is a list": lambda r: r.run([Patch("z", [0])], read="logits"),
    "the layer of a read is a whole": lambda r: r.run([Patch("z", [0])], read=[("z", (0, 1))]),
    "tokens are a list of whole": lambda r: r.run([Patch("z", [0])], tokens=[True]),
    "clean examples are a list": lambda r: r.sweep("z", 0.5, 1, metric=logit(1)),
    "`at` is a whole number": lambda r: r.sweep("z", 0, 2, metric=logit(1), at=1.5),
    "the list of layers is empty": lambda r: r.sweep("z", 0, 2, metric=logit(1), layers=[]),
    "the metric is <function kl": lambda r: r.sweep("z", 0, 2, metric=kl),
    "token 31 is not in the vocabulary": lambda r: r.sweep("z", 0, 2, metric=log_prob(31)),
    "token 99 is not in": lambda r: r.paths(0, 2, metric=logit_diff(1, 99)),
    "like another column": lambda r: r.sweep(
        "z", 0, 2, metric=expression(pc.field("logit_1"), [1], "layer")
    ),
    "reads what is not there": lambda r: r.sweep(
        "z", 0, 2, metric=expression(pc.field("logit_7"), [6])
    ),
    "`over` names axes": lambda r: r.sweep("z", 0, 2, None, metric=logit(1)),
    "Arrow cannot compute the expression": lambda r: r.sweep(
        "z", 0, 2, metric=expression(pc.utf8_upper(pc.field("logit_3")), [3])
    ),
    "the expression gives string": lambda r: r.sweep(
        "z", 0, 2, metric=expression(pc.scalar("x"), [3])
    ),
    "the column of an expression has a name": lambda r: r.sweep(
        "z", 0, 2, metric=expression(pc.field("logit_3"), [3], "")
    ),
    "unpatched or clean, not 'corrupted'": lambda r: r.sweep("z", 0, 2, metric=kl("corrupted")),
    "a sender is named twice": lambda r: r.paths(0, 2, senders=[(0, 1), (0, 1)], metric=logit(1)),
    "receivers are a list": lambda r: r.paths(0, 2, Receiver("q", 1, 3), metric=logit(1)),
    "no head reaches layer 0": lambda r: r.paths(0, 2, [Receiver("q", 0, 3)], metric=logit(1)),
    "senders are a list": lambda r: r.paths(0, 2, senders=[], metric=logit(1)),
    "the list of examples is empty": lambda r: r.check([]),
    "examples are a list of whole": lambda r: r.check([0.5]),
}


@pytest.mark.parametrize("opened", ["gpt2"], indirect=True)
@pytest.mark.parametrize("says", list(CALLS))
def test_calls(opened, says):
    _, replay, _ = opened
    with pytest.raises(ArgumentError, match=says):
        CALLS[says](replay)


def test_metrics():
    with pytest.raises(ArgumentError, match="'a' is none"):
        expression("a", [7])
    for make in (lambda: logit(-1), lambda: rank("w3"), lambda: logit_diff([1], 2)):
        with pytest.raises(ArgumentError, match="token id"):
            make()
    with pytest.raises(ArgumentError, match="candidates beside"):
        accuracy(1, [1])
    none = np.full((1, 3), np.nan)
    assert np.isnan(rank(2).of(none, none)).all()
    assert np.isnan(accuracy(0, [1, 2]).of(none, none)).all()


def test_what_is_no_store(opened, tmp_path):
    store, replay, _ = opened
    for call in (
        lambda: residuum.replay("path"),
        lambda: direct_effects(None, [1]),
        lambda: replay.run([Patch("z", [0], 1, value=Donor([1], "path"))]),
    ):
        with pytest.raises(ArgumentError, match="open it with"):
            call()
    with pytest.raises(ArgumentError, match="`model` is the folder of the captured model's"):
        residuum.replay(store, model=object())
    with pytest.raises(ArgumentError, match="torch cannot use the device 'foo'"):
        residuum.replay(store, device="foo")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="holds no safetensors files"):
        residuum.replay(store, tmp_path / "empty")


@pytest.mark.parametrize("opened", ["llama"], indirect=True)
def test_keys_turn_as_a_whole(opened):
    _, replay, _ = opened
    with pytest.raises(SiteError, match="all heads of the site k, not for single heads"):
        replay.run([Patch("k", [1], 1, heads=[0], value=RotateKeys(3))])
    with pytest.raises(ArgumentError, match="2 offsets for a patch of 1 rows"):
        replay.run([Patch("k", [1], 1, value=RotateKeys([1, 2]))])


def test_a_pattern_of_stored_keys_is_refused(opened, tmp_path):
    _, replay, _ = opened
    tiny_models.save("gpt2", tmp_path / "model", torch.float32)
    donor = residuum.capture(
        tmp_path / "model",
        TEXTS,
        tmp_path / "run",
        sites=["pattern"],
        positions="last",
        keys="stored",
        device="cpu",
    )
    with pytest.raises(SiteError, match="has the keys of stored tokens alone"):
        replay.run([Patch("pattern", [4], 1, value=Donor([0], donor))])


def test_weights_of_another_shape(opened, tmp_path):
    store, _, _ = opened
    kind = "llama" if store.model["family"] == "gpt2" else "gpt2"
    tiny_models.save(kind, tmp_path / "other", torch.float32)

    def replayed() -> None:
        replay = residuum.replay(store, tmp_path / "other", verify=False)
        replay.run([Patch("resid_pre", [0], 0)])

    with pytest.raises(ModelError):
        replayed()
