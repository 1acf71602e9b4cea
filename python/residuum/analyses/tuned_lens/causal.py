"""Causal bases, their fidelity to the model by replay (T5), and alignment (T6).

A direction is taken out of a state, for the lens and for the model: how far does each move, and do
both move the same way? Random directions are the control.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.analyses.tuned_lens.alignment import Alignment
from residuum.analyses.tuned_lens.ranks import spearman
from residuum.lenses.causal import Energy, Search, extracted, random_directions
from residuum.lenses.removal import instead, removed
from residuum.replay.edit import Edit
from residuum.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import pyarrow as pa
    from numpy.typing import NDArray

    from residuum.analyses.tuned_lens.replayed import Change, Replayed
    from residuum.analyses.tuned_lens.study import Study

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]

BASIS, RANDOM = "basis", "random"
EVALUATIONS, TOLERANCE = 100, 1e-4
"""Of the energy for each vector, and the relative change at which it is found, as in the paper."""


@dataclass(frozen=True, eq=False)
class Directions:
    """Of one layer: those of the basis, then random ones.

    Attributes:
        vectors: `[direction, d_model]`.
        energies: nats, by the tuned lens.
        kinds, ranks: of each.
        put: what takes the place of the states along them.
    """

    layer: int
    vectors: Doubles
    energies: Doubles
    kinds: list[str]
    ranks: list[int]
    put: Floats


def directions(study: Study, replayed: Replayed, layer: int) -> Directions:
    """Extract the basis of a layer, and draw random directions beside it."""
    of, h = study.params, replayed.states(layer)
    put = instead(h, of.removal, of.seed)
    energy = Energy(study.readout, study.lens, layer, h, put)
    n = min(of.directions, h.shape[1])
    search = Search(EVALUATIONS, TOLERANCE, of.starts, of.seed)
    basis = extracted(energy, n, search)
    drawn = random_directions(of.random_directions, h.shape[1], of.seed + layer)
    kinds = [BASIS] * n + [RANDOM] * len(drawn)
    return Directions(
        layer,
        np.concatenate([basis.vectors, drawn]),
        np.concatenate([basis.energies, energy(drawn)]) if len(drawn) else basis.energies,
        kinds,
        [*range(n), *range(len(drawn))],
        put,
    )


def taken_out(of: Directions, number: int) -> Change:
    """A direction taken out of what enters a block, in the model."""
    vector = of.vectors[number][None]

    def change(place: slice) -> Edit:
        n = place.stop - place.start
        put = np.broadcast_to(of.put if len(of.put) == 1 else of.put[place], (n, len(vector[0])))
        shift = put @ vector.T @ vector
        return Edit(Site.RESID_PRE, of.layer, np.arange(n), scale=1.0, off=vector, shift=shift)

    return change


class Causal:
    """The tables `causal_basis` and `alignment`, in one pass over layers and directions."""

    def __init__(self, study: Study, replayed: Replayed) -> None:
        """Do all layers but the last."""
        self.study, self.replayed = study, replayed
        self.basis: list[Mapping[str, Any]] = []
        self.aligned: list[Mapping[str, Any]] = []
        aligning = Alignment(study, replayed) if study.wants("alignment") else None
        for layer in study.layers[:-1]:
            of = directions(study, replayed, layer)
            changes = [taken_out(of, number) for number in range(len(of.vectors))]
            for number, stream in enumerate(replayed.streams(changes)):
                self.basis.append(self._row(of, number, replayed.divergence(stream)))
                if aligning is not None:
                    self.aligned += self._aligned(aligning, of, number, stream)

    def _row(self, of: Directions, number: int, model_kl: float) -> Mapping[str, Any]:
        return {
            "model": self.study.model,
            "layer": of.layer,
            "kind": of.kinds[number],
            "rank": of.ranks[number],
            "energy": float(of.energies[number]),
            "model_kl": model_kl,
            "n_tokens": self.replayed.n,
            "vector": of.vectors[number].astype(np.float32),
        }

    def _aligned(
        self, aligning: Alignment, of: Directions, number: int, stream: Floats
    ) -> Iterator[Mapping[str, Any]]:
        h = self.replayed.states(of.layer)
        without = removed(h, of.vectors[number], of.put)
        moved = {
            name: (
                self.study.normed(lens, of.layer, h),
                self.study.normed(lens, of.layer, without),
            )
            for name, lens in self.study.names.items()
        }
        for found in aligning.of(moved, stream):
            yield {
                "model": self.study.model,
                "layer": of.layer,
                "kind": of.kinds[number],
                "rank": of.ranks[number],
                **found,
            }


def fidelity(study: Study, basis: pa.Table) -> Iterable[dict[str, Any]]:
    """Rows of the table `fidelity`: does what moves the lens move the model, layer by layer."""
    layer, energy, moved = (basis[name].to_numpy() for name in ("layer", "energy", "model_kl"))
    kind = np.array(basis["kind"].to_pylist(), dtype=object)
    for one in np.unique(layer).tolist():
        mine, drawn = layer == one, kind[layer == one] == RANDOM
        lens, model = energy[mine], moved[mine]
        control = float(model[drawn].mean()) if drawn.any() else None
        yield {
            "model": study.model,
            "layer": one,
            "spearman": spearman(lens, model) if len(lens) > 2 else None,
            "spearman_basis": spearman(lens[~drawn], model[~drawn]) if (~drawn).sum() > 2 else None,
            "model_kl_top": float(model[~drawn][0]),
            "model_kl_basis": float(model[~drawn].mean()),
            "model_kl_random": control,
            "top_over_random": float(model[~drawn][0]) / control if control else None,
            "basis_over_random": float(model[~drawn].mean()) / control if control else None,
            "n_directions": len(lens),
            "n_random": int(drawn.sum()),
        }
