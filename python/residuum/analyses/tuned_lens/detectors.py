"""Detectors of odd inputs (T7): each learns what is usual from clean ones alone."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from residuum.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

LOF, FOREST, DISTANCE = "lof", "isolation_forest", "mahalanobis"


def scores(detector: str, clean: Doubles, asked: Doubles, *, neighbours: int, seed: int) -> Doubles:
    """How odd each of `asked [item, feature]` is, learnt from `clean`; larger is odder.

    Raises:
        ModuleNotFoundError: scikit-learn, which has the first two, is not installed.
    """
    if detector == DISTANCE:
        return relative_distance(clean, asked)
    if detector == LOF:
        k = min(neighbours, len(clean) - 1)
        found = _sklearn("neighbors").LocalOutlierFactor(n_neighbors=k, novelty=True)
    elif detector == FOREST:
        found = _sklearn("ensemble").IsolationForest(random_state=seed)
    else:
        message = f"there is no detector {detector!r}: there are {LOF}, {FOREST}, {DISTANCE}"
        raise ArgumentError(message)
    return np.asarray(-found.fit(clean).score_samples(asked))


def relative_distance(clean: Doubles, asked: Doubles) -> Doubles:
    """Simplified relative Mahalanobis distance: what features tell together, less what each alone.

    `x^T (S^-1 - diag(S)^-1) x` of centred rows. Features are often more than clean rows, so that S
    is shrunk towards its diagonal (Ledoit and Wolf's share); after Ren et al. 2022 and Belrose et
    al. 2023, whose own text we have not seen.
    """
    centre = clean.mean(0)
    spread = clean.std(0)
    use = spread > 0
    x, y = ((rows - centre)[:, use] / spread[use] for rows in (clean, asked))
    n, d = x.shape
    s = x.T @ x / n
    # Of features of variance 1 the diagonal is the identity.
    target = np.eye(d)
    away = float(((s - target) ** 2).sum())
    noise = float((((x * x).T @ (x * x)) / n - s**2).sum()) / n
    share = 1.0 if not away else min(1.0, noise / away)
    s = (1 - share) * s + share * target
    return np.asarray(np.einsum("ij,ij->i", y, np.linalg.solve(s, y.T).T) - (y * y).sum(1))


def _sklearn(part: str) -> Any:  # noqa: ANN401  a module without types
    try:
        return importlib.import_module(f"sklearn.{part}")
    except ModuleNotFoundError as error:
        message = (
            "local outlier factors and isolation forests are scikit-learn's, which is not "
            "installed: pip install 'residuum[detect]'"
        )
        raise ModuleNotFoundError(message, name=error.name) from error
