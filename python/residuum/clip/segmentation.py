"""How well heat maps find what a mask marks: pictures of maps, and scores of a set of images.

    pictures = upsampled(maps, grid=(14, 14), size=(224, 224))
    segmentation(scores(pictures), truth)

The steps are those of the zero-shot segmentation of Gandelsman et al. 2024 (Interpreting CLIP's
Image Representation via Text-Based Decomposition), after Chefer et al. 2021 (Transformer
Interpretability Beyond Attention Visualization): maps are enlarged, cut at 0, spread over 0..1 and
thresholded at each image's own mean.
`residuum.clip.masks` brings masks into the frame that the model saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from residuum.errors import ArgumentError
from residuum.replay.numbers import real

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float32]
    Mask = NDArray[np.bool_]
    Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Segmentation:
    """How foreground by scores agrees with the truth, over a set of images; all are shares of 1.

    Attributes:
        pixel_accuracy: share of all pixels that are in the right class. Where objects are small,
            calling everything background does well: look at the others first.
        miou: mean of the intersections over unions of foreground and background, each accumulated
            over the whole set. A class that is neither true nor found anywhere has none and is left
            out.
        foreground_iou: that of the foreground; NaN where it is neither true nor found anywhere.
        mean_ap: mean over images of the average precision.
        n: images.
    """

    pixel_accuracy: float
    miou: float
    foreground_iou: float
    mean_ap: float
    n: int


def upsampled(maps: ArrayLike, grid: tuple[int, int], size: tuple[int, int]) -> Floats:
    """Maps of patches as pictures, by bilinear interpolation.

    The centre of a patch stands where the centre of its pixels is, and beyond the outermost centres
    the map goes on level: `interpolate(mode="bilinear", align_corners=False)` of torch. A size
    below the grid's skips patches, as there; nothing is averaged.

    Args:
        maps: `[image, patch]`, finite; patches row by row, the class token left out.
        grid: (rows, columns) of patches.
        size: (height, width) in pixels.

    Returns:
        float32 `[image, height, width]`.

    Raises:
        ArgumentError: maps of another shape, with another number of patches than the grid has, or
            not finite; lengths below 1.
    """
    values = _floats("maps", maps)
    if values.ndim != 2:
        _refuse("maps", values, "[image, patch]")
    rows, columns = _lengths("grid", grid)
    height, width = _lengths("size", size)
    if values.shape[1] != rows * columns:
        hint = " (is the class token still there?)" if values.shape[1] == rows * columns + 1 else ""
        message = (
            f"axis `patch` of maps is {values.shape[1]}, but a grid of {rows} x {columns} has "
            f"{rows * columns}{hint}"
        )
        raise ArgumentError(message)
    squares = values.reshape(-1, rows, columns)
    return np.asarray(_weights(rows, height) @ squares @ _weights(columns, width).T)


def scores(maps: ArrayLike) -> Floats:
    """Maps cut at 0 and spread over 0..1, each image by itself.

    Args:
        maps: `[image, patch]` or `[image, height, width]`, finite. Where maps are of several
            classes, subtract their mean over classes first.

    Returns:
        float32 of the same shape. An image whose map is constant after the cut is 0 throughout.

    Raises:
        ArgumentError: maps of another shape, or not finite.
    """
    values = _floats("maps", maps)
    if values.ndim not in (2, 3) or not values[:1].size:
        _refuse("maps", values, "[image, patch] or [image, height, width], of one image at least")
    cut = np.maximum(values, 0)
    inside = tuple(range(1, cut.ndim))
    low = cut.min(inside, keepdims=True)
    spread = cut.max(inside, keepdims=True) - low
    return np.asarray((cut - low) / np.where(spread > 0, spread, 1))


def foreground(scores: ArrayLike) -> Mask:
    """Where scores are above their image's own mean; nowhere in an image of constant scores.

    Args:
        scores: `[image, patch]` or `[image, height, width]`, finite.

    Returns:
        bool of the same shape.

    Raises:
        ArgumentError: scores of another shape, or not finite.
    """
    values = _floats("scores", scores)
    if values.ndim not in (2, 3) or not values[:1].size:
        _refuse("scores", values, "[image, patch] or [image, height, width], of one image at least")
    # In float64 the mean of equal float32 numbers is that number, so that none is above it.
    mean = values.mean(tuple(range(1, values.ndim)), dtype=np.float64, keepdims=True)
    return np.asarray(values > mean)


def segmentation(scores: ArrayLike, truth: ArrayLike, *, pooled: bool = False) -> Segmentation:
    """Compare scores of pixels with masks.

    A pixel is found to be foreground where `foreground` says so. The average precision of an image
    is the mean of two: of the foreground by the scores, and of the background by 1 - scores. A
    class that an image has no pixel of has no average precision and is left out of that mean:
    where all is background, or all foreground, the image's is that of the one class, 1. Pixels of
    one score count together, as in scikit-learn's `average_precision_score`.

    Args:
        scores: `[image, height, width]` in 0..1, as `scores` gives them; compared in float32.
        truth: bool `[image, height, width]`, True where the object is.
        pooled: rank the pixels of both classes together in each image, as the code of Chefer et al.
            and Gandelsman et al. does, instead of class by class. For comparison with their tables.

    Raises:
        ArgumentError: shapes that differ or are empty; scores outside 0..1; truth not bool.
    """
    tally = Tally(pooled=pooled)
    tally.add(scores, truth)
    return tally.result()


class Tally:
    """`segmentation` of images that come in blocks; the blocks make no difference."""

    def __init__(self, *, pooled: bool = False) -> None:
        """Count nothing yet; `pooled` as for `segmentation`."""
        self._precision = _pooled_precision if pooled else _class_precision
        self._inter, self._union = np.zeros(2, np.int64), np.zeros(2, np.int64)
        self._n_pixel = 0
        self._precisions: list[float] = []

    def add(self, scores: ArrayLike, truth: ArrayLike) -> None:
        """Take in scores and masks of some images.

        Raises:
            ArgumentError: as for `segmentation`.
        """
        values, mask = _checked(scores, truth)
        found = foreground(values)
        self._inter += [np.sum(found & mask), np.sum(~found & ~mask)]
        self._union += [np.sum(found | mask), np.sum(~found | ~mask)]
        self._n_pixel += mask.size
        flat = values.reshape(len(values), -1), mask.reshape(len(mask), -1)
        for score, true in zip(*flat, strict=True):
            self._precisions.append(self._precision(score, true))

    def result(self) -> Segmentation:
        """The measures of all images that came.

        Raises:
            ArgumentError: none came.
        """
        if not self._precisions:
            message = "there are no images to compare with masks"
            raise ArgumentError(message)
        iou = np.full(2, np.nan)
        np.divide(self._inter, self._union, out=iou, where=self._union > 0)
        return Segmentation(
            pixel_accuracy=float(self._inter.sum() / self._n_pixel),
            miou=float(np.nanmean(iou)),
            foreground_iou=float(iou[0]),
            mean_ap=float(np.mean(self._precisions)),
            n=len(self._precisions),
        )


def _class_precision(score: Floats, truth: Mask) -> float:
    """Average precision of an image `[pixel]`, the mean over classes that are there."""
    hits, sizes = _ranked(score, truth)
    # The background's scores are 1 - score: the same ranks from the other end.
    both = _precision(hits[::-1], sizes[::-1]), _precision(sizes - hits, sizes)
    return float(np.nanmean(both))


def _pooled_precision(score: Floats, truth: Mask) -> float:
    """Average precision of an image `[pixel]`, the pixels of both classes in one ranking."""
    wide = score.astype(np.float64)
    hits, sizes = _ranked(np.concatenate([wide, 1 - wide]), np.concatenate([truth, ~truth]))
    return _precision(hits[::-1], sizes[::-1])


def _ranked(score: NDArray[Any], truth: Mask) -> tuple[Counts, Counts]:
    """Hits and pixels of every distinct score, ascending: int64 `[score]` each."""
    order = np.argsort(score)  # within ties the order is of no account
    ascending = score[order]
    starts = np.flatnonzero(np.concatenate([[True], ascending[1:] != ascending[:-1]]))
    hits = np.add.reduceat(truth[order], starts, dtype=np.int64)
    return hits, np.diff(np.append(starts, len(score)))


def _precision(hits: Counts, sizes: Counts) -> float:
    """Sum over scores, best first, of the gain in recall times the precision there.

    NaN where there is nothing to recall.
    """
    found = np.cumsum(hits)
    if not found[-1]:
        return float("nan")
    return float(np.sum(hits * (found / np.cumsum(sizes))) / found[-1])


def _weights(n_in: int, n_out: int) -> Floats:
    """What each output takes of each input along an axis, `[n_out, n_in]`."""
    at = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    low = np.floor(at).astype(np.int64)
    high = np.minimum(low + 1, n_in - 1)
    weights = np.zeros((n_out, n_in), np.float32)
    row = np.arange(n_out)
    weights[row, low] = 1 - (at - low)
    weights[row, high] += at - low  # at the edge both are one patch
    return weights


def _checked(scores: ArrayLike, truth: ArrayLike) -> tuple[Floats, Mask]:
    values, mask = _floats("scores", scores), np.asarray(truth)
    if values.ndim != 3 or not values.size:
        _refuse("scores", values, "[image, height, width], of one image at least")
    if mask.dtype != bool:
        message = f"`truth` is {mask.dtype}, but must be bool: write mask > 0"
        raise ArgumentError(message)
    if mask.shape != values.shape:
        message = f"`truth` is {list(mask.shape)}, but scores are {list(values.shape)}"
        raise ArgumentError(message)
    if values.min() < 0 or values.max() > 1:
        message = (
            f"`scores` are from {values.min():.4g} to {values.max():.4g}, but must be in 0..1: "
            "pass maps through `scores` first"
        )
        raise ArgumentError(message)
    return values, mask


def _floats(name: str, values: ArrayLike) -> Floats:
    """Real, finite numbers as float32."""
    array = real(name, values)
    with np.errstate(over="ignore"):  # what is too large is infinite, and refused
        array = np.asarray(array, np.float32)
    if not np.isfinite(array).all():
        message = f"`{name}` has numbers that are not finite in float32"
        raise ArgumentError(message)
    return array


def _lengths(name: str, pair: tuple[int, int]) -> tuple[int, int]:
    both = tuple(pair)
    whole = all(isinstance(one, int | np.integer) for one in both)
    if len(both) != 2 or not whole or min(both) < 1:
        message = f"`{name}` is two whole numbers from 1, not {pair!r}"
        raise ArgumentError(message)
    return int(both[0]), int(both[1])


def _refuse(name: str, values: NDArray[Any], needed: str) -> NoReturn:
    message = f"`{name}` is {list(values.shape)}, but must be {needed}"
    raise ArgumentError(message)
