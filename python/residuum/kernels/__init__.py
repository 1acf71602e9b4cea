"""Typed doors to the compiled kernels: arrays in, arrays out.

Inputs are anything numpy takes and are read as float32, without a copy where they are that already.
Long sums are float64; results do not depend on the number of threads. A NaN in a row makes that
row's results NaN, never another row's.

    lens_statistics, lens_losses    rows to logits, and what is kept of those
    norms                           what stands before that
    products                        matrices, and heads along directions
    clustering, neighbours          rows among rows
    covariances                     features: moments, principal components
    image_parts                     heads and patches of a vision model, and texts that span them
    arrays                          checks that all of them share

Modules are not called like the functions in them, which are this package's own names.
"""

from residuum.kernels.arrays import MEMORY, Floats
from residuum.kernels.clustering import Kmeans, kmeans, site_kmeans
from residuum.kernels.covariances import Moments, Pca, moments, pca, site_moments
from residuum.kernels.image_parts import (
    HeadMoments,
    TextBasis,
    image_patch_maps,
    site_head_moments,
    subset_scores,
    textspan,
)
from residuum.kernels.lens_losses import Judged, lens_gradients, lens_judge
from residuum.kernels.lens_statistics import NO_TOKEN, LensStats, lens, site_lens
from residuum.kernels.neighbours import Neighbours, knn, site_knn
from residuum.kernels.norms import Norm, layer_norm, rms_norm
from residuum.kernels.products import attribution, matmul, site_attribution

__all__ = [
    "MEMORY",
    "NO_TOKEN",
    "Floats",
    "HeadMoments",
    "Judged",
    "Kmeans",
    "LensStats",
    "Moments",
    "Neighbours",
    "Norm",
    "Pca",
    "TextBasis",
    "attribution",
    "image_patch_maps",
    "kmeans",
    "knn",
    "layer_norm",
    "lens",
    "lens_gradients",
    "lens_judge",
    "matmul",
    "moments",
    "pca",
    "rms_norm",
    "site_attribution",
    "site_head_moments",
    "site_kmeans",
    "site_knn",
    "site_lens",
    "site_moments",
    "subset_scores",
    "textspan",
]
