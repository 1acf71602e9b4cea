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
from residuum.clip.segmentation import Tally, scores, upsampled
from residuum.errors import InputError, SiteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from residuum.analyses.clip_decomposition.study import Study

    Floats = NDArray[np.float32]


def segment(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of the table `segment`.

    Raises:
        InputError: no masks, or masks of another number, size or kind.
    """
    truth = _masks(study)
    side = round((study.images.n_token - 1) ** 0.5)
    for method, maps in _methods(study):
        if maps is None:
            study.leave_out("segment", f"{method}: the store lacks patterns or values for it")
            continue
        tally = Tally()
        for place in study.images.blocks(16 * truth[0].size, study.budget):
            pictures = upsampled(maps[place], (side, side), truth.shape[1:])
            tally.add(scores(pictures), np.asarray(truth[place]))
        found = tally.result()
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
    """The masks, mapped from their file.

    Raises:
        InputError: none, or none of what the model saw: a mask in the frame of the image as it was
            before it was resized and cropped would be compared with the wrong pixels.
    """
    path = study.params.masks
    if path is None:
        message = "this needs `masks`: a file .npy, bool [example, height, width]"
        raise InputError(message)
    try:
        masks = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        message = f"{path} is no array of masks (.npy): {error}"
        raise InputError(message) from error
    size = (study.store.model.get("config") or {}).get("image_size")
    frame = tuple(np.broadcast_to(size, 2).tolist()) if size is not None else masks.shape[1:]
    if masks.dtype != bool or masks.shape != (len(study.images), *frame):
        message = (
            f"{path} is {masks.dtype} {list(masks.shape)}, but masks are bool "
            f"{[len(study.images), *frame]}, of the frame that the model saw: resize and crop them "
            "as the images were, by residuum.clip.aligned"
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


def _if_there(made: Callable[[], Floats]) -> Floats | None:
    try:
        return np.asarray(made(), np.float32)
    except SiteError:
        return None


def decomposition(study: Study) -> Floats:
    """Each image's map of its own text less the mean over all texts, `[image, patch]`."""
    directions, asked = _asked(study)
    others = directions.mean(axis=0)
    out = np.empty((len(study.images), study.images.n_token - 1), np.float32)
    for text in np.unique(asked):
        # A map is linear in the direction: one for each image, however many texts there are.
        places = np.flatnonzero(asked == text)
        direction = (directions[text] - others)[None]
        maps = patch_maps(study.stored, direction, examples=study.images.example[places])
        out[places] = maps[:, 1:, 0]
    return out


def _asked(study: Study) -> tuple[Floats, NDArray[np.int64]]:
    """Directions of the texts `[text, d_embed]`, and which is each image's own, `[image]`."""
    if study.params.mask_text is None:
        stored, classes = study.stored, study.classes.vectors
        said = []
        for place in study.images.blocks(8 * stored.tower.w_o.shape[-1], study.budget):
            final = stored.final(study.images.taken(place))
            said.append((stored.tower.embedding(final) @ classes.T).argmax(axis=1))
        return classes, np.concatenate(said)
    wanted = study.column(study.params.mask_text).tolist()
    names = sorted(set(wanted))
    return study.named(names), np.array([names.index(text) for text in wanted])
