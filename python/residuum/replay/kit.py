"""What an executor brings: arrays of its own, and a block's parts over packed rows.

`course` says which rows go through which part; a kit computes. There are two, `torch_kit` on any
device and `rust_kit` on the CPU, and each is the other's check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

Array: TypeAlias = Any
"""Of a kit: numpy's or torch's."""
Index: TypeAlias = "NDArray[np.int64]"


@dataclass(frozen=True, eq=False)
class Queries:
    """Rows whose attention is computed, in the order of their runs.

    Attributes:
        q: `[row, head, d_head]`, rotated.
        run, token: int64 `[row]`.
    """

    q: Array
    run: Index
    token: Index


@dataclass(frozen=True, eq=False)
class Keys:
    """Keys, rotated, and values, `[key, kv_head, d_head]`."""

    k: Array
    v: Array


@dataclass(frozen=True, eq=False)
class Seen:
    """Which keys there are for each run.

    Attributes:
        example: int64 `[run]`, the example of each.
        start: int64 `[example + 1]`, where the cached keys of each example begin, token 0 first.
        own_run, own_token: int64 `[key]`, whose the keys are that runs computed themselves, in the
            order of run and token.
        own: bool `[run, token]`, where there is such a key: it hides the cached one.
    """

    example: Index
    start: Index
    own_run: Index
    own_token: Index
    own: NDArray[np.bool_]


@dataclass(frozen=True)
class Look:
    """How scores are made, and which of them count: those of no later key and within the window."""

    scaling: float
    softcap: float | None
    window: int | None
    causal: bool


Change: TypeAlias = "Callable[[Array, Index], Array]"
"""Takes the pattern `[row, head, token]` of some queries, and which they are; gives the new one."""


class Part(Protocol):
    """A product with weights, and its bias, or what is made of several."""

    def __call__(self, x: Array, onto: Array | None = None) -> Array:
        """`[row, in]` -> `[row, out]`; added in place to `onto`, and that, where it is given."""
        ...


class Block(Protocol):
    """The parts of one block, `[row, in]` -> `[row, out]`."""

    @property
    def n_norm(self) -> int:
        """How many norms stand before the branches: 1 where these share it."""
        ...

    @property
    def has_branch_norms(self) -> bool:
        """Whether norms stand behind the branches."""
        ...

    def norm(self, number: int, x: Array) -> Array:
        """Of attention (0) or of the MLP (1)."""
        ...

    def branch_norm(self, number: int, x: Array) -> Array:
        """Of what attention (0) or the MLP (1) gives."""
        ...

    @property
    def q(self) -> Part:
        """Queries, `[row, head * d_head]`."""
        ...

    @property
    def k(self) -> Part:
        """Keys, `[row, kv_head * d_head]`."""
        ...

    @property
    def v(self) -> Part:
        """Values, like keys."""
        ...

    @property
    def out(self) -> Part:
        """W_O and its bias."""
        ...

    def mlp(self, x: Array, onto: Array | None = None) -> Array:
        """The MLP, its norm apart; a `Part`."""
        ...


class Kit(Protocol):
    """Computes for one model."""

    def array(self, values: NDArray[Any]) -> Array:
        """Numbers as an array of the kit's, in its dtype; a copy where `values` is not ours."""
        ...

    def gathered(self, first: Array, second: Array, rows: Index) -> Array:
        """Rows of two arrays, counted through both."""
        ...

    def index(self, rows: NDArray[Any]) -> Any:  # noqa: ANN401
        """Row numbers as what the kit's arrays are indexed with."""
        ...

    def numpy(self, x: Array) -> NDArray[Any]:
        """Numbers for the outside."""
        ...

    def block(self, layer: int) -> Block:
        """The parts of a block."""
        ...

    def rotated(self, x: Array, tokens: Index) -> Array:
        """`[row, head, d_head]`, rotated by the position of each row where the model rotates."""
        ...

    def attend(
        self,
        queries: Queries,
        cached: Keys,
        own: Keys,
        seen: Seen,
        look: Look,
        change: Change | None,
    ) -> Array:
        """Pattern-weighted values: z, `[row, head, d_head]`."""
        ...
