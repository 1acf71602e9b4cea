"""What an executor does: it runs plans. There are two, and each is the other's check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from residuum.replay.plan import Plan
    from residuum.sites import Site


class Cached(Protocol):
    """What the store holds."""

    def read(self, site: Site, layer: int, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Rows of a site at a layer, `[row, ...]`."""
        ...

    def has(self, site: Site, layer: int) -> bool:
        """Whether `read` would find it."""
        ...


@dataclass(frozen=True, eq=False)
class Found:
    """What runs computed at one site and layer.

    Attributes:
        run, token: int64 `[row]`, whose rows these are; ascending.
        values: `[row, ...]`.
    """

    run: NDArray[np.int64]
    token: NDArray[np.int64]
    values: NDArray[Any]


class Executor(Protocol):
    """Computes what a plan says."""

    def run(self, plan: Plan, cached: Cached) -> Mapping[tuple[Site, int], Found]:
        """By site and layer, the rows that runs were asked for and changed.

        All others are as the store has them.
        """
        ...
