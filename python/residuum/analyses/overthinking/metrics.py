"""Measures of label probabilities, one number a prompt.

`p` is `[prompt, class]`, the probability in the full vocabulary of each label's first token. All
give float64 `[prompt]`, 1 for right, 0 for wrong.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

TINY = 1e-14
"""Added to probabilities before they are compared among labels, as in the paper's code."""


def calibrated(p: Floats, label: Labels) -> Floats:
    """Calibrated accuracy: is the label's share above that class's own threshold?

    Shares are of the labels alone. The threshold of a class is the (C-1)/C quantile of its share
    over the prompts; a share equal to it counts 1/C, which is chance. (Section 2 of the paper.)
    """
    n_class = p.shape[1]
    share = (p + TINY) / (p + TINY).sum(1, keepdims=True)
    threshold = np.quantile(share, (n_class - 1) / n_class, axis=0)
    own, limit = np.take_along_axis(share, label[:, None], 1)[:, 0], threshold[label]
    return np.asarray(np.where(own > limit, 1.0, np.where(own == limit, 1 / n_class, 0.0)))


def uncalibrated(p: Floats, label: Labels) -> Floats:
    """Is no other label likelier?"""
    own = np.take_along_axis(p, label[:, None], 1)[:, 0]
    return np.asarray(own >= p.max(1), np.float64)


def top_1(top: Labels, token_id: Labels, label: Labels) -> Floats:
    """Is the label's token the likeliest of all? `top` `[prompt, rank]`, `token_id` `[class]`."""
    return np.asarray(top[:, 0] == token_id[label], np.float64)


def top_match(top: Labels, token_id: Labels) -> Floats:
    """Are the likeliest tokens, as many as there are labels, just the labels?"""
    likeliest = np.sort(top[:, : len(token_id)], axis=1)
    return np.asarray((likeliest == np.sort(token_id)).all(1), np.float64)


class Mean(NamedTuple):
    """A mean over prompts and its standard error."""

    mean: float
    error: float
    n: int

    @property
    def band(self) -> dict[str, float | int]:
        """The mean with a band of 95 %: columns mean, lo, hi, n."""
        wide = 1.96 * self.error
        return {
            "mean": self.mean,
            "lo": self.mean - wide,
            "hi": self.mean + wide,
            "n": self.n,
        }


def mean_of(values: Floats) -> Mean:
    """The mean of one number a prompt."""
    n = len(values)
    return Mean(float(values.mean()), float(values.std(ddof=1) / np.sqrt(n)), n)


def average(means: list[Mean]) -> Mean:
    """The mean of independent means, each counting the same."""
    error = float(np.sqrt(sum(one.error**2 for one in means))) / len(means)
    return Mean(float(np.mean([one.mean for one in means])), error, sum(one.n for one in means))
