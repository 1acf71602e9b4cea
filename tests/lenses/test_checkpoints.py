"""Lenses on disk: the store's own files, and those of the package tuned-lens."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from residuum.errors import ArgumentError, ModelError, StoreError
from residuum.lenses import TunedLens, names, publish, published, save, stored
from residuum.lenses.tuned import Translator


@pytest.fixture
def lens():
    """Of a model with 3 blocks, 35 wide."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return TunedLens(
        {i: Translator(normal(35, 35), normal(35)) for i in range(3)}, 4, {"model": "m"}
    )


def same(one, two):
    assert one.n_state == two.n_state
    assert sorted(one.translators) == sorted(two.translators)
    for state, translator in one.translators.items():
        np.testing.assert_array_equal(translator.weight, two.translators[state].weight)
        np.testing.assert_array_equal(translator.bias, two.translators[state].bias)


@pytest.mark.parametrize("store", ["gpt2"], indirect=True)
def test_a_store_keeps_lenses(store, lens):
    assert names(store) == []
    save(store, lens, "first")
    kept = stored(store, "first")
    same(kept, lens)
    assert kept.about == {"model": "m"}
    some = TunedLens({1: lens.translators[1]}, 4)
    save(store, some, "some")
    assert names(store) == ["first", "some"]
    with pytest.raises(ArgumentError, match="no translator for state 0, only for 1"):
        stored(store, "some").translated(0, np.zeros((1, 35), np.float32))
    with pytest.raises(StoreError, match="has no lens 'other'; it has first, some"):
        stored(store, "other")
    with pytest.raises(ArgumentError, match="letters, digits"):
        save(store, lens, "../first")
    bad = TunedLens({1: Translator(lens.translators[1].weight, np.full(35, np.inf))}, 4)
    with pytest.raises(ArgumentError, match=r"`1.bias` of the lens 'other' has NaN or infinity"):
        save(store, bad, "other")
    with pytest.raises(ArgumentError, match=r"3 states that are 35 wide, the model of .* has 4"):
        save(store, TunedLens(some.translators, 3), "other")
    (store.path / "lenses" / "some.safetensors").write_bytes(b"none")
    with pytest.raises(StoreError, match="damaged"):
        stored(store, "some")
    for name in ("first", "some"):
        (store.path / "lenses" / f"{name}.safetensors").unlink()


def test_published_lenses_are_those_of_the_package(lens, tmp_path):
    """Read as `TunedLens.from_unembed_and_pretrained` of tuned-lens 0.2 does."""
    w_u = np.random.default_rng(1).standard_normal((35, 400)).astype(np.float32)
    publish(lens, tmp_path / "lens", w_u)
    same(published(tmp_path / "lens"), lens)
    config = json.loads((tmp_path / "lens" / "config.json").read_text())
    assert (config["d_model"], config["num_hidden_layers"], config["bias"]) == (35, 3, True)
    text = np.array_str(np.ascontiguousarray(w_u.T), precision=1)
    assert config["unembed_hash"] == hashlib.sha256(text.encode()).hexdigest()
    linears = torch.nn.ModuleList(torch.nn.Linear(35, 35) for _ in range(3))
    linears.load_state_dict(torch.load(tmp_path / "lens" / "params.pt"))
    h = np.random.default_rng(2).standard_normal((7, 35)).astype(np.float32)
    for state, linear in enumerate(linears):
        theirs = torch.tensor(h) + linear(torch.tensor(h))
        np.testing.assert_allclose(lens.translated(state, h), theirs.detach(), rtol=1e-5, atol=1e-5)


def test_half_precision_and_old_files_are_read(lens, tmp_path):
    publish(lens, tmp_path)
    params = torch.load(tmp_path / "params.pt")
    half = {name: x.half() for name, x in params.items() if not name.endswith("bias")}
    torch.save(half, tmp_path / "params.pt", _use_new_zipfile_serialization=False)
    config = {"d_model": 35, "num_hidden_layers": 3, "something": "else"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    read = published(tmp_path)
    expected = lens.translators[1].weight.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(read.translators[1].weight, expected)
    assert not read.translators[1].bias.any()


class Evil:
    """A pickle that would run code."""

    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


@pytest.mark.filterwarnings("ignore:Validating sparse")  # torch looks at one before we refuse it
def test_damaged_and_dangerous_checkpoints_are_refused(lens, tmp_path):
    publish(lens, tmp_path)
    good = (tmp_path / "params.pt").read_bytes()
    torch.save({"0.weight": Evil()}, tmp_path / "params.pt")
    with pytest.raises(ModelError, match="cannot be read as tensors alone"):
        published(tmp_path)
    (tmp_path / "params.pt").write_bytes(good[:1000])
    with pytest.raises(ModelError, match="cannot be read as tensors alone"):
        published(tmp_path)
    (tmp_path / "params.pt").write_bytes(good)
    config = json.loads((tmp_path / "config.json").read_text())
    for change, says in (
        ({"d_model": 36}, "no translator of state 0 that is 36 wide"),
        ({"num_hidden_layers": 4}, "no translator of state 3"),
        ({"lens_type": "other"}, "a lens of type 'other'"),
        ({"d_model": None}, "does not say d_model"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ModelError, match=says):
            published(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    params = torch.load(tmp_path / "params.pt")
    weight = params["1.weight"]
    for change, says in (
        ({"1.weight": weight.to_sparse()}, "'1.weight' is no dense tensor of real numbers"),
        ({"1.weight": weight.to(torch.complex64)}, "'1.weight' is no dense tensor"),
        ({"1.weight": 3}, "'1.weight' is no dense tensor"),
        ({"1.weight": weight * torch.nan}, "'1.weight' has NaN or infinity"),
        ({"1.bias": None}, "'1.bias' is no dense tensor"),
    ):
        torch.save(params | change, tmp_path / "params.pt")
        with pytest.raises(ModelError, match=says):
            published(tmp_path)
    torch.save({k: v for k, v in params.items() if k != "1.bias"}, tmp_path / "params.pt")
    with pytest.raises(ModelError, match="no translator of state 1"):
        published(tmp_path)  # its config says that there are biases
    torch.save({k: torch.nn.Parameter(v) for k, v in params.items()}, tmp_path / "params.pt")
    same(published(tmp_path), lens)
    for content in (b"", b"hello"):
        (tmp_path / "params.pt").write_bytes(content)
        with pytest.raises(ModelError, match="it is damaged, or holds other objects"):
            published(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": -1}))
    with pytest.raises(ModelError, match="says d_model 35 and num_hidden_layers -1"):
        published(tmp_path)
    (tmp_path / "params.pt").unlink()
    with pytest.raises(ModelError, match=r"it has no params\.pt"):
        published(tmp_path)
    with pytest.raises(ArgumentError, match="no translator for state 0"):
        publish(TunedLens({1: lens.translators[1]}, 4), tmp_path)
