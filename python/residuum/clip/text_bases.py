"""TextSpan: the texts that span what each head says, from one pass over `z`.

    bases = text_bases(store, texts)        means and covariances of z / sigma, once; then no image

A head's outputs in the joint space are `z @ R / sigma` with `R = W_O[head] @ folded`, so that their
covariance is `R' Cov(z / sigma) R`: `d_head` wide, whatever the number of images (Gandelsman et al.
2024, section 4; the published form multiplies all images by all texts at every step).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum import kernels
from residuum.clip.effects import BLOCK, finite
from residuum.clip.stored import Stored
from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

    from residuum.clip.images import Images
    from residuum.clip.tower import Tower
    from residuum.kernels import HeadMoments
    from residuum.store import Store

    Wide = NDArray[np.float64]

N_TEXT = 20
"""Texts of a head, as in the paper's commands."""
FLAT = 1e-10
"""Directions whose share of the largest second moment is below it are rounding."""


@dataclass(frozen=True, eq=False)
class HeadBasis:
    """What one head says, in texts.

    Attributes:
        layer, head: which.
        texts: int64 `[pick]`, numbers of the texts, in the order in which they were picked.
        explained: float64 `[pick]`, share of the head's variance that each takes away.
        variance: of the head's outputs, over all directions.
        mean: float64 `[d_embed]`, of the head's outputs.
        directions: float64 `[pick, d_embed]`, unit vectors at right angles.
    """

    layer: int
    head: int
    texts: NDArray[np.int64]
    explained: Wide
    variance: float
    mean: Wide
    directions: Wide


def text_bases(
    store: Store | Stored | str | Path,
    texts: ArrayLike,
    *,
    layers: Sequence[int] | None = None,
    n_text: int = N_TEXT,
    rank: int | None = None,
    examples: ArrayLike | None = None,
    unit: bool = False,
) -> list[HeadBasis]:
    """Find the texts that span each head of some layers.

    Args:
        store: with `z` and `resid_final` of class tokens.
        texts: `[text, d_embed]`, unit vectors of the pool.
        layers: which layers; the last four by default, as in the paper.
        n_text: texts of a head at most; fewer where they explain all of its variance.
        rank: leading directions of a head's outputs that texts are compared in; all by default.
        examples: numbers of the examples; all by default.
        unit: divide by the length of each image's vector, as the paper's code does.

    Raises:
        StoreError: no CLIP vision tower.
        SiteError: a site or layer that was not captured.
        ArgumentError: texts of another width, no image, or numbers below 1.
    """
    stored = Stored.of(store)
    images = stored.images(examples)
    pool = np.ascontiguousarray(finite("texts", texts))
    if not len(pool):
        message = "heads are named by one text at least: the pool is empty"
        raise ArgumentError(message)
    _check(pool, stored.tower, n_text, rank)
    if not len(images):
        message = "means and covariances of heads need one image at least"
        raise ArgumentError(message)
    z = stored.store["z"]
    chosen = stored.layers[-4:] if layers is None else [z.one_layer(layer) for layer in layers]
    scale = np.concatenate(
        [
            _scale(stored, images.taken(place), unit=unit)
            for place in images.blocks(8 * stored.tower.w_o.shape[-1], BLOCK)
        ]
    )
    found = []
    whole = stored.tower.astype(np.float64).along(np.eye(stored.tower.d_embed))
    for layer in chosen:
        moments = kernels.site_head_moments(z, layer, images.row, scale)
        for head, weight in enumerate(stored.tower.w_o[layer]):
            through = weight.astype(np.float64) @ whole
            found.append(_basis(through, moments, (layer, head), pool, n_text, rank))
    return found


def _scale(stored: Stored, images: Images, *, unit: bool) -> NDArray[np.float32]:
    """What `z` of each image is divided by: sigma, and with `unit` the vector's length too."""
    final = stored.final(images)
    divisor = stored.tower.divisor(final)
    length = np.linalg.norm(stored.tower.embedding(final), axis=-1) if unit else 1
    return np.asarray(divisor * length, np.float32)


def _check(pool: NDArray[Any], tower: Tower, n_text: int, rank: int | None) -> None:
    if pool.ndim != 2 or pool.shape[1] != tower.d_embed:
        message = (
            f"texts are [text, {tower.d_embed}] for this model, not {list(pool.shape)}: take the "
            "text tower of the same CLIP model"
        )
        raise ArgumentError(message)
    if n_text < 1 or (rank is not None and rank < 1):
        message = f"n_text and rank are at least 1, not {n_text} and {rank}"
        raise ArgumentError(message)


def _basis(
    through: Wide,
    moments: HeadMoments,
    place: tuple[int, int],
    pool: NDArray[np.float32],
    n_text: int,
    rank: int | None,
) -> HeadBasis:
    layer, head = place
    mean, covariance = moments.mean[head], moments.covariance[head]
    span = head_span(through, covariance + np.outer(mean, mean), rank)  # [d_embed, d]
    inside = through @ span  # [d_head, d]
    basis = kernels.textspan(
        kernels.matmul(pool, span.astype(np.float32)), inside.T @ covariance @ inside, n_text
    )
    total = float((covariance * (through @ through.T)).sum())
    return HeadBasis(
        layer,
        head,
        basis.texts,
        basis.explained / total if total > 0 else basis.explained,
        total,
        mean @ through,
        basis.directions @ span.T,
    )


def head_span(through: Wide, second: Wide, rank: int | None = None) -> Wide:
    """The leading right singular vectors of a head's outputs, not centred, `[d_embed, d]`.

    Args:
        through: R, `[d_head, d_embed]`: outputs are `z @ R / sigma`.
        second: mean of products of `z / sigma`, `[d_head, d_head]`.
        rank: how many at most; those in which there is nothing are left out in any case.
    """
    # R = root @ rows with orthonormal rows, so that all else is d_head wide.
    lengths, turns = _leading(through @ through.T)
    root = turns * np.sqrt(lengths)
    rows = (turns / np.sqrt(lengths)).T @ through
    _, inside = _leading(root.T @ second @ root)
    return np.asarray(rows.T @ inside[:, :rank])


def _leading(matrix: Wide) -> tuple[Wide, Wide]:
    """Eigenvalues that are not rounding, largest first, and their vectors `[d, eigenvalue]`."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > FLAT * max(values.max(initial=0.0), 0.0)
    return values[kept][::-1], vectors[:, kept][:, ::-1]
