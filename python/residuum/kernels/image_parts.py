"""What heads and image patches of a vision model say: maps, moments of heads, bases of texts."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from residuum import _residuum
from residuum.errors import ArgumentError
from residuum.kernels.arrays import MEMORY, Floats, floats, optional, same_axis
from residuum.store import SiteArray


@dataclass(frozen=True, eq=False)
class TextBasis:
    """The texts that span what a head says, in the order in which they were picked.

    Attributes:
        texts: int64 `[pick]`, rows of the pool.
        explained: float64 `[pick]`, the variance that each takes away.
        directions: float64 `[pick, d]`, unit vectors at right angles: what is left of each text
            after those before it.
        total: the variance there was.
    """

    texts: NDArray[np.int64]
    explained: NDArray[np.float64]
    directions: NDArray[np.float64]
    total: float


def textspan(texts: ArrayLike, covariance: ArrayLike, n_pick: int) -> TextBasis:
    """Pick texts greedily by the variance of a head's outputs along them (TextSpan).

    The text along which outputs vary most is picked, its direction is taken out of outputs and
    texts, and so on (Gandelsman et al. 2024, section 4). A step costs `text * d` whatever the
    number of images, because their covariance stands for them. Of equal scores the first text is
    picked; fewer than `n_pick` are where nothing is left to explain.

    Args:
        texts: `[text, d]`, not normalised: what of each text lies in the head's own space.
        covariance: `[d, d]`, float64, of the head's outputs in the same coordinates.
        n_pick: how many at most.

    Raises:
        ArgumentError: shapes that do not fit.
    """
    pool = floats("texts", texts, 2)
    matrix: NDArray[np.float64] = np.ascontiguousarray(covariance, np.float64)
    if matrix.shape != (pool.shape[1], pool.shape[1]):
        message = f"`covariance` is {list(matrix.shape)}, but texts are {pool.shape[1]} wide"
        raise ArgumentError(message)
    if n_pick < 1:
        message = f"n_pick is at least 1, not {n_pick}"
        raise ArgumentError(message)
    return TextBasis(*_residuum.textspan(pool, matrix, n_pick))


def image_patch_maps(
    pattern: ArrayLike,
    v: ArrayLike,
    readout: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    summed: bool = False,
) -> Floats:
    """What each token adds along directions through the attention of the class token.

    `pattern * (v @ readout[head]) / scale` (Gandelsman et al. 2024, section 3); over tokens it sums
    to what the head adds.

    Args:
        pattern: `[image, head, token]`, the class token's row.
        v: `[image, token, head, d_head]`.
        readout: `[head, d_head, direction]`: directions seen through W_O and what lies behind.
        scale: the frozen norm's divisor, `[image]`.
        summed: add up the heads.

    Returns:
        `[image, head, token, direction]`, or `[image, token, direction]` where summed.

    Raises:
        ArgumentError: axes that do not fit.
    """
    weights, values = floats("pattern", pattern, 3), floats("v", v, 4)
    through = floats("readout", readout, 3)
    n_image, n_head, n_token = weights.shape
    same_axis("image", ("pattern", n_image), ("v", values.shape[0]))
    same_axis("token", ("pattern", n_token), ("v", values.shape[1]))
    same_axis("head", ("pattern", n_head), ("v", values.shape[2]))
    same_axis("head", ("pattern", n_head), ("readout", through.shape[0]))
    same_axis("d_head", ("v", values.shape[3]), ("readout", through.shape[1]))
    shape = (n_image, *(() if summed else (n_head,)), n_token, through.shape[2])
    out = np.empty(shape, np.float32)
    _residuum.image_patch_maps(weights, values, through, optional("scale", scale, 1), out)
    return out


@dataclass(frozen=True, eq=False)
class HeadMoments:
    """Mean and covariance of what each head of a layer has.

    Attributes:
        mean: float64 `[head, d_head]`.
        covariance: float64 `[head, d_head, d_head]`, divided by the number of rows.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def site_head_moments(
    z: SiteArray,
    layer: int,
    rows: NDArray[np.int64],
    scale: ArrayLike,
    *,
    memory_bytes: int = MEMORY,
) -> HeadMoments:
    """Moments of `z / scale` of every head of a layer, over some rows, in one pass.

    Args:
        z: a site with heads.
        layer: one that was captured.
        rows: int64 `[row]`.
        scale: `[row]`, what each row is divided by.
        memory_bytes: for the rows that are read at once.

    Raises:
        SiteError: the layer was not captured.
        ArgumentError: a budget below one row, or another number of divisors than rows.
        SelectionError: a row that the site does not have.
    """
    divisors = floats("scale", scale, 1)
    numbers = np.ascontiguousarray(rows, np.uint64)
    same_axis("row", ("rows", len(numbers)), ("scale", len(divisors)))
    found = _residuum.site_head_moments(
        z.core, z.one_layer(layer), numbers, divisors, memory_bytes=memory_bytes
    )
    return HeadMoments(*found)


def subset_scores(
    logits: ArrayLike,
    lost: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    sets: ArrayLike,
) -> NDArray[np.int64]:
    """How many images of each group are told right where sets of components are ablated.

    Args:
        logits: `[image, class]`, with every component.
        lost: `[component, image, class]`, what the ablation of each takes away.
        labels: whole numbers `[image]`, the class of each image.
        groups: whole numbers `[image]` from 0.
        sets: whole numbers `[set, size]`, components; sets that begin alike cost least side by
            side.

    Returns:
        int64 `[set, group]`.

    Raises:
        ArgumentError: axes that do not fit, or numbers out of range.
    """
    base, taken = floats("logits", logits, 2), floats("lost", lost, 3)
    same_axis("image", ("logits", base.shape[0]), ("lost", taken.shape[1]))
    same_axis("class", ("logits", base.shape[1]), ("lost", taken.shape[2]))
    of, where = _counts("labels", labels, 1), _counts("groups", groups, 1)
    n_group = int(where.max()) + 1 if len(where) else 0
    found = _residuum.subset_scores(base, taken, of, where, _counts("sets", sets, 2), n_group)
    return found.astype(np.int64)


def _counts(name: str, values: ArrayLike, n_axis: int) -> NDArray[np.uint32]:
    array = np.asarray(values)
    if array.ndim != n_axis or (array.size and (array.dtype.kind not in "iu" or array.min() < 0)):
        message = (
            f"`{name}` are whole numbers from 0 along {n_axis} axes, not {array.dtype} "
            f"{list(array.shape)}"
        )
        raise ArgumentError(message)
    return np.ascontiguousarray(array, np.uint32)
