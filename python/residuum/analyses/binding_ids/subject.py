"""What the experiments ask: values of context tokens, and scores with some of them changed.

    Prompts and Interventions ──Subject.scores──▶ log-probs [intervention, prompt, candidate]

A subject freezes every context token at what it did in the plain pass, save those that an
intervention changes, and at every layer; question tokens are free. So the change is seen by the
question alone (without that, a changed entity would change the tokens behind it, and a swap would
mean nothing). `Captured` asks a store through replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from residuum.analyses.binding_ids.prompts import Prompts

    Ints = NDArray[np.int64]
    Floats = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Put:
    """Put what other prompts' tokens did in their place: tokens and donors `[prompt, k]`."""

    tokens: Ints
    example: Ints
    donors: Ints


@dataclass(frozen=True, eq=False)
class Shift:
    """Add the same vectors in every prompt: tokens `[prompt, k]`, by `[k, layer, d_model]`."""

    tokens: Ints
    by: Floats


@dataclass(frozen=True, eq=False)
class Exchange:
    """Exchange what two groups of tokens hold, `[prompt, k]` each, as far as it is changed yet."""

    first: Ints
    second: Ints


@dataclass(frozen=True, eq=False)
class Turn:
    """Rotate the keys of tokens so many positions further, `[prompt, k]` each; rotary models."""

    tokens: Ints
    steps: Ints


Change: TypeAlias = Put | Shift | Exchange | Turn

Intervention: TypeAlias = "tuple[Change, ...]"
"""Changes that are made one after another; none leaves the prompt as it is."""


@dataclass(frozen=True, eq=False)
class Scores:
    """What was said at the last token of each prompt.

    Attributes:
        logprob: of the candidates, over the whole vocabulary, nats, float64
            `[intervention, prompt, candidate]`.
        top: the most likely token of all, int64 `[intervention, prompt]`.
    """

    logprob: NDArray[np.float64]
    top: Ints


class Subject(Protocol):
    """A model that can be asked."""

    @property
    def rotary(self) -> bool:
        """Whether keys can be turned."""
        ...

    def values(self, example: Ints, token: Ints) -> Floats:
        """What entered every block at some tokens, `[row, layer, d_model]`."""
        ...

    def scores(
        self, prompts: Prompts, candidates: Ints, interventions: Sequence[Intervention]
    ) -> Scores:
        """Ask every prompt under every intervention; candidates `[prompt, candidate]` are tokens.

        Arrays of an intervention have the prompts along their first axis.
        """
        ...
