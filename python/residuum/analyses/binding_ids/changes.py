"""What tokens hold after an intervention's changes, one made after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.binding_ids.subject import Exchange, Put, Shift

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from residuum.analyses.binding_ids.subject import Intervention, Subject

    Ints = NDArray[np.int64]
    Floats = NDArray[Any]


def width(changes: Intervention) -> int:
    """Tokens that an intervention changes in a prompt, at most."""
    return sum(
        change.first.shape[1] * 2 if isinstance(change, Exchange) else change.tokens.shape[1]
        for change in changes
    )


def changed(
    subject: Subject, example: Ints, changes: Intervention, block: Ints
) -> tuple[Ints, Floats]:
    """The tokens that are changed, and what they then hold at every layer.

    Those whose keys are turned are among them: their keys are computed anew, from what they hold.

    Args:
        subject: tells what tokens hold without a change.
        example: numbers of the block's prompts in the store, `[prompt]`.
        changes: whose arrays are of all prompts.
        block: which of these are asked about, `[prompt]`.

    Returns:
        tokens, int64 `[prompt, k]`, each once in a prompt; values `[prompt, k, layer, d_model]`.
    """
    columns = _Columns()
    places = [
        (columns.place(change.first[block]), columns.place(change.second[block]))
        if isinstance(change, Exchange)
        else (columns.place(change.tokens[block]), [])
        for change in changes
    ]
    if not columns.listed:
        return np.empty((len(block), 0), np.int64), np.empty((len(block), 0, 1, 1))
    tokens = np.stack(columns.listed, 1)
    values = _values(subject, example, tokens)
    for change, (at, other) in zip(changes, places, strict=True):
        if isinstance(change, Put):
            values[:, at] = _values(subject, change.example[block], change.donors[block])
        elif isinstance(change, Shift):
            values[:, at] += change.by.astype(values.dtype)
        elif isinstance(change, Exchange):
            values[:, at + other] = values[:, other + at]
    return tokens, values


class _Columns:
    """The distinct columns of tokens that changes name."""

    def __init__(self) -> None:
        self.listed: list[Ints] = []
        self._number: dict[bytes, int] = {}

    def place(self, tokens: Ints) -> list[int]:
        """Numbers of the columns of `[prompt, k]`."""
        found = []
        for column in tokens.T:
            key = column.tobytes()
            if key not in self._number:
                self._number[key] = len(self.listed)
                self.listed.append(column)
            found.append(self._number[key])
        return found


def _values(subject: Subject, example: Ints, tokens: Ints) -> Floats:
    """What entered every block at tokens `[prompt, k]`: `[prompt, k, layer, d_model]`."""
    n, k = tokens.shape
    found = subject.values(np.repeat(example, k), tokens.ravel())
    return found.reshape(n, k, *found.shape[1:])
