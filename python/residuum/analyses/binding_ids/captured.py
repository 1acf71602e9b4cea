"""A captured model as a subject: interventions become edits of `residuum.replay`.

A run overwrites the changed tokens at every layer and freezes all other context tokens, so that
replay computes the question's rows and the changed tokens' keys and values, and nothing else. The
edits are handed to replay's plan directly: thousands of small runs share what they can, which
patches, each looked up by itself, do not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.binding_ids.changes import changed, width
from residuum.analyses.binding_ids.subject import Scores, Turn
from residuum.errors import SiteError
from residuum.replay.edit import Edit
from residuum.replay.opening import replay
from residuum.replay.plan import Read, Run
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from residuum.analyses.binding_ids.prompts import Prompts
    from residuum.analyses.binding_ids.subject import Intervention
    from residuum.store import Store

    Ints = NDArray[np.int64]
    Floats = NDArray[Any]

RUNS = 4096
"""Replays that are planned together at most."""

VALUE_BYTES = 256 << 20
"""Of the values that the runs of one batch put in place, at most."""

LOGIT_BYTES = 64 << 20
"""Of logits in memory at once."""


class Captured:
    """A store and its replay."""

    def __init__(
        self, store: Store, model: str | None, *, device: str = "cpu", memory: str = "1GB"
    ) -> None:
        """Open the replay; see `residuum.replay.opening.replay` for what it raises."""
        self.replay = replay(store, model, device=device, memory=memory)
        self.n_layer = self.replay.of.n_layer
        table = store.examples.to_table(columns=["first_row", "n_token"])
        self._first_row = table["first_row"].to_numpy()
        self._n_token = table["n_token"].to_numpy()

    @property
    def rotary(self) -> bool:
        """Whether keys can be turned."""
        return self.replay.of.rotary is not None

    def values(self, example: Ints, token: Ints) -> Floats:
        """What entered every block at some tokens, `[row, layer, d_model]`."""
        rows, back = np.unique(self._first_row[example] + token, return_inverse=True)
        layers = [
            self.replay.source.read(Site.RESID_PRE, layer, rows) for layer in range(self.n_layer)
        ]
        return np.asarray(np.stack(layers, 1)[back])

    def scores(
        self, prompts: Prompts, candidates: Ints, interventions: Sequence[Intervention]
    ) -> Scores:
        """Ask every prompt under every intervention, in batches of neighbouring prompts.

        Raises:
            SiteError: keys are to be turned, but the model does not rotate them by position.
        """
        self._refuse_turns(interventions)
        shape = (len(interventions), len(prompts))
        logprob = np.empty((*shape, candidates.shape[1]))
        top = np.empty(shape, np.int64)
        for block in self._blocks(len(prompts), interventions):
            runs: list[Run] = []
            for changes in interventions:
                runs += self._runs(prompts, block, changes)
            stream = np.concatenate(self.replay.streams(runs))
            wanted = np.tile(candidates[block], (len(interventions), 1))
            found, best = self._read(stream, wanted)
            logprob[:, block] = found.reshape(len(interventions), len(block), -1)
            top[:, block] = best.reshape(len(interventions), -1)
        return Scores(logprob, top)

    def _refuse_turns(self, interventions: Sequence[Intervention]) -> None:
        turned = any(isinstance(change, Turn) for changes in interventions for change in changes)
        if turned and not self.rotary:
            message = (
                "keys cannot be moved: this model has no rotary positions. Its positions can be "
                "exchanged as whole columns (position_by=columns)"
            )
            raise SiteError(message)

    def _blocks(self, n_prompt: int, interventions: Sequence[Intervention]) -> Iterator[Ints]:
        """Numbers of prompts whose runs fit into memory together."""
        most = max((width(changes) for changes in interventions), default=0)
        each = 4 * self.n_layer * self.replay.of.d_model * max(most, 1) * len(interventions)
        size = max(1, min(RUNS // max(len(interventions), 1), VALUE_BYTES // each))
        for start in range(0, n_prompt, size):
            yield np.arange(start, min(start + size, n_prompt))

    def _runs(self, prompts: Prompts, block: Ints, changes: Intervention) -> list[Run]:
        """One run for each prompt of a block."""
        tokens, values = changed(self, prompts.example[block], changes, block)
        example, ctx_end = prompts.example[block], prompts.ctx_end[block]
        order = np.argsort(tokens, axis=1)
        tokens = np.take_along_axis(tokens, order, 1)
        values = np.take_along_axis(values, order[:, :, None, None], 1)
        shared = _Shared(self.n_layer)
        turns = [
            (change.tokens[block], change.steps[block])
            for change in changes
            if isinstance(change, Turn)
        ]
        runs = []
        for i, number in enumerate(example):
            n_token = int(self._n_token[number])
            edits = shared.frozen(tokens[i], int(ctx_end[i])) if changes else []
            at, there = shared.tokens(tokens[i]), values[i]
            if len(at):
                edits = [
                    *edits,
                    *(
                        Edit(Site.RESID_PRE, layer, at, shift=there[:, layer])
                        for layer in range(self.n_layer)
                    ),
                ]
            for where, steps in turns:
                edits = [*edits, *_turned(where[i], steps[i], self.n_layer)]
            last = shared.read(n_token)
            runs.append(Run(int(self._first_row[number]), n_token, edits, [last]))
        return runs

    def _read(self, stream: Floats, wanted: Ints) -> tuple[NDArray[np.float64], Ints]:
        """Log-probs of tokens and the likeliest token, for rows of the final stream."""
        logprob = np.empty(wanted.shape)
        top = np.empty(len(stream), np.int64)
        readout = self.replay.readout
        size = max(1, LOGIT_BYTES // (8 * readout.d_vocab))
        for start in range(0, len(stream), size):
            part = slice(start, start + size)
            logits = readout.logits(stream[part]).astype(np.float64)
            top[part] = logits.argmax(1)
            logits -= logits.max(1, keepdims=True)
            total = np.log(np.exp(logits).sum(1, keepdims=True))
            logprob[part] = np.take_along_axis(logits, wanted[part], 1) - total
        return logprob, top


class _Shared:
    """Edits and reads that runs have in common, made once."""

    def __init__(self, n_layer: int) -> None:
        self._n_layer = n_layer
        self._frozen: dict[tuple[bytes, int], list[Edit]] = {}
        self._reads: dict[int, Read] = {}
        self._tokens: dict[bytes, Ints] = {}

    def tokens(self, tokens: Ints) -> Ints:
        """The same positions as one array."""
        return self._tokens.setdefault(tokens.tobytes(), tokens)

    def frozen(self, tokens: Ints, ctx_end: int) -> list[Edit]:
        """Edits that hold all of a context but some tokens; before layer 0 nothing can change."""
        key = (tokens.tobytes(), ctx_end)
        if key not in self._frozen:
            rest = np.setdiff1d(np.arange(ctx_end), tokens)
            self._frozen[key] = [
                Edit(Site.RESID_PRE, layer, rest, cached=True) for layer in range(1, self._n_layer)
            ]
        return self._frozen[key]

    def read(self, n_token: int) -> Read:
        """The last token's final stream."""
        if n_token not in self._reads:
            last = np.array([n_token - 1])
            self._reads[n_token] = Read(Site.RESID_POST, self._n_layer - 1, last)
        return self._reads[n_token]


def _turned(tokens: Ints, steps: Ints, n_layer: int) -> list[Edit]:
    """Edits that turn keys; those that stay where they are have none."""
    moved = np.flatnonzero(steps)
    if not len(moved):
        return []
    order = moved[np.argsort(tokens[moved])]
    return [
        Edit(Site.K, layer, tokens[order], scale=1.0, turn=steps[order]) for layer in range(n_layer)
    ]
