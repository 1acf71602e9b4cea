"""T7: images by one property: what a head's nearest images agree in, and those of the best head."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.clip.retrieval import head_vectors, nearest, similar_images
from residuum.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.clip_decomposition.study import Study

    Numbers = NDArray[np.int64]
    Floats = NDArray[np.float32]

SHOWN = 3
"""Queries whose nearest images are listed."""


class Retrieval:
    """Nearest images of a sample of queries, head by head."""

    def __init__(self, study: Study) -> None:
        """Nothing is computed before it is asked for."""
        self.study = study

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Of the table `retrieval`.

        Raises:
            InputError: no property was named.
        """
        study = self.study
        if not study.params.properties:
            message = "this needs `properties`: columns of the images, such as colour"
            raise InputError(message)
        if len(np.unique(study.images.row)) < 2:
            message = f"{study.store.path} holds one distinct image, which has no neighbour"
            raise InputError(message)
        values = {name: study.column(name) for name in study.params.properties}
        found = []
        for layer, head, vectors in self._vectors():
            near = self._nearest(vectors)
            for name, of in values.items():
                agree = (of[near] == of[self.queries][:, None]) & (near >= 0)
                found.append(
                    {
                        "model": study.model,
                        "property": name,
                        "layer": layer,
                        "head": head,
                        "agreement": float(agree.mean()),
                        "chance": _chance(of),
                        "k": near.shape[1],
                        "n": len(self.queries),
                    }
                )
        return found

    @cached_property
    def queries(self) -> Numbers:
        """Places of the images that are looked up."""
        n = len(self.study.images)
        random = np.random.default_rng([self.study.params.seed, 2])
        return np.sort(random.choice(n, min(n, self.study.params.queries), replace=False))

    def _vectors(self) -> Iterator[tuple[int | None, int | None, Floats]]:
        """Layer, head and centred vectors of each head, and of the whole."""
        study = self.study
        for layer in study.stored.layers:
            for head in range(study.stored.tower.n_head):
                yield layer, head, head_vectors(study.stored, [(layer, head)])
        whole = np.concatenate(
            [
                study.stored.tower.embedding(study.stored.final(study.images.taken(place)))
                for place in study.images.blocks(8 * study.stored.tower.w_o.shape[-1], study.budget)
            ]
        )
        yield None, None, whole - whole.mean(axis=0)

    def _nearest(self, vectors: Floats) -> Numbers:
        """Places of the nearest images of each query, each image once; -1 where there is none."""
        _, first, image = np.unique(self.study.images.row, return_index=True, return_inverse=True)
        k = min(self.study.params.neighbours, len(first) - 1)
        found, _ = nearest(self.study.images.taken(first), vectors[first], image[self.queries], k)
        return np.where(found >= 0, first[found], -1)

    def similar(self) -> Iterator[dict[str, Any]]:
        """Of the table `similar`: the head whose images agree most, for each property."""
        study = self.study
        for name in study.params.properties:
            mine = [row for row in self.rows if row["property"] == name and row["head"] is not None]
            best = max(mine, key=lambda row: float(row["agreement"]))
            asked = study.images.example[self.queries[:SHOWN]]
            pair = (best["layer"], best["head"])
            found = similar_images(study.stored, [pair], asked, k=study.params.top)
            for query, examples, sims in zip(
                asked.tolist(), found.example.tolist(), found.value.tolist(), strict=True
            ):
                for rank, (example, sim) in enumerate(zip(examples, sims, strict=True)):
                    if example < 0:
                        break
                    yield {
                        "model": study.model,
                        "property": name,
                        "layer": best["layer"],
                        "head": best["head"],
                        "query_image": query,
                        "rank": rank,
                        "image_id": example,
                        "sim": sim,
                    }


def _chance(of: NDArray[np.str_]) -> float:
    """How often two images drawn at random agree."""
    _, counts = np.unique(of, return_counts=True)
    return float(((counts / len(of)) ** 2).sum())
