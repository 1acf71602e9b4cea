"""Products of matrices, and what heads add along directions: of arrays, and of a site."""

import numpy as np
from numpy.typing import ArrayLike

from residuum import _residuum
from residuum.kernels.arrays import MEMORY, Floats, floats, matrix, optional, same_axis, site_blocks
from residuum.store import SiteArray


def matmul(a: ArrayLike, b: ArrayLike) -> Floats:
    """The product `[m, k] @ [k, n]`; transposes of contiguous arrays are read in place.

    Raises:
        ArgumentError: axes that do not fit.
    """
    (left, transposed_a), (right, transposed_b) = matrix("a", a), matrix("b", b)
    m = left.shape[1] if transposed_a else left.shape[0]
    n = right.shape[0] if transposed_b else right.shape[1]
    out = np.empty((m, n), np.float32)
    _residuum.matmul(left, right, out, transposed_a=transposed_a, transposed_b=transposed_b)
    return out


def attribution(
    z: ArrayLike, w_o: ArrayLike, directions: ArrayLike, *, scale: ArrayLike | None = None
) -> Floats:
    """What each head adds along directions, `z @ W_O[head] @ directions / scale`; no `head_out`.

    Args:
        z: `[row, head, d_head]`.
        w_o: `[head, d_head, d_model]`.
        directions: `[d_model, direction]`; see `Norm.fold` for directions behind a norm.
        scale: the frozen norm's divisor, `[row]`.

    Returns:
        `[row, head, direction]`.

    Raises:
        ArgumentError: axes that do not fit.
    """
    rows, weight = floats("z", z, 3), floats("w_o", w_o, 3)
    folded = floats("directions", directions, 2)
    same_axis("head", ("z", rows.shape[1]), ("w_o", weight.shape[0]))
    same_axis("d_head", ("z", rows.shape[2]), ("w_o", weight.shape[1]))
    same_axis("d_model", ("w_o", weight.shape[2]), ("directions", folded.shape[0]))
    out = np.empty((rows.shape[0], rows.shape[1], folded.shape[1]), np.float32)
    _residuum.attribution(rows, weight, folded, optional("scale", scale, 1), out)
    return out


def site_attribution(
    z: SiteArray,
    layer: int | None,
    w_o: ArrayLike,
    directions: ArrayLike,
    *,
    scale: ArrayLike | None = None,
    memory_bytes: int = MEMORY,
) -> Floats:
    """`attribution` of all rows of one layer of `z`; only the result is in memory.

    Raises:
        SiteError: a layer that was not captured.
        ArgumentError: as for `attribution`, or a budget below one row.
    """
    weight, folded = floats("w_o", w_o, 3), floats("directions", directions, 2)
    divisor = None if scale is None else floats("scale", scale, 1)
    if divisor is not None:
        same_axis("row", (z.name, z.n_row), ("scale", len(divisor)))
    out = np.empty((z.n_row, weight.shape[0], folded.shape[1]), np.float32)
    for rows in site_blocks(z, 4 * z.row_len, memory_bytes):
        values = z.read(rows, layer, dtype=np.float32)
        part = None if divisor is None else divisor[rows]
        out[rows] = attribution(values, weight, folded, scale=part)
    return out
