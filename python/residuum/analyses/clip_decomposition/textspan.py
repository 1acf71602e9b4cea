"""T3 and T8: the texts of each head, how much of the classes they keep, and a head's top images."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.clip.retrieval import top_images
from residuum.clip.text_bases import HeadBasis, text_bases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.clip_decomposition.study import Study

    Floats = NDArray[np.float32]
    Wide = NDArray[np.float64]


class TextSpan:
    """The bases of a study, made once."""

    def __init__(self, study: Study) -> None:
        """Nothing is computed before it is asked for."""
        self.study = study

    @cached_property
    def bases(self) -> list[HeadBasis]:
        """By the pool of texts."""
        return self._bases(self.study.texts.vectors)

    def _bases(self, pool: Floats) -> list[HeadBasis]:
        of = self.study.params
        return text_bases(
            self.study.stored,
            pool,
            layers=of.layers,
            n_text=of.n_text,
            rank=of.rank,
            unit=of.unit,
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Of the table `textspan`."""
        for basis in self.bases:
            together = np.cumsum(basis.explained)
            for rank, text in enumerate(basis.texts.tolist()):
                yield {
                    "model": self.study.model,
                    "layer": basis.layer,
                    "head": basis.head,
                    "rank": rank,
                    "text": self.study.texts.text[text],
                    "text_id": text,
                    "var_explained": float(basis.explained[rank]),
                    "cum_explained": float(together[rank]),
                }

    def top(self) -> Iterator[dict[str, Any]]:
        """Of the table `top_images`."""
        study = self.study
        for basis in self.bases:
            if not len(basis.texts):
                continue
            first = int(basis.texts[0])
            found = top_images(
                study.stored,
                basis.layer,
                basis.head,
                study.texts.vectors[first],
                k=study.params.top,
            )
            for rank, (example, value) in enumerate(
                zip(found.example[0].tolist(), found.value[0].tolist(), strict=True)
            ):
                yield {
                    "model": study.model,
                    "layer": basis.layer,
                    "head": basis.head,
                    "text": study.texts.text[first],
                    "rank": rank,
                    "example": example,
                    "value": value,
                }

    def accuracy(self) -> Iterator[dict[str, Any]]:
        """Of the table `textspan_accuracy`: how complete m texts are, and m random directions."""
        study = self.study
        random = np.random.default_rng([study.params.seed, 1])
        shape = (len(study.texts), study.stored.tower.d_embed)
        noise = random.standard_normal(shape, np.float32)
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        for pool, bases in (("texts", self.bases), ("random", self._bases(noise))):
            for m, logits in self._replaced(bases):
                yield {
                    "model": study.model,
                    "pool": pool,
                    "m": m,
                    "accuracy": float((logits.argmax(axis=1) == study.label).mean()),
                    "n": len(study.label),
                }

    def _replaced(self, bases: list[HeadBasis]) -> Iterator[tuple[int, Wide]]:
        """Logits `[image, class]` where heads of the bases say their mean and m texts alone."""
        study = self.study
        stored, classes = study.stored, study.classes.vectors
        steps = sorted({m for m in (0, 1, 2, 5, 10, 20, 30, 60) if m < study.params.n_text})
        steps.append(study.params.n_text)
        logits = {m: np.empty((len(study.images), len(classes))) for m in steps}
        width = max(study.params.n_text, len(classes))
        for place in study.images.blocks(16 * stored.tower.n_head * width, study.budget):
            images = study.images.taken(place)
            final = stored.final(images)
            divisor = stored.tower.divisor(final)
            total = final @ stored.tower.along(classes) / divisor[:, None]
            total += stored.tower.constant(classes)
            if study.params.unit:
                length = np.linalg.norm(stored.tower.embedding(final), axis=-1)
                total, divisor = total / length[:, None], divisor * length
            changed: dict[int, Wide] = {m: total.astype(np.float64) for m in steps}
            for basis in bases:
                z = np.asarray(stored.z(images, basis.layer)[:, basis.head] / divisor[:, None])
                for m in steps:
                    changed[m] += self._change(basis, z, m)
            for m in steps:
                logits[m][place] = changed[m]
        yield from logits.items()

    def _change(self, basis: HeadBasis, z: NDArray[Any], m: int) -> Wide:
        """Logits that a head's replacement adds, `[image, class]`."""
        tower, classes = self.study.stored.tower, self.study.classes.vectors
        directions = np.concatenate([classes, basis.directions[:m].astype(np.float32)])
        said = z @ (tower.w_o[basis.layer, basis.head] @ tower.along(directions))
        n = len(classes)
        kept = said[:, n:] - basis.mean @ basis.directions[:m].T
        mean = basis.mean @ classes.T.astype(np.float64)
        return np.asarray(mean + kept @ (basis.directions[:m] @ classes.T) - said[:, :n])
