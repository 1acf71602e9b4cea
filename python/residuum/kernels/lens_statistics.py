"""Statistics of the logits of rows, without the logits: of arrays, and of a site."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from residuum import _residuum
from residuum.kernels.arrays import (
    MEMORY,
    Floats,
    floats,
    integers,
    optional,
    same_axis,
    site_blocks,
    unembedding,
)
from residuum.kernels.norms import Norm
from residuum.store import SiteArray

NO_TOKEN = 0xFFFF_FFFF
"""In `top_ids` and `target_rank`: there is none."""


@dataclass(frozen=True, eq=False)
class LensStats:
    """What the logits of each row say, without the logits.

    Ranks count from 0; probabilities are natural logarithms, entropies and divergences in nats.
    Without a reference or targets the arrays about them are empty.

    Attributes:
        top_ids: uint32 `[row, k]`, the likeliest tokens, best first; equal logits by lower id.
        top_logits: float32 `[row, k]`.
        top_logprobs: float32 `[row, k]`.
        lse: float32 `[row]`, the log of the sum of exponentials of all logits.
        entropy: float32 `[row]`.
        kl_to_reference: float32 `[row]`, KL(reference || row).
        target_logit: float32 `[row]`, NaN without a target.
        target_logprob: float32 `[row]`, NaN without a target.
        target_rank: uint32 `[row]`, `NO_TOKEN` without a target.
    """

    top_ids: NDArray[np.uint32]
    top_logits: Floats
    top_logprobs: Floats
    lse: Floats
    entropy: Floats
    kl_to_reference: Floats
    target_logit: Floats
    target_logprob: Floats
    target_rank: NDArray[np.uint32]


def lens(
    x: ArrayLike,
    w_u: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    reference: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    k: int = 5,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> LensStats:
    """Unembed rows that are normed already, and keep statistics instead of logits.

    Args:
        x: `[row, d_model]`.
        w_u: `[d_model, d_vocab]`; the transpose of a contiguous array is read in place.
        bias: `[d_vocab]`.
        reference: `[row, d_model]`, normed rows to compare with; `x` itself costs nothing more.
        targets: integers `[row]`, negative for none.
        k: length of the top lists; d_vocab if that is less.
        logit_scale: factor on the logits.
        softcap: `softcap * tanh(logit / softcap)` where given.

    Raises:
        ArgumentError: axes that do not fit, or a target beyond the vocabulary.
    """
    rows = floats("x", x, 2)
    compared = rows if reference is x else optional("reference", reference, 2)
    weight, transposed = unembedding(w_u, rows, compared)
    found = _residuum.lens(
        rows,
        weight,
        transposed=transposed,
        bias=optional("bias", bias, 1),
        reference=compared,
        targets=None if targets is None else integers("targets", targets),
        k=k,
        logit_scale=logit_scale,
        softcap=softcap,
    )
    return LensStats(**found)


def site_lens(
    site: SiteArray,
    layer: int | None,
    w_u: ArrayLike,
    *,
    norm: Norm | None = None,
    reference: tuple[SiteArray, int | None] | None = None,
    bias: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    k: int = 5,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    memory_bytes: int = MEMORY,
) -> LensStats:
    """`lens` of all rows of one layer of a site; only the statistics of all rows are in memory.

    Args:
        site: `resid_post` or another site of `[row, d_model]`.
        layer: its layer; None for a site without layers.
        w_u: `[d_model, d_vocab]`.
        norm: the model's final norm, for rows and reference; None where the site is normed.
        reference: site and layer to compare with, row by row.
        bias: as for `lens`.
        targets: as for `lens`.
        k: as for `lens`.
        logit_scale: as for `lens`.
        softcap: as for `lens`.
        memory_bytes: budget for rows.

    Raises:
        SiteError: a layer that was not captured.
        ArgumentError: as for `lens`, a budget below one row, or a reference of other rows.
    """
    ids = None if targets is None else integers("targets", targets)
    if ids is not None:
        same_axis("row", (site.name, site.n_row), ("targets", len(ids)))
    if reference is not None:
        same_axis("row", (site.name, site.n_row), (reference[0].name, reference[0].n_row))
    norm = norm or Norm("none")

    def normed(of: SiteArray, at: int | None, rows: slice) -> Floats:
        return norm.apply(of.read(rows, at, dtype=np.float32).reshape(rows.stop - rows.start, -1))

    found = []
    copies = 2 if reference is None else 4  # as it is read and as it is normed
    for rows in site_blocks(site, copies * 4 * site.row_len, memory_bytes):
        x = normed(site, layer, rows)
        found.append(
            lens(
                x,
                w_u,
                bias=bias,
                reference=None if reference is None else normed(*reference, rows),
                targets=None if ids is None else ids[rows],
                k=k,
                logit_scale=logit_scale,
                softcap=softcap,
            )
        )
    names = [field.name for field in fields(LensStats)]
    return LensStats(**{n: np.concatenate([getattr(one, n) for one in found]) for n in names})
