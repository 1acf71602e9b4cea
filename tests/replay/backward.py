"""The oracle of gradients: a forward and a backward pass of the unmodified model, with hooks."""

from typing import Any

import numpy as np
import tiny_models
import torch
from torch import nn

from residuum.capture.adapters import adapter_for


def blocks_of(model: nn.Module) -> list[nn.Module]:
    return adapter_for(type(model).__name__, "text").block_list(model)


def stream(output: tuple[torch.Tensor, ...] | torch.Tensor) -> torch.Tensor:
    """What a block gives, whatever it is wrapped in."""
    return output[0] if isinstance(output, tuple) else output


def loss_of(model: nn.Module, ids: list[int]) -> torch.Tensor:
    """The cross-entropy with the next token, summed over an example's tokens."""
    tokens = torch.tensor(ids)
    logits = model(tokens[None]).logits[0]
    return nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="sum")


def by_backward(
    name: str, examples: list[list[int]], dtype: torch.dtype = torch.float32
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """States from 0 and the gradient by each, `[row, d_model]`, example after example."""
    model = tiny_models.build(name, dtype)
    kept: list[torch.Tensor] = []

    def enter(module: nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> None:
        keep(module, args, args[0] if args else kwargs["hidden_states"])

    def keep(module: nn.Module, args: object, output: torch.Tensor) -> None:
        kept.append(stream(output))
        kept[-1].retain_grad()

    blocks_of(model)[0].register_forward_pre_hook(enter, with_kwargs=True)
    for block in blocks_of(model):
        block.register_forward_hook(keep)
    for ids in examples:
        loss_of(model, ids).backward()
    n_state = len(blocks_of(model)) + 1
    width = kept[0].shape[-1]
    states = [x.detach().reshape(-1, width).numpy() for x in kept]
    gradients = [x.grad.reshape(-1, width).numpy() for x in kept]
    return tuple(
        [np.concatenate(of[at::n_state]) for at in range(n_state)] for of in (states, gradients)
    )


def by_lens(name: str, examples: list[list[int]], state: np.ndarray) -> np.ndarray:
    """The logit lens' loss by a state `[row, d_model]`, which is put behind the last block."""
    model, out, begin = tiny_models.build(name, torch.float32), [], 0
    for ids in examples:
        x = torch.tensor(state[begin : begin + len(ids)]).requires_grad_()
        begin += len(ids)

        def put(module: nn.Module, args: object, output: torch.Tensor, x: torch.Tensor = x):
            given = x.reshape(stream(output).shape)
            return (given, *output[1:]) if isinstance(output, tuple) else given

        hook = blocks_of(model)[-1].register_forward_hook(put)
        loss_of(model, ids).backward()
        hook.remove()
        out.append(x.grad.numpy())
    return np.concatenate(out)
