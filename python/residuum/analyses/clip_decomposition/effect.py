"""T1: direct effects of components, by variance, by length and by the margin of the class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.clip_decomposition.study import Study

    Floats = NDArray[np.float32]
    Wide = NDArray[np.float64]


def effect(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of the table `effect`, in the study's convention and unit."""
    margins = _margins(study)
    total, parts = _Spread(), _Spread()
    for _, some in study.blocks(np.eye(study.stored.tower.d_embed, dtype=np.float32)):
        total.add(some.total[:, None])
        parts.add(some.shares)
    whole = float(total.variance[0])
    for number, part in enumerate(study.components.to_pylist()):
        # Of a single image nothing varies.
        share = float(parts.variance[number]) / whole if whole else None
        yield {
            "model": study.model,
            **part,
            "var_share": share,
            "mean_norm": float(parts.length[number]),
            "class_margin": margins.get(part["component"]),
            "n": len(study.images),
        }


class _Spread:
    """Variance and mean length of vectors of several components that come in blocks."""

    def __init__(self) -> None:
        self.n = 0
        self.sum: Wide | float = 0.0
        self.square: Wide | float = 0.0
        self.lengths: Wide | float = 0.0

    def add(self, vectors: Floats) -> None:
        """Take in `[image, component, d_embed]`."""
        square = np.einsum("icd,icd->ic", vectors, vectors, dtype=np.float64)
        self.n += len(vectors)
        self.sum = self.sum + vectors.sum(axis=0, dtype=np.float64)
        self.square = self.square + square.sum(axis=0)
        self.lengths = self.lengths + np.sqrt(square).sum(axis=0)

    @property
    def variance(self) -> Wide:
        """Over all directions, `[component]`."""
        mean = np.asarray(self.sum) / self.n
        varied = np.asarray(self.square) / self.n - (mean**2).sum(axis=1)
        return np.asarray(np.maximum(varied, 0.0))

    @property
    def length(self) -> Wide:
        """Mean, `[component]`."""
        return np.asarray(self.lengths) / self.n


def _margins(study: Study) -> dict[str, float]:
    """Mean margin of each component; none where classes or labels were not named."""
    try:
        label, n_class = study.label, len(study.classes)
    except InputError:
        return {}
    sums: Wide | float = 0.0
    names: list[str] = []
    for place, some in study.blocks(study.classes.vectors):
        own = np.take_along_axis(some.shares, label[place][:, None, None], axis=2)[..., 0]
        others = (some.shares.sum(axis=2) - own) / max(n_class - 1, 1)
        sums = sums + (own - others).sum(axis=0, dtype=np.float64)
        names = some.components["component"].to_pylist()
    return dict(zip(names, (np.asarray(sums) / len(study.images)).tolist(), strict=True))
