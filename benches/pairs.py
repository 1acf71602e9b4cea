"""Models of the size of GPT-2 small with random weights, pairs of prompts, and their stores."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

import residuum
from capture import make_model

WORK = Path(".cache/bench/pairs")
N_TOKEN = 20
N_WORD = 50257


def pair(n_token: int = N_TOKEN, seed: int = 0, same: int = 3) -> torch.Tensor:
    """Ids of the clean and the corrupted prompt, `[2, token]`, alike before token `same`."""
    ids = torch.randint(0, 5000, (2, n_token), generator=torch.Generator().manual_seed(seed))
    ids[1, :same] = ids[0, :same]
    return ids


def shapes() -> dict[str, Callable[[], Any]]:
    """Models by name."""

    def gpt2() -> Any:  # noqa: ANN401
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=N_WORD)).eval()

    def neox() -> Any:  # noqa: ANN401
        torch.manual_seed(0)
        config = GPTNeoXConfig(
            vocab_size=N_WORD,
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
        )
        return GPTNeoXForCausalLM(config).eval()

    return {"GPT-2 small": gpt2, "GPT-NeoX 160m": neox}


def store_of(
    model: Any,  # noqa: ANN401
    name: str,
    ids: torch.Tensor,
    sites: Sequence[str] = ("resid_pre", "resid_final", "z"),
) -> residuum.Store:
    """The activations of prompts, `[prompt, token]`."""
    folder = WORK / name.replace(" ", "_")
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder / "model")
    _, tokenizer = make_model()
    tokenizer.save_pretrained(folder / "model")
    texts = [" ".join(f"w{i}" for i in row.tolist()) for row in ids]
    return residuum.capture(
        folder / "model",
        texts,
        folder / "run.residuum",
        sites=sites,
        device="cpu",
    )
