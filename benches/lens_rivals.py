"""The rivals of `lenses.py`: the trainer of the package tuned-lens, and torch in chunks of rows.

Of tuned-lens 0.2.0 run, as they are, `TunedLens` with its `Unembed`, and the trainer's `execute`:
the model's pass, KL and a backward pass for each layer, clipping, SGD, the checkpoint at the end.
Its data loader does not run: it is made of dataloader2, which torchdata no longer has. Empty
modules stand in for that, so that the trainer can be imported, and the loop is given batches of
ids, and the model, which it would otherwise load by name. Nor does it look for TransformerLens'
`HookedTransformer`, which version 4 no longer has.
"""

import contextlib
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torchdata
import tuned_lens.model_surgery
from numpy.typing import NDArray
from tuned_lens.nn import LogitLens, TunedLens

from residuum.lenses.states import States

tuned_lens.model_surgery._transformer_lens_available = False
NAMES = ("kl", "ce", "entropy", "agree")


@cache
def trainer() -> Any:  # noqa: ANN401
    """The module of the package's training loop."""
    for name in ("dataloader2", "datapipes"):
        absent = ModuleType(f"torchdata.{name}")
        absent.DataLoader2 = object  # type: ignore[attr-defined]
        sys.modules.setdefault(absent.__name__, absent)
        setattr(torchdata, name, absent)
    from tuned_lens.scripts import train_loop

    return train_loop


@dataclass(frozen=True)
class Training:
    """What the package trained: its lens, and the losses `[step][layer]`."""

    lens: Any
    losses: list[list[float]]


def trained(
    model: Any,  # noqa: ANN401
    batches: Sequence[torch.Tensor],
    rate_scale: float,
    folder: Path,
    *,
    autocast: bool,
) -> Training:
    """Train a lens as `tuned-lens train` does, a step a batch of ids `[example, token]`.

    `autocast` to bfloat16 is the package's way; without it, everything is float32.
    """
    loop, losses = trainer(), []
    run = loop.Train(
        model=None,
        data=None,
        opt=loop.ing.Optimizer(lr_scale=rate_scale),
        dist=loop.ing.Distributed(),
        output=folder,
        num_steps=len(batches),
    )
    fewer_words = contextlib.redirect_stdout(io.StringIO())
    no_bar = patch.object(loop, "trange", lambda first, last, **_: range(first, last))
    cast = patch.object(torch, "autocast", partial(torch.autocast, enabled=autocast))
    with fewer_words, no_bar, cast:
        lens = run.get_lens(model)
        optimizer = run.opt.create_optim([p for p in lens.parameters() if p.requires_grad])
        state = loop.State(
            dataloader=[{"input_ids": batch} for batch in batches],
            lens=lens,
            opt=optimizer,
            scheduler=run.opt.create_scheduler(optimizer, run.num_steps),
            wandb_id=None,
            nats_to_bpb=1.0,
        )
        run.setup = lambda: (state, model, 1)
        run._log = lambda _opt, _step, found, *_: losses.append(
            [value for of_layer in found.values() for value in of_layer]
        )
        run.execute()
    return Training(lens, losses)


@dataclass
class Sums:
    """Of one lens at one state: sums over rows, and the summed probabilities `[d_vocab]`."""

    marginal: torch.Tensor
    totals: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NAMES, 0.0))

    def add(self, log_q: torch.Tensor, truth: "Truth") -> None:
        """Take in the log-probabilities of some rows."""
        q = log_q.exp()
        at = truth.targets.clamp(min=0)[:, None]
        found = {
            "kl": truth.negentropy - (truth.p * log_q).sum(1),
            "entropy": -(q * log_q).sum(1),
            "ce": -log_q.gather(1, at)[:, 0][truth.targets >= 0],
            "agree": log_q.argmax(1) == truth.top,
        }
        for name, values in found.items():
            self.totals[name] += float(values.sum(dtype=torch.float64))
        self.marginal += q.sum(0)


class Truth:
    """What the model itself makes of some rows."""

    def __init__(self, log_p: torch.Tensor, targets: torch.Tensor) -> None:
        """`log_p` is `[row, d_vocab]`, `targets` `[row]`, negative for none."""
        self.p, self.targets = log_p.exp(), targets
        self.negentropy, self.top = (self.p * log_p).sum(1), log_p.argmax(1)


@torch.no_grad()
def chunked(
    states: States, lens: TunedLens, targets: NDArray[np.int32], chunk: int
) -> dict[tuple[str, int], Sums]:
    """KL, CE, entropy, agreement and marginals of both lenses at every state, by whole logits.

    The last state, which is the model's own, is looked at once.
    """
    lenses: dict[str, Any] = {"logit": LogitLens(lens.unembed), "tuned": lens}
    last = states.n_state - 1
    sums: dict[tuple[str, int], Sums] = {}
    for rows in chunks(len(targets), chunk):
        log_p = lens.unembed(read(states, last, rows)).log_softmax(1)
        truth = Truth(log_p, torch.from_numpy(targets[rows]).long())
        _add(sums, ("model", last), log_p, truth)
        del log_p
        for state in states.held[:-1]:
            h = read(states, state, rows)
            for name, one in lenses.items():
                _add(sums, (name, state), one(h, state).log_softmax(1), truth)
    return sums


def chunks(n_row: int, chunk: int) -> Iterator[slice]:
    """Rows, some at a time."""
    for first in range(0, n_row, chunk):
        yield slice(first, min(n_row, first + chunk))


def read(states: States, state: int, rows: slice) -> torch.Tensor:
    """Rows of a state, `[row, d_model]`."""
    return torch.from_numpy(states.read(state, rows))


def _add(
    sums: dict[tuple[str, int], Sums], key: tuple[str, int], log_q: torch.Tensor, truth: Truth
) -> None:
    if key not in sums:
        sums[key] = Sums(torch.zeros(log_q.shape[1], dtype=torch.float64))
    sums[key].add(log_q, truth)
