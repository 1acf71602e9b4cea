"""T1: direct effects of components, by variance, by length and by the margin of the class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum import kernels
from residuum.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.clip_decomposition.study import Study
    from residuum.clip.images import Images

    Floats = NDArray[np.float32]
    Wide = NDArray[np.float64]


def effect(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of the table `effect`."""
    margins = _margins(study)
    total = _Spread()
    spreads: dict[str, _Spread] = {}
    whole = study.stored.tower.along(np.eye(study.stored.tower.d_embed, dtype=np.float32))
    for images, divisor, final in _blocks(study):
        total.add(final @ whole / divisor[:, None])
        for name, vectors in _vectors(study, images, divisor, whole):
            spreads.setdefault(name, _Spread()).add(vectors)
    whole_variance = total.variance  # 0 of one image
    for part in study.components.to_pylist():
        spread = spreads.get(part["component"])
        yield {
            "model": study.model,
            **part,
            "var_share": spread.variance / whole_variance if spread and whole_variance else None,
            "mean_norm": None if spread is None else spread.length,
            "class_margin": margins.get(part["component"]),
            "n": len(study.images),
        }


class _Spread:
    """Variance and mean length of vectors that come in blocks."""

    def __init__(self) -> None:
        self.n = 0
        self.sum: Wide | float = 0.0
        self.square = 0.0
        self.lengths = 0.0

    def add(self, vectors: Floats) -> None:
        """Take in `[image, d_embed]`."""
        wide = vectors.astype(np.float64)
        square = (wide**2).sum(axis=1)
        self.n += len(wide)
        self.sum = self.sum + wide.sum(axis=0)
        self.square += float(square.sum())
        self.lengths += float(np.sqrt(square).sum())

    @property
    def variance(self) -> float:
        """Over all directions."""
        mean = np.asarray(self.sum) / self.n
        return max(self.square / self.n - float(mean @ mean), 0.0)

    @property
    def length(self) -> float:
        """Mean."""
        return self.lengths / self.n


def _blocks(study: Study) -> Iterator[tuple[Images, Floats, Floats]]:
    """Images, their divisors and their final streams."""
    tower = study.stored.tower
    each = 4 * (2 * tower.w_o.shape[-1] + tower.n_head * tower.d_embed)
    for place in study.images.blocks(each, study.budget):
        images = study.images.taken(place)
        final = study.stored.final(images)
        yield images, tower.divisor(final), final


def _vectors(
    study: Study, images: Images, divisor: Floats, whole: Floats
) -> Iterator[tuple[str, Floats]]:
    """What each captured component adds to the vectors, `[image, d_embed]`, by its name."""
    stored = study.stored
    for layer in stored.layers:
        heads = kernels.attribution(
            stored.z(images, layer), stored.tower.w_o[layer], whole, scale=divisor
        )
        for head in range(stored.tower.n_head):
            yield f"L{layer}H{head}", heads[:, head]
        yield f"L{layer} attention bias", stored.tower.b_o[layer] @ whole / divisor[:, None]
    for layer in stored.mlps:
        yield f"L{layer} MLP", stored.mlp(images, layer) @ whole / divisor[:, None]
    if stored.has_embedding:
        yield "embedding", stored.embedding(images) @ whole / divisor[:, None]


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
