"""The Rust executor on weights as they lie in files: in 16 bits, turned round or not."""

import numpy as np
import pytest
import tiny_models
import torch
from replay.conftest import TEXTS

import residuum
from residuum.errors import ArgumentError
from residuum.replay import Donor, Patch, logit_diff, rust_kit


@pytest.mark.parametrize("room", [0, 2 << 30])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gpt_neox"])
def test_weights_are_used_as_they_lie(tmp_path, monkeypatch, name, dtype, room):
    monkeypatch.setattr(rust_kit, "_ROOM", room)
    tiny_models.save(name, tmp_path / "model", dtype)
    sites = ["resid_pre", "resid_final", "z"]
    store = residuum.capture(tmp_path / "model", TEXTS, tmp_path / "run", sites=sites)
    tables = [
        residuum.replay(store, executor=executor).sweep("resid_pre", 0, 2, metric=logit_diff(3, 5))
        for executor in ("rust", "torch")
    ]
    ours, theirs = (table["logit_diff"].to_numpy() for table in tables)
    np.testing.assert_allclose(ours, theirs, 1e-5, 1e-5)
    assert np.ptp(ours) > 1e-2


def test_what_rust_does_not_compute_is_refused(opened):
    store = opened[0]
    for more in ({"dtype": "float64"}, {"device": "cuda"}):
        with pytest.raises(ArgumentError, match="computes in float32 on the CPU"):
            residuum.replay(store, executor="rust", **more)
    with pytest.raises(ArgumentError, match="no executor 'jax'"):
        residuum.replay(store, executor="jax")
    with pytest.raises(ArgumentError, match="float32 or float64, not in 'float16'"):
        residuum.replay(store, dtype="float16")
    patch = Patch("resid_pre", [0], 0, value=Donor([5]))
    wide, narrow = (
        residuum.replay(store, **more).run([patch])[0]["logits"]
        for more in ({"dtype": "float64"}, {})
    )
    np.testing.assert_allclose(wide, narrow, 1e-5, 1e-5)
