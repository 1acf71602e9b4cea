"""Capture on a GPU: the rows are those that hooks see there, whatever goes on meanwhile."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import residuum

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

TEXTS = [f"the red square sees {n} green circle and a dog" for n in ("one", "two", "the")] * 7
SITES = ["resid_pre", "resid_post", "z", "pattern", "resid_final"]


def capture(folder, out, device, **settings):
    usual = {"sites": SITES, "batch_tokens": 24, "shard_rows": 8, "device": device}
    return residuum.capture(folder, TEXTS, out, **usual | settings)


def test_a_gpu_sees_what_the_cpu_sees(gpt2_folder, tmp_path):
    there = capture(gpt2_folder, tmp_path / "cuda", "cuda")
    here = capture(gpt2_folder, tmp_path / "cpu", "cpu")
    for site in SITES:
        np.testing.assert_allclose(
            there[site].read(), here[site].read(), rtol=1e-4, atol=1e-5, err_msg=site
        )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_kept_bit_for_bit(gpt2_folder, tmp_path, dtype):
    kind = getattr(torch, dtype)
    model = AutoModelForCausalLM.from_pretrained(gpt2_folder, dtype=kind).eval().cuda()
    tokenizer = AutoTokenizer.from_pretrained(gpt2_folder)
    store = residuum.capture((model, tokenizer), TEXTS[:1], tmp_path / "run", sites=["resid_post"])
    seen = []
    for block in model.transformer.h:
        block.register_forward_hook(
            lambda _m, _a, o: seen.append(o[0] if isinstance(o, tuple) else o)
        )
    with torch.no_grad():
        model(**tokenizer(TEXTS[:1], return_tensors="pt").to("cuda"))
    stored = store["resid_post"].torch()
    assert stored.dtype == kind
    assert torch.equal(stored, torch.stack([o.reshape(len(stored), -1) for o in seen], 1).cpu())


def test_memory_in_flight_is_bounded(gpt2_folder, tmp_path):
    store = capture(gpt2_folder, tmp_path / "run", "cuda", memory="64MB")
    assert np.isfinite(store["resid_post"].read()).all()
