"""Capture on a GPU beside the bare forward pass: overhead, GB/s to the host and to disk.

A Llama shape with random weights in bfloat16; all prompts have one length. Three runs take turns:
the pass without the head, the pass with every block's output copied to pinned memory and dropped
there, and `residuum.capture` to disk, of which hashing the weights and the last fsync are part.
Before that the store's first batch is compared with the model's own output.

    python benches/gpu_capture.py [--device cuda] [--layers 16] [--width 2048] [--prompts 512]
"""

import argparse
import os
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import residuum
from capture import make_prompts
from common import Case, add_table, interleaved
from findings import Report, versions
from residuum.capture.sink import fetch_of

WORK = Path(".cache/bench/gpu_capture")
N_TOKEN, N_WORD, BATCH = 128, 32000, 32


def make_model(
    n_layer: int, width: int, device: torch.device
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A Llama shape on the device, and a tokenizer that knows the words w0, w1, …."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=N_WORD,
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=n_layer,
        num_attention_heads=width // 64,
        num_key_value_heads=max(1, width // 256),
    )
    model = LlamaForCausalLM(config).eval()
    model.to(device, torch.bfloat16)
    raw = Tokenizer(models.WordLevel({f"w{i}": i for i in range(N_WORD)}, unk_token="w0"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict.fromkeys(("pad_token", "eos_token", "bos_token"), "w0")
    return model, PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@torch.no_grad()
def bare(model: LlamaForCausalLM, ids: torch.Tensor) -> None:
    """The forward passes without the head, in the batches of the capture."""
    for batch in ids.split(BATCH):
        model.model(input_ids=batch, use_cache=False)
    settle(ids.device)


def to_host(model: LlamaForCausalLM, ids: torch.Tensor) -> None:
    """The same with every block's output copied as a capture copies it, and dropped."""
    fetch = fetch_of(ids.device)
    waiting = []

    def hook(_module: object, _args: object, output: torch.Tensor) -> None:
        # A copy first, as a capture takes the stored rows out of the padded batch.
        rows = output.flatten(0, 1).clone()
        if fetch is not None:
            waiting.append(fetch(rows))
        if len(waiting) > 2 * model.config.num_hidden_layers:
            waiting.pop(0).wait()

    handles = [block.register_forward_hook(hook) for block in model.model.layers]
    bare(model, ids)
    for fetched in waiting:
        fetched.wait()
    for handle in handles:
        handle.remove()


def to_disk(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: list[str]
) -> Path:
    """The whole of `residuum.capture`, to a new store."""
    out = WORK / "run.residuum"
    shutil.rmtree(out, ignore_errors=True)
    residuum.capture(
        (model, tokenizer),
        prompts,
        out,
        sites=["resid_post"],
        batch_tokens=BATCH * N_TOKEN,
        device=str(model.device),
        memory="2GB",
    )
    return out


@torch.no_grad()
def assert_stored(path: Path, ids: torch.Tensor, model: LlamaForCausalLM) -> float:
    """The first batch is the model's own; returns the GB of all that was captured."""
    site = residuum.open(path)["resid_post"]
    seen: list[torch.Tensor] = []
    block = model.model.layers[0]
    handle = block.register_forward_hook(lambda _module, _args, output: seen.append(output))
    model.model(input_ids=ids[:BATCH], use_cache=False)
    handle.remove()
    stored = site.torch(slice(0, BATCH * N_TOKEN), 0)
    assert torch.equal(stored, seen[0].flatten(0, 1).cpu()), "the store is not what the model did"
    return site.nbytes / 1e9


def main() -> None:
    """Check the answer, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        message = "there is no CUDA device; --device cpu tries the same code without one"
        raise SystemExit(message)
    WORK.mkdir(parents=True, exist_ok=True)
    model, tokenizer = make_model(options.layers, options.width, device)
    prompts = make_prompts(options.prompts, N_WORD)
    ids = torch.tensor([tokenizer.encode(prompt) for prompt in prompts], device=device)
    size = assert_stored(to_disk(model, tokenizer, prompts), ids, model)
    cases = {
        "bare forward pass, no head": Case(lambda: bare(model, ids)),
        "copied to pinned memory": Case(lambda: to_host(model, ids)),
        "residuum, to disk, fsynced": Case(lambda: to_disk(model, tokenizer, prompts)),
    }
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} cores"
    )
    report = Report("gpu_capture", "Capture on a GPU")
    report.introduce(__doc__)
    shape = f"{options.layers} layers of {options.width}, bfloat16, {size:.2f} GB captured"
    report.say(f"{name}; {shape}. {versions('torch', 'transformers')}")
    measured = interleaved(cases, options.rounds)
    add_table(report, "capture resid_post", measured, base="bare forward pass, no head")
    for case in ("copied to pinned memory", "residuum, to disk, fsynced"):
        report.say(f"{case}: {size / measured[case].median:.2f} GB/s")
    report.keep()


if __name__ == "__main__":
    main()
