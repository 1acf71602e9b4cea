"""The stages of a layerwise capture: what each stores, computes with, and hands on.

Stage 0 is the embedding, stage `l + 1` block l, the last one the readout. The stream that enters
block l, or behind the last block the readout, has the number l: stage n hands on stream n and
takes stream n - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from residuum.capture.readout import final_norm
from residuum.capture.wanted import Wanted
from residuum.sites import Site

if TYPE_CHECKING:
    from torch import nn

    from residuum.capture.adapters import Adapter
    from residuum.capture.layerwise.shell import Shell, Weight


@dataclass(frozen=True)
class Stage:
    """One step of a pass, which all batches take before the next one.

    Attributes:
        number: from 0, the embedding.
        n_layer: number of blocks of the model.
        wanted: the sites that it stores.
        weights: what it computes with.
        passed: what the model's code passes on the way there.
    """

    number: int
    n_layer: int
    wanted: Wanted
    weights: list[Weight]
    passed: list[Weight]

    @property
    def layer(self) -> int | None:
        """Its block; None for embedding and readout."""
        return self.number - 1 if 0 < self.number <= self.n_layer else None

    @property
    def enters(self) -> int | None:
        """Number of the stream that it takes."""
        return self.number - 1 if self.number else None

    @property
    def name(self) -> str:
        """For the progress bar."""
        if self.layer is not None:
            return f"layer {self.layer}"
        return "readout" if self.number else "embedding"


def stages(shell: Shell, adapter: Adapter, wanted: Wanted) -> list[Stage]:
    """The stages up to the last one that stores something."""
    model, blocks = shell.model, adapter.block_list(shell.model)
    n_layer = len(blocks)
    shares = [_share(adapter, wanted, number, n_layer) for number in range(n_layer + 2)]
    in_blocks = {id(w) for block in blocks for w in shell.under(block)}
    norm = final_norm(model, adapter)
    in_norm = {id(w) for w in shell.under(norm)}
    body = [w for w in shell.under(adapter.body(model)) if id(w) not in in_blocks]
    embedding = [w for w in body if id(w) not in in_norm]
    readout = _readout(shell, adapter, shares[-1], norm)
    out = []
    for number in range(max(n for n, share in enumerate(shares) if share) + 1):
        if number == 0:
            weights = embedding
        elif number <= n_layer:
            weights = shell.under(blocks[number - 1])
        else:
            weights = readout
        computed = {id(w) for w in weights}
        passed = [w for w in embedding if number and id(w) not in computed]
        out.append(Stage(number, n_layer, shares[number], weights, passed))
    return out


def _readout(
    shell: Shell, adapter: Adapter, wanted: Wanted, norm: nn.Module | None
) -> list[Weight]:
    """What lies behind the last block, as far as it is needed."""
    weights = shell.under(norm)
    if Site.POOLED in wanted.layers:
        weights += shell.under(adapter.projection(shell.model))
    if Site.LOGITS in wanted.layers:
        body = {id(part) for part in adapter.body(shell.model).modules()}
        weights += [w for w in shell.weights if any(id(m) not in body for m, _ in w.places)]
    return weights


def _share(adapter: Adapter, wanted: Wanted, number: int, n_layer: int) -> Wanted:
    """What a stage stores of all that is wanted."""
    share = {}
    for site, layers in wanted.layers.items():
        if site.has_layers:
            kept = tuple(layer for layer in layers if layer + 1 == number)
            if kept:
                share[site] = kept
        elif number == _stage_of(adapter, site, n_layer):
            share[site] = ()
    return Wanted(share)


def _stage_of(adapter: Adapter, site: Site, n_layer: int) -> int:
    """Where a site without layers is computed."""
    if site is Site.EMBED:
        return 0
    at_the_end = site is Site.LOGITS or (site is Site.POOLED and adapter.pooling == "projection")
    return n_layer + 1 if at_the_end else n_layer
