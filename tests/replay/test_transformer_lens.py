"""Sweeps beside what TransformerLens' `get_act_patch_*` gave on the same weights.

`transformer_lens/make.py` wrote the weights and the answers.
"""

from pathlib import Path

import numpy as np
import pytest
import tiny_models

import residuum
from residuum.replay import logit_diff

HERE = Path(__file__).parent / "transformer_lens"
CLEAN, CORRUPTED = "w3 w1 w4 w1 w5 w9", "w3 w1 w7 w2 w5 w8"
SWEEPS = {
    "resid_pre": ("resid_pre", ("layer", "token")),
    "attn_out": ("attn_out", ("layer", "token")),
    "mlp_out": ("mlp_out", ("layer", "token")),
    "z_by_token": ("z", ("layer", "token", "head")),
    "z": ("z", ("layer", "head")),
    "q": ("q", ("layer", "head")),
    "v": ("v", ("layer", "head")),
}


@pytest.fixture(scope="module", params=["gpt2", "gpt_neox"])
def captured(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tiny_models.tokenizer().save_pretrained(folder)
    for file in (HERE / request.param).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    store = residuum.capture(
        folder,
        [CLEAN, CORRUPTED],
        folder / "run",
        sites=["resid_pre", "resid_final", "attn_out", "mlp_out", "q", "v", "z"],
        dtype="float32",
        device="cpu",
    )
    return store, np.load(HERE / request.param / "patching.npz")


@pytest.mark.parametrize("executor", ["rust", "torch"])
@pytest.mark.parametrize("name", list(SWEEPS))
def test_sweeps_agree(captured, name, executor):
    store, answers = captured
    site, over = SWEEPS[name]
    replay = residuum.replay(store, executor=executor)
    table = replay.sweep(site, 0, 1, over, metric=logit_diff(3, 5))
    want = answers[name]
    np.testing.assert_allclose(table["logit_diff"].to_numpy(), want.ravel(), 1e-5, 1e-5)
    assert np.ptp(want) > 1e-2
