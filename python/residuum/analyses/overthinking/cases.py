"""What is ablated: named cases, and the edits of a replay that they come to.

All edits are made at one token, that before the last label: what it did to later tokens cannot
reach it, and its own keys and values are all of it that its later blocks read.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from residuum.analyses.overthinking.controls import Head
from residuum.errors import ArgumentError
from residuum.replay.edit import Edit
from residuum.sites import Site

if TYPE_CHECKING:
    from residuum.replay.engine import Replay
    from residuum.replay.weights import Weights

    Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Case:
    """One ablation.

    Attributes:
        name: as it stands in the table.
        heads: that are ablated; none where whole blocks are.
        blocks: that are ablated; none where heads are.
        seed: of random heads.
    """

    name: str
    heads: tuple[Head, ...] = ()
    blocks: tuple[int, ...] = ()
    seed: int | None = None

    @property
    def same(self) -> tuple[object, ...]:
        """What two cases that do the same have in common."""
        return (tuple(sorted(self.heads)), self.blocks, self.name == "late_mlp")

    @property
    def parts(self) -> str:
        """The heads or blocks in words."""
        if self.heads:
            return " ".join(f"L{layer}H{head}" for layer, head in self.heads)
        return " ".join(f"L{layer}" for layer in self.blocks)


class Editor:
    """Makes the edits of cases at the tokens of some prompts."""

    def __init__(
        self,
        replay: "Replay",
        weights: "Weights",
        rows: "Ints",
        tokens: "Ints",
        kind: str,
        *,
        mlp_bias: bool,
    ) -> None:
        """Take the tokens that count, one for each run.

        Args:
            replay: of the store.
            weights: of the model's blocks.
            rows: int64 `[run]`, in the store; means are over them, and others are drawn of them.
            tokens: int64 `[run]`, positions in their examples.
            kind: of `params.KINDS`.
            mlp_bias: leave the output bias of MLPs.

        Raises:
            ArgumentError: q, k and v cannot be zeroed head by head, because heads share them.
        """
        self.replay, self.rows, self.tokens = replay, rows, tokens
        self.weights, self.kind, self.mlp_bias = weights, kind, mlp_bias
        of = replay.of
        if kind == "uniform_qkv" and of.n_kv_head != of.n_head:
            message = (
                f"kind=uniform_qkv zeroes keys and values head by head, but the {of.n_head} heads "
                f"of this model share {of.n_kv_head}: use kind=zero"
            )
            raise ArgumentError(message)
        self._drawn = self._others()

    def edits(self, case: Case) -> list[list[Edit]]:
        """The edits of each run."""
        made: list[list[Edit]] = [[] for _ in self.rows]
        for site, layer, heads in self._places(case):
            values = self._values(site, layer, heads)
            for run, edits in enumerate(made):
                shift = None if values is None else values[run : run + 1]
                edits.append(Edit(site, layer, self.tokens[run : run + 1], heads, shift=shift))
        return made

    def _places(self, case: Case) -> list[tuple[Site, int, "Ints | None"]]:
        sites = (Site.Q, Site.K, Site.V) if self.kind == "uniform_qkv" else (Site.Z,)
        config = self.replay.store.model.get("config") or {}
        if case.blocks and config.get("model_type") == "gptj":
            sites = (Site.Z,)  # of whole blocks of GPT-J the paper's code zeroes what they give
        if case.name == "late_mlp":
            return [(Site.MLP_OUT, layer, None) for layer in case.blocks]
        if case.blocks:
            return [(site, layer, None) for layer in case.blocks for site in sites]
        by_layer: dict[int, list[int]] = {}
        for layer, head in case.heads:
            by_layer.setdefault(layer, []).append(head)
        return [
            (site, layer, np.array(sorted(heads)))
            for layer, heads in sorted(by_layer.items())
            for site in sites
        ]

    def _values(self, site: Site, layer: int, heads: "Ints | None") -> NDArray[Any] | None:
        """What is put in place, `[run, ...]`; None is zero."""
        if self.kind in ("zero", "uniform_qkv"):
            if site is not Site.MLP_OUT or not self.mlp_bias:
                return None
            bias = self.weights.block(layer).mlp_out.b
            return None if bias is None else np.broadcast_to(bias, (len(self.rows), len(bias)))
        source = self.replay.source
        if self.kind == "resample":
            return source.read(site, layer, self.rows[self._drawn], heads)
        read = source.read(site, layer, self.rows, heads)
        return np.broadcast_to(read.mean(0, dtype=np.float64).astype(read.dtype), read.shape)

    def _others(self) -> "Ints":
        """Another run for each, drawn evenly."""
        n = len(self.rows)
        number = np.random.default_rng(0).integers(1, n, size=n)
        return (np.arange(n) + number) % n
