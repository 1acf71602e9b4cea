"""Whether the parts add up: components to the vector, and the vector to the captured one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.clip_decomposition.study import Study

    Floats = NDArray[np.float32]

DIRECTIONS = 8
"""Random unit directions along which components are added up."""


def exactness(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of the table `exactness`."""
    if study.stored.complete:
        yield _row(study, "components", *_components(study))
    if "pooled" in study.store.sites:
        yield _row(study, "vector", *_vectors(study))


def _row(study: Study, what: str, most: float, largest: float) -> dict[str, Any]:
    return {
        "model": study.model,
        "what": what,
        "max_abs": most,
        "relative": most / largest if largest else most,
        "n": len(study.images),
    }


def _components(study: Study) -> tuple[float, float]:
    """The largest difference of sums of shares, and the largest total."""
    shape = (DIRECTIONS, study.stored.tower.d_embed)
    random = np.random.default_rng([study.params.seed, 4]).standard_normal(shape, np.float32)
    most = largest = 0.0
    for _, some in study.blocks(random / np.linalg.norm(random, axis=1, keepdims=True)):
        summed = some.shares.sum(axis=1, dtype=np.float64) + some.constant
        most = max(most, float(np.abs(summed - some.total).max()))
        largest = max(largest, float(np.abs(some.total).max()))
    return most, largest


def _vectors(study: Study) -> tuple[float, float]:
    """The largest difference of the vector of the final stream from the captured one."""
    tower, pooled = study.stored.tower, study.store["pooled"]
    most = largest = 0.0
    for place in study.images.blocks(8 * tower.w_o.shape[-1], study.budget):
        images = study.images.taken(place)
        there = pooled.read(images.example_row, dtype=np.float32)
        most = max(most, float(np.abs(tower.embedding(study.stored.final(images)) - there).max()))
        largest = max(largest, float(np.abs(there).max()))
    return most, largest
