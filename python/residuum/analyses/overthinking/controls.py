"""Random heads to ablate beside the chosen ones.

They are heads that the model has, and none of the chosen. (The paper's code draws layers from the
range of heads and heads from that of layers.)
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from residuum.errors import ArgumentError

Head: TypeAlias = tuple[int, int]
"""Layer and head."""


def matched(chosen: Sequence[Head], n_head: int, seed: int) -> list[Head]:
    """As many other heads of the same layers.

    Raises:
        ArgumentError: a layer has fewer heads left than were chosen in it.
    """
    rng = np.random.default_rng([seed, 0])
    found: list[Head] = []
    for layer in sorted({layer for layer, _ in chosen}):
        taken = {head for at, head in chosen if at == layer}
        left = [head for head in range(n_head) if head not in taken]
        if len(left) < len(taken):
            message = (
                f"block {layer} has {n_head} heads, of which {len(taken)} are chosen: that leaves "
                f"{len(left)} for a control of the same layers"
            )
            raise ArgumentError(message)
        drawn = rng.choice(left, size=len(taken), replace=False)
        found += [(layer, int(head)) for head in sorted(drawn)]
    return found


def anywhere(chosen: Sequence[Head], n_layer: int, n_head: int, seed: int) -> list[Head]:
    """As many other heads of any layer.

    Raises:
        ArgumentError: fewer are left.
    """
    taken = set(chosen)
    left = [(la, h) for la in range(n_layer) for h in range(n_head) if (la, h) not in taken]
    if len(left) < len(taken):
        message = f"{len(taken)} heads are chosen of {n_layer * n_head}: too few are left to draw"
        raise ArgumentError(message)
    rng = np.random.default_rng([seed, 1])
    drawn = rng.choice(len(left), size=len(taken), replace=False)
    return sorted(left[number] for number in drawn)
