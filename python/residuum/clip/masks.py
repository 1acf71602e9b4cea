"""Masks in the frame that the model saw: resized and cropped as the images were.

A mask in the pixels of the original image lies beside what a CLIP model looks at, which is the
centre of the image, made smaller. To stretch the mask to the model's size is right only if the
images were stretched too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

    Size = tuple[int, int]


def cropped(mask: ArrayLike, size: int | Size, crop: Size | None = None) -> NDArray[Any]:
    """A mask resized to the nearest pixel, then cut at the centre, as a CLIPImageProcessor does.

    Args:
        mask: `[height, width]` of any dtype: bool, or numbers of classes.
        size: pixels of the shortest edge after resizing, `processor.size["shortest_edge"]`; or
            (height, width), to which images are stretched.
        crop: (height, width) that is kept, those of `processor.crop_size`; by default a square of
            `size`, or all of it where that is a pair. Beyond the mask's edges it is 0.

    Returns:
        `[height, width]` of the crop, with the mask's dtype.

    Raises:
        ArgumentError: a mask without two axes or without pixels; lengths below 1.
    """
    array = np.asarray(mask)
    if array.ndim != 2 or not array.size:
        message = f"a mask is [height, width], not {list(array.shape)}"
        raise ArgumentError(message)
    kept = _kept(size, crop)
    resized = _resized(array.shape, size)
    row, column = map(_nearest, array.shape, resized, kept)
    outside = (row < 0)[:, None] | (column < 0)
    return np.where(outside, array.dtype.type(0), array[np.ix_(row, column)])


def aligned(
    masks: Sequence[ArrayLike] | NDArray[Any],
    size: int | Size,
    crop: Size | None = None,
    *,
    image_sizes: ArrayLike | None = None,
) -> NDArray[np.bool_]:
    """Masks in the model's frame; those that cannot be brought there are refused.

    A mask of its image's size is `cropped`. One of the model's input size is taken as it is: it
    must have been made by the same resize and crop, which nobody can see from its shape.

    Args:
        masks: bool `[height, width]` each, or `[image, height, width]`.
        size: as in `cropped`.
        crop: as in `cropped`.
        image_sizes: (height, width) of the original images, `[image, 2]`; without them masks must
            have the model's input size already.

    Returns:
        bool `[image, height, width]`.

    Raises:
        ArgumentError: a mask of neither size, or not bool; another number of masks than of images.
    """
    kept = _kept(size, crop)
    sizes = None if image_sizes is None else np.asarray(image_sizes)
    if sizes is not None and sizes.shape != (len(masks), 2):
        message = f"image_sizes are [{len(masks)}, 2] for these masks, not {list(sizes.shape)}"
        raise ArgumentError(message)
    out = np.empty((len(masks), *kept), bool)
    for number, given in enumerate(masks):
        mask = np.asarray(given)
        if mask.dtype != bool:
            message = f"mask {number} is {mask.dtype}, but must be bool: write mask > 0"
            raise ArgumentError(message)
        original = None if sizes is None else _pair("image_sizes", sizes[number])
        if mask.shape == original:
            out[number] = cropped(mask, size, crop)
        elif mask.shape == kept:
            out[number] = mask
        else:
            raise ArgumentError(_misplaced(number, mask.shape, original, kept))
    return out


def _misplaced(number: int, shape: tuple[int, ...], original: Size | None, kept: Size) -> str:
    if original is None:
        return (
            f"mask {number} is {list(shape)}, but the model's input is {list(kept)}: name "
            "image_sizes, if masks are in the pixels of the original images"
        )
    return (
        f"mask {number} is {list(shape)}, but its image is {list(original)} and the model's input "
        f"{list(kept)}: give it in the pixels of one of them"
    )


def _kept(size: int | Size, crop: Size | None) -> Size:
    """Height and width after the crop.

    Raises:
        ArgumentError: sizes that are none.
    """
    square = size if isinstance(size, tuple) else (size, size)
    edges = _pair("size", square)
    return edges if crop is None else _pair("crop", crop)


def _resized(shape: tuple[int, ...], size: int | Size) -> Size:
    """Height and width after the resize; the longer edge is rounded down, as in transformers."""
    if isinstance(size, tuple):
        return size
    short = min(shape)
    height, width = (size if edge == short else int(size * edge / short) for edge in shape)
    return height, width


def _nearest(n_in: int, n_resized: int, n_kept: int) -> NDArray[np.int64]:
    """The pixel of the mask under the centre of each pixel that is kept; -1 beyond the edge."""
    at = np.arange(n_kept) + (n_resized - n_kept) // 2
    step = n_in / n_resized
    # Added up one by one, as Pillow does: a centre between two pixels falls to the same side.
    centres = np.cumsum(np.concatenate([[step / 2], np.full(n_resized - 1, step)]))
    outside = (at < 0) | (at >= n_resized)
    pixel = np.minimum(centres[np.where(outside, 0, at)].astype(np.int64), n_in - 1)
    return np.where(outside, -1, pixel)


def _pair(name: str, two: Any) -> Size:  # noqa: ANN401 - whatever a user gives
    """Height and width.

    Raises:
        ArgumentError: something else.
    """
    both = tuple(two)
    whole = all(isinstance(one, int | np.integer) for one in both)
    if len(both) != 2 or not whole or min(both) < 1:
        message = f"`{name}` is (height, width) in whole pixels from 1, not {two!r}"
        raise ArgumentError(message)
    return int(both[0]), int(both[1])
