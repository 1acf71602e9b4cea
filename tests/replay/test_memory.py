"""A sweep stays within its memory budget, whatever its length."""

import subprocess
import sys

import pytest
import tiny_models
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import residuum

N_TOKEN, D_MODEL = 120, 192
BUDGET = 30_000_000
SWEEP = """
import sys
import residuum
from residuum.replay import logit_diff

def peak():
    with open("/proc/self/status") as status:
        return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))

replay = residuum.replay(residuum.open(sys.argv[1]), memory=int(sys.argv[2]))
# One small sweep first: weights, libraries and buffers are there already.
replay.sweep("resid_pre", 0, 1, metric=logit_diff(3, 5), tokens=[-1])
before = peak()
n_pair, over = int(sys.argv[3]), sys.argv[4].split(",")
replay.sweep("resid_pre", [0] * n_pair, [1] * n_pair, over, metric=logit_diff(3, 5))
print(peak() - before)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=31,
        n_positions=N_TOKEN,
        n_embd=D_MODEL,
        n_layer=3,
        n_head=6,
        **tiny_models.COMMON,
    )
    GPT2LMHeadModel(config).save_pretrained(folder / "model")
    tiny_models.tokenizer().save_pretrained(folder / "model")
    texts = [" ".join(f"w{3 + (i * step) % 7}" for i in range(N_TOKEN)) for step in (3, 7)]
    sites = ["resid_pre", "resid_final"]
    return residuum.capture(folder / "model", texts, folder / "run", sites=sites, device="cpu")


def growth(store, budget: int, n_pair: int = 1, over: str = "layer,token") -> int:
    """Bytes by which a process grows while it sweeps 360 patches of 120 tokens for each pair."""
    command = [sys.executable, "-c", SWEEP, str(store.path), str(budget), str(n_pair), over]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def test_a_sweep_keeps_to_its_budget(store):
    assert growth(store, BUDGET) < BUDGET
    # The budget is what keeps it there.
    assert growth(store, 100 * BUDGET) > 2 * BUDGET


def test_the_patches_of_many_pairs_wait_outside_of_memory(store):
    # 3 layers of 120 tokens, 92 kB each: 83 MB for all pairs.
    assert growth(store, BUDGET, n_pair=300, over="layer") < BUDGET
