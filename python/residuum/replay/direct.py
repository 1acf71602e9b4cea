"""Linear replay: what a logit would be without the direct effects of any set of components.

With the final norm's divisor held at its captured value a logit is a sum over the components of the
stream, so that a mean ablation of a component's direct path puts its mean output in the place of
its own; no block is computed. What later components make of it is not followed: that is what
`Replay` is for. A soft-capped logit is meant before its cap. (Direct effects: Wang et al. 2022,
section 3; the mean ablation of Gandelsman et al. 2024 is the same sum over an image's embedding.)

    effects = direct_effects(store, to=[10], minus=[12], rows=range(100))
    effects.ablated([[effects.head(9, 6)], [effects.head(9, 6), effects.head(9, 9)]])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from residuum.errors import ArgumentError, SelectionError
from residuum.replay.components import components, row_products
from residuum.replay.numbers import rows_below, whole
from residuum.replay.readout import read_final, readout
from residuum.replay.source import a_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    from residuum.replay.components import Components
    from residuum.replay.readout import Readout
    from residuum.store import Store

    Wide = NDArray[np.float64]

COMPONENTS = pa.schema(
    [
        ("component", pa.string()),
        ("kind", pa.string()),
        ("layer", pa.int32()),
        ("head", pa.int32()),
    ]
)
_NONE = np.zeros(0, np.int64)
_BLOCK = 1024
"""Rows that are read at once."""


@dataclass(frozen=True, eq=False)
class DirectEffects:
    """Shares of a logit, or of a difference of logits.

    Attributes:
        components: a row for each: component (its name), kind, layer, head.
        shares: float64 `[row, component]`, in logits.
        means: float64 `[component]`, of the components' outputs before the norm divides them.
        divisors: float64 `[row]`, the norm's.
        logits: float64 `[row]`, the model's own.
    """

    components: pa.Table
    shares: Wide
    means: Wide
    divisors: Wide
    logits: Wide

    def head(self, layer: int, head: int) -> int:
        """The number of a head among the components."""
        return self.component(f"L{layer}H{head}")

    def mlp(self, layer: int) -> int:
        """The number of an MLP."""
        return self.component(f"L{layer} MLP")

    def component(self, name: str) -> int:
        """The number of a component by its name, as in `components`.

        Raises:
            SelectionError: it was not captured.
        """
        names = self.components["component"].to_pylist()
        if name not in names:
            message = f"{name} is not among the components that were captured: {', '.join(names)}"
            raise SelectionError(message)
        return int(names.index(name))

    def ablated(self, subsets: ArrayLike | Sequence[Sequence[int]]) -> Wide:
        """The logit of each row with the direct effects of subsets mean-ablated.

        Args:
            subsets: bool `[subset, component]`, or for each subset the numbers of its components.

        Returns:
            float64 `[subset, row]`, in logits.

        Raises:
            ArgumentError: a matrix of another width, or a component that is not there.
        """
        chosen = self._chosen(subsets)
        lost = self.shares - self.means / self.divisors[:, None]
        return np.asarray(self.logits - chosen.astype(np.float64) @ lost.T)

    def _chosen(self, subsets: ArrayLike | Sequence[Sequence[int]]) -> NDArray[np.bool_]:
        n = len(self.means)
        listed: list[Any] = list(subsets)  # type: ignore[arg-type]
        if listed and all(np.asarray(one).dtype == bool and len(one) for one in listed):
            matrix = np.stack(listed)
            if matrix.shape[1:] != (n,):
                message = f"the subsets are {list(matrix.shape)}, but there are {n} components"
                raise ArgumentError(message)
            return matrix
        bare = next((one for one in listed if np.ndim(one) == 0), None)
        if bare is not None:
            message = f"a subset is a list of components, not {bare!r}"
            raise ArgumentError(message)
        lists = [whole("components", one) if len(one) else _NONE for one in listed]
        chosen = np.zeros((len(lists), n), bool)
        for row, numbers in zip(chosen, lists, strict=True):
            outside = numbers[(numbers < 0) | (numbers >= n)]
            if len(outside):
                message = f"component {outside[0]} is not there: there are {n}, from 0"
                raise ArgumentError(message)
            row[numbers] = True
        return chosen


def direct_effects(
    store: Store,
    to: Sequence[int],
    minus: Sequence[int] = (),
    *,
    rows: ArrayLike | None = None,
    reference: ArrayLike | None = None,
) -> DirectEffects:
    """Read what every component adds directly to a logit.

    Args:
        store: with `z`, and as far as they count `embed` and `mlp_out`, and the final stream.
        to: token ids; their mean logit is explained.
        minus: token ids whose mean logit is subtracted.
        rows: token rows to explain; all by default.
        reference: rows over which means are taken; those that are explained by default.

    Raises:
        StoreError: the model has no unembedding, or its heads do not add to the stream.
        SiteError: `z` or the final stream was not captured.
        SelectionError: a row that the store does not have.
    """
    made = readout(a_store(store), analysis="direct_effects")
    terms = _Terms(
        made, components(store, analysis="direct_effects"), _ids(made, to), _ids(made, minus)
    )
    products, divisors, logits = terms.read(_rows(store, rows))
    others = products if reference is None else terms.read(_rows(store, reference))[0]
    shares = products / divisors[:, None]
    return DirectEffects(terms.table(), shares, others.mean(0), divisors, logits)


def _rows(store: Store, rows: ArrayLike | None) -> NDArray[np.int64]:
    n_row = store.rows["token"]
    return np.arange(n_row) if rows is None else rows_below(rows, n_row, store.path)


def _ids(readout: Readout, tokens: Sequence[int]) -> NDArray[np.int64]:
    """Token ids of the vocabulary, or none.

    Raises:
        ArgumentError: something else.
    """
    ids = whole("tokens", tokens) if len(tokens) else _NONE
    outside = ids[(ids < 0) | (ids >= readout.d_vocab)]
    if len(outside):
        message = (
            f"token {outside[0]} is not in the vocabulary, which has {readout.d_vocab}, from 0"
        )
        raise ArgumentError(message)
    return ids


class _Terms:
    """The direction of a logit before the final norm's division, and the parts that feed it."""

    def __init__(
        self,
        readout: Readout,
        parts: Components,
        to: NDArray[np.int64],
        minus: NDArray[np.int64],
    ) -> None:
        if not len(to):
            message = "direct_effects explains the logit of tokens: the list of tokens is empty"
            raise ArgumentError(message)
        self.norm, self.parts = readout.norm, parts
        self.direction, self.constant = readout.mean_linear(to, minus)

    def read(self, rows: NDArray[np.int64]) -> tuple[Wide, Wide, Wide]:
        """Products with the direction `[row, component]`, divisors `[row]` and logits `[row]`."""
        found = [self._block(rows[at : at + _BLOCK]) for at in range(0, len(rows), _BLOCK)]
        products, divisors, logits = map(np.concatenate, zip(*found, strict=True))
        return products, divisors, logits

    def _block(self, rows: NDArray[np.int64]) -> tuple[Wide, Wide, Wide]:
        final = read_final(self.parts.store, rows)
        divisors = self.norm.scale(final).astype(np.float64)
        heads, others = self.parts.contributions(rows, self.direction)
        products = np.concatenate([heads.reshape(len(rows), -1), others[:, self._apart()]], 1)
        logits = row_products(final, self.direction) / divisors + self.constant
        return products, divisors, logits

    def _apart(self) -> list[int]:
        """The parts that are no sums of heads, and not the constant."""
        return [number for number, part in enumerate(self.parts.parts[:-1]) if part.kind != "heads"]

    def table(self) -> pa.Table:
        """The components, in the order of the shares."""
        n_head = self.parts.w_o.shape[1]
        made: list[tuple[str, str, int | None, int | None]] = [
            (f"L{layer}H{head}", "head", layer, head)
            for layer in self.parts.layers
            for head in range(n_head)
        ]
        apart = [self.parts.parts[number] for number in self._apart()]
        made += [(part.name, part.kind, part.layer, None) for part in apart]
        return pa.Table.from_pylist(
            [dict(zip(COMPONENTS.names, one, strict=True)) for one in made], COMPONENTS
        )
