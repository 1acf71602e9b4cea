"""What reading resid_post and z costs over the bare forward pass, on this machine."""

import time
from statistics import median

import pytest
import torch
import transformers as tf

from residuum.capture.adapters import adapter_for
from residuum.capture.tracer import Tracer


@pytest.mark.benchmark
def test_hooks_cost_little_over_the_bare_pass():
    """GPT-2 of 6 layers by 256 on 4 x 128 tokens; alternating, so that both see the same load."""
    torch.manual_seed(0)
    config = tf.GPT2Config(n_layer=6, n_head=8, n_embd=256, vocab_size=4096)
    model = tf.GPT2LMHeadModel(config).eval()
    tracer = Tracer(model, adapter_for("GPT2LMHeadModel"), ["resid_post", "z"])
    batch = tracer.collate(torch.randint(4096, (4, 128)).tolist())
    read = []

    def bare():
        with torch.no_grad():
            model.transformer(batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)

    def traced():
        read.clear()
        tracer.run(batch, lambda _s, _l, x: read.append(x.shape))

    times = {bare: [], traced: []}
    for _ in range(15):
        for work, taken in times.items():
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    assert len(read) == 12
    ratio = median(times[traced][3:]) / median(times[bare][3:])
    print(f"hooks on resid_post and z: {ratio:.3f} x the bare pass")  # noqa: T201
    assert ratio < 1.10
