"""Capture of resid_post and z from a GPT-2-small shape, 64 prompts of 128 tokens, on this machine.

The same forward passes, in batches of 4 prompts, by everyone: bare, with the head and without it;
residuum to its store, which leaves the head out; plain hooks, TransformerLens' `run_with_cache` and
nnsight, each with `torch.save`. The weights are random.
residuum's time holds all that a capture does: tokenise, hash model and input, write, fsync and
commit. Nobody else syncs.

    python benches/capture.py [--rounds 3] [--prompts 64]
"""

import argparse
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import residuum
from common import Case, add_table, folder_bytes, interleaved
from findings import Report, versions
from residuum.sites import Site
from residuum.store import ArrayPlan, StoreWriter

WORK = Path(".cache/bench/capture")
N_TOKEN, BATCH = 128, 4
N_WORD = 50257
SITES = ("resid_post", "z")

Trace = dict[str, torch.Tensor]


def make_model(n_layer: int = 12) -> tuple[GPT2LMHeadModel, PreTrainedTokenizerFast]:
    """GPT-2-small's shape with random weights, and a tokenizer that knows the words w0, w1, …."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=N_WORD, n_layer=n_layer)).eval()
    raw = Tokenizer(models.WordLevel({f"w{i}": i for i in range(N_WORD)}, unk_token="w0"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict.fromkeys(("pad_token", "eos_token", "bos_token"), "w0")
    folder = WORK / "tokenizer"  # TransformerLens loads a tokenizer again, by its name
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(folder)
    return model, PreTrainedTokenizerFast.from_pretrained(folder)


def make_prompts(n_prompt: int, n_word: int = N_WORD) -> list[str]:
    """Prompts of exactly `N_TOKEN` words, drawn from the first `n_word`."""
    draw = random.Random(0)
    return [" ".join(f"w{draw.randrange(n_word)}" for _ in range(N_TOKEN)) for _ in range(n_prompt)]


def batches(ids: torch.Tensor) -> Iterator[torch.Tensor]:
    """Token ids of `BATCH` prompts at a time, [example, token]."""
    yield from ids.split(BATCH)


@torch.no_grad()
def bare(model: GPT2LMHeadModel, ids: torch.Tensor) -> None:
    """The forward passes alone."""
    for batch in batches(ids):
        model(input_ids=batch, use_cache=False)


@torch.no_grad()
def headless(model: GPT2LMHeadModel, ids: torch.Tensor) -> None:
    """The forward passes without the unembedding, which no one needs who does not store logits."""
    for batch in batches(ids):
        model.transformer(input_ids=batch, use_cache=False)


@torch.no_grad()
def hooked(model: GPT2LMHeadModel, batch: torch.Tensor) -> Trace:
    """One batch with plain hooks: `resid_post.L` and `z.L`, [example, token, feature]."""
    trace: Trace = {}

    def keep_output(name: str) -> Callable[[object, object, object], None]:
        def hook(_module: object, _args: object, output: object) -> None:
            trace[name] = output[0] if isinstance(output, tuple) else output  # type: ignore[assignment]

        return hook

    def keep_input(name: str) -> Callable[[object, tuple[torch.Tensor, ...]], None]:
        def hook(_module: object, args: tuple[torch.Tensor, ...]) -> None:
            trace[name] = args[0]

        return hook

    handles = []
    for layer in range(model.config.n_layer):
        block = model.get_submodule(f"transformer.h.{layer}")
        project = block.get_submodule("attn.c_proj")
        handles.append(block.register_forward_hook(keep_output(f"resid_post.{layer}")))
        handles.append(project.register_forward_pre_hook(keep_input(f"z.{layer}")))
    model(input_ids=batch, use_cache=False)
    for handle in handles:
        handle.remove()
    return trace


def save_each(name: str, ids: torch.Tensor, trace: Callable[[torch.Tensor], Trace]) -> None:
    """Trace every batch and `torch.save` it."""
    folder = fresh(name)
    folder.mkdir(parents=True)
    for number, batch in enumerate(batches(ids)):
        torch.save(trace(batch), folder / f"{number}.pt")


def fresh(name: str) -> Path:
    """A folder's path, with nothing there."""
    shutil.rmtree(WORK / name, ignore_errors=True)
    return WORK / name


def ours(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> Path:
    """The whole of `residuum.capture`, to a new store."""
    out = fresh("run.residuum")
    residuum.capture(
        (model, tokenizer),
        prompts,
        out,
        sites=SITES,
        batch_tokens=BATCH * N_TOKEN,
        memory="256MB",
    )
    return out


def transformer_lens(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast
) -> Callable[[torch.Tensor], Trace]:
    """TransformerLens' way: `run_with_cache` with a names filter."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers("gpt2", hf_model=model, tokenizer=tokenizer)
    endings = ("hook_resid_post", "attn.hook_z")

    @torch.no_grad()
    def trace(batch: torch.Tensor) -> Trace:
        _, cache = bridge.run_with_cache(batch, names_filter=lambda name: name.endswith(endings))
        return {
            f"{site}.{layer}": cache[site, layer].flatten(2)
            for layer in range(model.config.n_layer)
            for site in SITES
        }

    return trace


def nnsight(model: GPT2LMHeadModel) -> Callable[[torch.Tensor], Trace]:
    """Read nnsight's way: a trace that saves each block's output and what enters `c_proj`."""
    from nnsight import NNsight

    wrapped = NNsight(model)

    @torch.no_grad()
    def trace(batch: torch.Tensor) -> Trace:
        kept = {}
        with wrapped.trace(input_ids=batch, use_cache=False):
            for layer, block in enumerate(wrapped.transformer.h):
                kept[f"z.{layer}"] = block.attn.c_proj.input.save()
                kept[f"resid_post.{layer}"] = block.output.save()
        return kept

    return trace


def written(traces: dict[str, NDArray[np.float32]]) -> None:
    """Write `[row, layer, ...]` of each site out of memory, as a capture does it."""
    plans = [
        ArrayPlan(Site(site), values.shape[1], range(values.shape[1]), values.shape[2:], "float32")
        for site, values in traces.items()
    ]
    out = fresh("written.residuum")
    step = BATCH * N_TOKEN
    with StoreWriter.create(
        out, model={}, capture={}, arrays=plans, target=False, memory_bytes=256_000_000
    ) as writer:
        n_row = len(traces[SITES[0]])
        for start in range(0, n_row, step):
            runs = np.array([[0, start, min(step, n_row - start)]])
            for site, values in traces.items():
                for layer in range(values.shape[1]):
                    writer.write(site, layer, values[start : start + step, layer], runs)
        writer.commit(complete=True, n_example=0, rows={"token": n_row, "example": 0})


def in_writer(capture: Callable[[], object]) -> tuple[float, float]:
    """Seconds that a capture's own thread spends in `StoreWriter`: with rows, and with commits."""
    spent = dict.fromkeys(("write", "flush", "commit"), 0.0)

    def timed(name: str) -> Callable[..., Any]:
        method = getattr(StoreWriter, name)

        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401  as the method's
            started = time.perf_counter()
            done = method(*args, **options)
            spent[name] += time.perf_counter() - started
            return done

        return call

    with ExitStack() as patches:
        for name in spent:
            patches.enter_context(patch.object(StoreWriter, name, timed(name)))
        capture()
    return spent["write"], spent["flush"] + spent["commit"]


def assert_same(name: str, got: Trace, want: Trace) -> None:
    """Every site and layer of a trace is the model's own, to rounding."""
    for key, tensor in want.items():
        close = torch.allclose(got[key], tensor, rtol=1e-4, atol=1e-4)
        assert close, f"{name}: {key} is not what the model computed"


def assert_stored(path: Path, ids: torch.Tensor, model: GPT2LMHeadModel) -> None:
    """The first and last batch in the store are the model's own."""
    store = residuum.open(path)
    for first in (0, len(ids) - BATCH):
        want = hooked(model, ids[first : first + BATCH])
        rows = slice(first * N_TOKEN, (first + BATCH) * N_TOKEN)
        for key, tensor in want.items():
            site, layer = key.split(".")
            got = torch.from_numpy(store[site].read(rows=rows, layers=int(layer)))
            assert_same("residuum", {key: got.reshape(tensor.shape)}, {key: tensor})


def main() -> None:
    """Check the answers, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=64)
    options = parser.parse_args()
    model, tokenizer = make_model()
    prompts = make_prompts(options.prompts)
    ids = torch.tensor([tokenizer.encode(prompt) for prompt in prompts])

    peers = {"hooks": lambda batch: hooked(model, batch), "nnsight": nnsight(model)}
    peers["TransformerLens"] = transformer_lens(*make_model())  # it changes the model it is given
    want = hooked(model, ids[:BATCH])
    for name, trace in peers.items():
        assert_same(name, trace(ids[:BATCH]), want)
    run = ours(model, tokenizer, prompts)
    assert_stored(run, ids, model)
    traces = {site: residuum.open(run)[site].read() for site in SITES}

    cases = {
        "bare forward pass": Case(lambda: bare(model, ids)),
        "the same without the head": Case(lambda: headless(model, ids)),
        "residuum, to disk, fsynced": Case(lambda: ours(model, tokenizer, prompts)),
        "its writing alone, of arrays in memory": Case(lambda: written(traces)),
    }
    for name, trace in peers.items():
        cases[f"{name} + torch.save"] = Case(partial(save_each, name, ids, trace))
    measured = interleaved(cases, options.rounds)
    report = Report("capture", "Capture")
    report.introduce(__doc__)
    stored, saved = (folder_bytes(WORK / name) / 1e6 for name in ("run.residuum", "hooks"))
    report.say(f"A store holds {stored:.0f} MB, a folder of `torch.save` {saved:.0f} MB.")
    packages = ("torch", "transformers", "transformer-lens", "nnsight")
    report.say(f"Medians of {options.rounds}. {versions(*packages)}")
    add_table(report, "capture", measured, base="bare forward pass")
    writing = measured["its writing alone, of arrays in memory"].median
    handing, ending = in_writer(lambda: ours(model, tokenizer, prompts))
    report.say(
        f"Writing takes {writing:.1f} s by itself. In a capture the thread of the model spends "
        f"{handing:.1f} s with handing rows over, and {ending:.1f} s with commits, which wait for "
        "the disk; the rest of the writing goes on beside the passes."
    )
    report.keep()


if __name__ == "__main__":
    main()
