"""Stores whose streams lenses are trained on."""

import pytest
import tiny_models
import torch

import residuum

SITES = ["resid_pre", "resid_final"]
ASKED = {"optimizer": "adam", "rate_scale": 5.0, "steps": 60}


def texts(n_text: int, seed: int = 0) -> list[str]:
    """Texts of one to seven words."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 8, (n_text,), generator=draw).tolist()
    words = [torch.randint(3, 10, (n,), generator=draw).tolist() for n in lengths]
    return [" ".join(f"w{word}" for word in text) for text in words]


@pytest.fixture(scope="session", params=["gpt2", "llama", "gemma2"])
def store(request, tmp_path_factory):
    """A store of 40 texts; LayerNorm, RMSNorm, and Gemma's norm with capped logits."""
    folder = tmp_path_factory.mktemp(request.param)
    tiny_models.save(request.param, folder / "model", torch.float32)
    return residuum.capture(
        folder / "model",
        texts(40),
        folder / "run",
        sites=SITES,
        dtype="float32",
        device="cpu",
    )


def run(store, **more):
    """The study, of a training that is short."""
    return residuum.analyses.run("tuned_lens", store, **{**ASKED, **more})


@pytest.fixture(scope="module")
def result(store):
    """All of the study; what is trained in a module goes with it."""
    yield run(store)
    for file in (store.path / "lenses").glob("*"):
        file.unlink()
