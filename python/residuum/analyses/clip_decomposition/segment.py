"""T6: zero-shot segmentation by maps of the class that the model says, and by its rivals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.clip.baselines import (
    attention_rollout,
    random_maps,
    raw_attention,
    value_norm_attention,
)
from residuum.clip.maps import patch_maps
from residuum.clip.segmentation import scores, segmentation, upsampled
from residuum.errors import InputError, SiteError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.clip_decomposition.study import Study

    Floats = NDArray[np.float32]


def segment(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of the table `segment`.

    Raises:
        InputError: no masks, or masks of another number or kind.
    """
    truth = _masks(study)
    side = round((study.images.n_token - 1) ** 0.5)
    for method, maps in _methods(study):
        if maps is None:
            continue
        pictures = upsampled(maps, (side, side), truth.shape[1:])
        found = segmentation(scores(pictures), truth)
        yield {
            "model": study.model,
            "method": method,
            "pixel_acc": found.pixel_accuracy,
            "miou": found.miou,
            "foreground_iou": found.foreground_iou,
            "map": found.mean_ap,
            "n": found.n,
        }


def _masks(study: Study) -> NDArray[np.bool_]:
    path = study.params.masks
    if path is None:
        message = "this needs `masks`: a file .npy, bool [example, height, width]"
        raise InputError(message)
    masks = np.load(path, allow_pickle=False)
    if masks.dtype != bool or masks.ndim != 3 or len(masks) != len(study.images):
        message = (
            f"{path} is {masks.dtype} {list(masks.shape)}, but masks are bool [example, height, "
            f"width] of {len(study.images)} examples"
        )
        raise InputError(message)
    return np.asarray(masks)


def _methods(study: Study) -> Iterator[tuple[str, Floats | None]]:
    """Maps `[image, patch]` of each method; None where the store lacks what it needs."""
    yield "decomposition", decomposition(study)
    yield "raw attention, last layer", _if_there(lambda: raw_attention(study.images, -1))
    yield "raw attention, first layer", _if_there(lambda: raw_attention(study.images, 0))
    yield "attention rollout", _if_there(lambda: attention_rollout(study.images))
    yield "attention by value norm", _if_there(lambda: value_norm_attention(study.images, -1))
    yield "random", random_maps(len(study.images), study.images.n_token - 1, study.params.seed)


def _if_there(made: Any) -> Floats | None:  # noqa: ANN401 - a function without arguments
    try:
        return np.asarray(made(), np.float32)
    except SiteError:
        return None


def decomposition(study: Study) -> Floats:
    """Each image's map of its own text less the mean over all texts, `[image, patch]`."""
    if study.params.mask_text is None:
        directions, names = study.classes.vectors, study.classes.text
        logits = np.concatenate([some.total for _, some in study.blocks(directions)])
        asked = logits.argmax(axis=1)
    else:
        wanted = study.column(study.params.mask_text).tolist()
        names = sorted(set(wanted))
        pool = either(study, names)
        directions, asked = pool, np.array([names.index(text) for text in wanted])
    out = np.empty((len(study.images), study.images.n_token - 1), np.float32)
    each = 4 * study.images.n_token * len(names)
    for place in study.images.blocks(each, study.budget):
        maps = patch_maps(study.store, directions, examples=study.images.example[place])[:, 1:]
        own = np.take_along_axis(maps, asked[place][:, None, None], axis=2)[..., 0]
        out[place] = own - maps.mean(axis=2)
    return out


def either(study: Study, names: list[str]) -> Floats:
    """Vectors of texts that are in the pool, or are classes."""
    known: dict[str, Floats] = {}
    for read in ("texts", "classes"):
        if getattr(study.params, read) is not None:
            found = getattr(study, read)
            known |= dict(zip(found.text, found.vectors, strict=True))
    missing = [name for name in names if name not in known]
    if missing:
        message = f"{missing[0]!r} is neither among the texts nor a class"
        raise InputError(message)
    return np.stack([known[name] for name in names])
