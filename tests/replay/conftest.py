"""Stores of tiny models that several tests replay."""

import pytest
import tiny_models
import torch
from replay.oracle import Captured

import residuum

TEXTS = ["w3 w1 w4 w1 w5", "w9 w2 w6 w5 w3", "w3 w1 w7 w1 w5", "w8 w8"]
SITES = ["resid_pre", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z"]


@pytest.fixture(scope="session", params=["gpt2", "llama"])
def opened(request, tmp_path_factory):
    """A store, its replay, and the oracle over the same examples."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_models.save(request.param, folder / "model", torch.float32)
    store = residuum.capture(
        folder / "model", TEXTS, folder / "run", sites=SITES, dtype="float32", device="cpu"
    )
    ids = [[int(word[1:]) for word in text.split()] for text in TEXTS]
    return store, residuum.replay(store), Captured(request.param, torch.float32, ids)
