"""The directions of a state that a lens' predictions rest on most (causal basis extraction).

Belrose et al. 2023, section 4. The energy of a direction is how far the lens' prediction moves when
the direction is taken out of the state; the basis is found greedily, each vector at right angles to
those before. (The package starts from singular vectors of the transposed unembedding, which works
for the logit lens alone; here its rows go through the translator first.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum import kernels
from residuum.errors import ArgumentError
from residuum.lenses.lbfgs import minimise
from residuum.lenses.norm_gradient import norm_gradient
from residuum.lenses.removal import instead
from residuum.lenses.states import States
from residuum.lenses.tuned import TunedLens
from residuum.replay.readout import readout

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from residuum.replay.readout import Readout
    from residuum.store import Store

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

MORE = 8
"""Starts that are looked at beside as many as there are vectors to find."""
TOGETHER = 4
"""Directions whose energies are computed at once."""


@dataclass(frozen=True)
class Search:
    """How directions are looked for; see `causal_basis`."""

    evaluations: int = 100
    tolerance: float = 1e-4
    starts: int = 1
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Basis:
    """Directions of one state, the strongest first.

    Attributes:
        vectors: float64 `[direction, d_model]`, orthonormal.
        energies: float64 `[direction]`, nats a token.
    """

    vectors: Doubles
    energies: Doubles


class Energy:
    """`E(v)`: mean KL of the lens' predictions, from as they are to without v."""

    def __init__(self, of: Readout, lens: TunedLens, state: int, h: Floats, put: Floats) -> None:
        """Of states `h [row, d_model]`; `put` is what takes their place along directions."""
        self.of, self.lens, self.state, self.h = of, lens, state, h
        self.away = put - h
        self.reference = of.norm.apply(lens.translated(state, h))

    def __call__(self, directions: Doubles) -> Doubles:
        """Of unit vectors `[direction, d_model]`: `[direction]`, in nats a token."""
        found = []
        for at in range(0, len(directions), TOGETHER):
            each = [self._moved(v)[0] for v in directions[at : at + TOGETHER]]
            loss, _ = self._learn(np.stack(each))
            # Rounding leaves the KL of what does not move a little below 0.
            found.append(np.maximum(0.0, loss.mean(1, dtype=np.float64)))
        return np.concatenate(found)

    def gradient(self, v: Doubles) -> tuple[float, Doubles]:
        """Of a unit vector: its energy, and that by the vector's entries."""
        moved, along = self._moved(v)
        loss, by_normed = self._learn(moved[None])
        g = norm_gradient(self.of.norm, moved, by_normed[0])
        translator = self.lens.translators.get(self.state)
        if translator is not None:
            g = g + g @ translator.weight
        by_v = along @ g + (g @ v.astype(np.float32)) @ self.away
        return float(loss.mean(dtype=np.float64)), by_v.astype(np.float64) / len(self.h)

    def _moved(self, v: Doubles) -> tuple[Floats, Floats]:
        """The states without v, translated; and how far each went along v."""
        narrow = v.astype(np.float32)
        along = self.away @ narrow
        without = np.asarray(self.h + along[:, None] * narrow, np.float32)
        return self.lens.translated(self.state, without), np.asarray(along, np.float32)

    def _learn(self, moved: Floats) -> tuple[Floats, Floats]:
        of, flat = self.of, moved.reshape(-1, moved.shape[-1])
        return kernels.lens_gradients(
            of.norm.apply(flat).reshape(moved.shape),
            of.w_u,
            bias=of.b_u,
            reference=self.reference,
            logit_scale=of.logit_scale,
            softcap=of.logit_softcap,
        )


def causal_basis(
    store: Store,
    lens: TunedLens | None,
    state: int,
    *,
    n: int = 6,
    rows: Any = None,  # noqa: ANN401  as of `read`
    removal: str = "mean",
    seed: int = 0,
    evaluations: int = 100,
    tolerance: float = 1e-4,
    starts: int = 1,
) -> Basis:
    """The directions of a state that the lens' predictions rest on most.

    Args:
        store: with that state and an unembedding.
        lens: tuned; None is the logit lens.
        state: 0 is the embedding, s what enters block s.
        n: how many directions.
        rows: of the store, over whose tokens energies are means; all by default. Some arrays of
            float32 `[row, d_model]` are in memory.
        removal: what is put along a direction: "mean" of these rows, "zero", or "resample", what
            another of the rows has.
        seed: of the resampling, and of starts that are drawn.
        evaluations: of the energy and its gradient for each direction, at most.
        tolerance: relative change of the energy at which a direction is found.
        starts: from how many directions each is looked for, the best end kept: half are those of
            the unembedding and the states that have most energy, half drawn. There can be several
            places that no small step improves, and more starts find better ones, at the cost of as
            many times the evaluations. One is as in the paper: the best of the first kind.

    Raises:
        SiteError: the store does not hold the state.
        StoreError: the model has no unembedding, or a number of the state is none.
        ArgumentError: more directions than the stream has, or settings that mean nothing.
    """
    of, states = readout(store, analysis="causal_basis"), States(store, analysis="causal_basis")
    d_model = int(store.model["d_model"])
    lens = lens or TunedLens.untrained(states.n_state, d_model)
    if not 0 < n <= d_model:
        message = f"a basis of {n} directions: the stream has 1 to {d_model}"
        raise ArgumentError(message)
    if starts < 1:
        message = f"directions are looked for from one start at least, not {starts}"
        raise ArgumentError(message)
    h = states.finite(state, slice(None) if rows is None else np.asarray(rows))
    energy = Energy(of, lens, state, h, instead(h, removal, seed))
    search = Search(evaluations, tolerance, starts, seed)
    return extracted(energy, n, search)


def extracted(energy: Energy, n: int, search: Search) -> Basis:
    """Greedily, each vector in what those before leave; sorted by energy at the end."""
    known, rng = _starts(energy, n + MORE), np.random.default_rng(search.seed)
    found: list[Doubles] = []
    for _ in range(n):
        left = _complement(found, known)
        best = np.argsort(-energy(left), kind="stable")[: (search.starts + 1) // 2]
        drawn = _complement(found, rng.standard_normal((search.starts // 2, left.shape[1])))
        ends = [_end(energy, found, v, search) for v in [*left[best], *drawn]]
        found.append(_complement(found, min(ends, key=lambda end: end[1])[0][None])[0])
    vectors = np.stack(found)
    energies = energy(vectors)
    order = np.argsort(-energies, kind="stable")
    return Basis(vectors[order], energies[order])


def _end(
    energy: Energy, found: Sequence[Doubles], start: Doubles, search: Search
) -> tuple[Doubles, float]:
    """Where a search ends from one start, and the energy there less than zero."""

    def falling(w: Doubles) -> tuple[float, Doubles]:
        """The energy less than zero, of any vector: put into the complement, of length 1."""
        (inside,) = _projected(found, w[None])
        size = float(np.linalg.norm(inside))
        v = inside / size
        value, gradient = energy.gradient(v)
        (by_inside,) = _projected(found, gradient[None])
        return -value, (v * (v @ by_inside) - by_inside) / size

    return minimise(falling, start, evaluations=search.evaluations, tolerance=search.tolerance)


def random_directions(n: int, d_model: int, seed: int) -> Doubles:
    """Unit vectors that point anywhere, `[n, d_model]`: the control."""
    drawn = np.random.default_rng(seed).standard_normal((n, d_model))
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def _starts(energy: Energy, n: int) -> Doubles:
    """Leading right singular vectors of the translated unembedding, and what states make of them.

    A vector matters by what the vocabulary reads of it, and by how far states go along it.
    """
    of, h = energy.of, energy.h
    read = of.w_u.astype(np.float64) - of.w_u.mean(1, dtype=np.float64, keepdims=True)
    if of.norm.weight is not None:
        read *= (np.asarray(of.norm.weight, np.float64) + of.norm.offset)[:, None]
    if of.norm.kind == "layer_norm":
        read -= read.mean(0, keepdims=True)
    gram = read @ read.T
    translator = energy.lens.translators.get(energy.state)
    if translator is not None:
        to = np.eye(len(gram)) + translator.weight
        gram = to.T @ gram @ to
    _, vectors = np.linalg.eigh(gram)
    leading = vectors.T[::-1][:n]
    away = energy.away.astype(np.float64)
    spread = leading @ (away.T @ away) / len(h)
    return np.concatenate([leading, spread])


def _projected(found: Sequence[Doubles], vectors: Doubles) -> Doubles:
    """What of vectors `[n, d_model]` is at right angles to what was found."""
    for _ in range(2):  # the second takes out what rounding left
        for v in found:
            vectors = vectors - np.outer(vectors @ v, v)
    return vectors


def _complement(found: Sequence[Doubles], vectors: Doubles) -> Doubles:
    """The same of length 1; those of which nothing is left are dropped."""
    size = np.linalg.norm(vectors, axis=1)
    inside = _projected(found, vectors[size > 0] / size[size > 0, None])
    left = np.linalg.norm(inside, axis=1)
    kept = left > 1e-6
    return np.asarray(inside[kept] / left[kept, None])
