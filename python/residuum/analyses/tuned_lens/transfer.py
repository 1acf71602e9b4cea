"""A layer's translator on another's states, and how alike layers' covariances are (T4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from residuum import kernels
from residuum.analyses.rows import NO_TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from residuum.analyses.tuned_lens.study import Study

OUTLIER = 100.0
"""Times the median variance."""


def transfer(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of the table `transfer`: every translator on every state but the last."""
    layers = study.layers[:-1]
    kl = np.zeros((len(layers), len(layers)))
    ce, n, n_target = np.zeros_like(kl), 0, 0
    for rows in study.blocks(study.judged):
        final = study.final(rows)
        has = study.tokens.target_id[rows] != NO_TOKEN
        n, n_target = n + len(rows), n_target + int(has.sum())
        for j, at in enumerate(layers):
            states = study.states.finite(at, rows)
            for i, translator in enumerate(layers):
                normed = study.normed(study.lens, translator, states)
                seen = study.statistics(normed, final, rows)
                kl[i, j] += seen.kl_to_reference.sum(dtype=np.float64)
                ce[i, j] -= seen.target_logprob[has].sum(dtype=np.float64)
    for i, translator in enumerate(layers):
        for j, at in enumerate(layers):
            yield {
                "model": study.model,
                "translator_layer": translator,
                "state_layer": at,
                "kl_nats": kl[i, j] / n,
                "ce_nats": ce[i, j] / n_target if n_target else None,
                "kl_penalty": (kl[i, j] - kl[j, j]) / n,
                "n_tokens": n,
            }


def covariance(study: Study) -> Iterator[dict[str, Any]]:
    """Rows of the table `covariance`, of all rows, with and without outlier features."""
    found = [_covariance(study, layer) for layer in study.layers]
    variances = np.array([np.diag(one) for one in found])
    outlier = (variances > OUTLIER * np.median(variances, 1, keepdims=True)).any(0)
    inner = [one[np.ix_(~outlier, ~outlier)] for one in found]
    for i, layer in enumerate(study.layers):
        for j, other in enumerate(study.layers):
            yield {
                "model": study.model,
                "layer": layer,
                "other_layer": other,
                "cosine": _cosine(found[i], found[j]),
                "cosine_without_outliers": _cosine(inner[i], inner[j]),
                "n_outliers": int(outlier.sum()),
                "n_tokens": study.store.rows["token"],
            }


def _covariance(study: Study, layer: int) -> NDArray[np.float64]:
    site, at = study.states.require(layer)
    found = kernels.site_moments(study.store[site], at, covariance=True).covariance
    assert found is not None
    return found


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    size = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float((a * b).sum()) / size if size else None
