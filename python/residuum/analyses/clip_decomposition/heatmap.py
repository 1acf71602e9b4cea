"""T5: heat maps of some images, of each class over all heads and of the heads that say most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.clip.maps import head_maps, map_layers, patch_maps
from residuum.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.clip_decomposition.study import Study
    from residuum.analyses.clip_decomposition.textspan import TextSpan

MOST_CLASSES = 16
HEADS = 4
"""Heads whose maps are kept: those whose first text explains the most variance."""


def heatmap(study: Study, spans: TextSpan) -> Iterator[dict[str, Any]]:
    """Rows of the table `heatmap`."""
    examples = study.images.example[: study.params.map_examples]
    shown = _shown(study, examples)
    whole = patch_maps(study.stored, study.classes.vectors[shown], examples=examples)
    for number, text in enumerate(study.classes.text[at] for at in shown):
        yield from _rows(study, examples, whole[:, 1:, number], (None, None, text))
    try:
        bases, pool = spans.bases, study.texts
    except InputError:
        return
    there = map_layers(study.store)
    named = [basis for basis in bases if len(basis.texts) and basis.layer in there]
    named.sort(key=lambda basis: -basis.variance * float(basis.explained[0]))
    for basis in named[:HEADS]:
        first = int(basis.texts[0])
        maps = head_maps(study.stored, pool.vectors[[first]], basis.layer, examples=examples)
        place = (basis.layer, basis.head, pool.text[first])
        yield from _rows(study, examples, maps[:, basis.head, 1:, 0], place)


def _shown(study: Study, examples: NDArray[np.int64]) -> NDArray[np.int64]:
    """The classes of which maps are kept: all, or those that the model says first of each image."""
    n_class = len(study.classes)
    if n_class <= MOST_CLASSES or not len(examples):
        return np.arange(n_class)
    total = study.along(study.classes.vectors, examples).total
    first = np.argsort(-total, axis=1, kind="stable")[:, : max(1, MOST_CLASSES // len(examples))]
    return np.unique(first)


def _rows(
    study: Study,
    examples: NDArray[np.int64],
    maps: NDArray[np.float32],
    place: tuple[int | None, int | None, str],
) -> Iterator[dict[str, Any]]:
    layer, head, text = place
    for example, values in zip(examples.tolist(), maps.tolist(), strict=True):
        for patch, value in enumerate(values):
            yield {
                "model": study.model,
                "example": example,
                "layer": layer,
                "head": head,
                "text": text,
                "patch": patch,
                "value": value,
            }
