"""Typed doors to the compiled kernels: arrays in, arrays out.

Inputs are anything numpy takes and are read as float32, without a copy where they are that already.
Long sums are float64; results do not depend on the number of threads. A NaN in a row makes that
row's results NaN, never another row's.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from residuum import _residuum
from residuum.errors import ArgumentError
from residuum.store import SiteArray
from residuum.store.batches import blocks

Floats = NDArray[np.float32]

MEMORY = 512 << 20
"""Bytes that the kernels over a site use at most, unless told otherwise."""


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


NO_TOKEN = 0xFFFF_FFFF
"""In `top_ids` and `target_rank`: there is none."""


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
    rows = _floats("x", x, 2)
    compared = rows if reference is x else _optional("reference", reference, 2)
    weight, transposed = _unembedding(w_u, rows, compared)
    found = _residuum.lens(
        rows,
        weight,
        transposed=transposed,
        bias=_optional("bias", bias, 1),
        reference=compared,
        targets=None if targets is None else _integers("targets", targets),
        k=k,
        logit_scale=logit_scale,
        softcap=softcap,
    )
    return LensStats(**found)


def lens_gradients(
    x: ArrayLike,
    w_u: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    reference: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> tuple[Floats, Floats]:
    """How far several lenses of the same rows are off, and which way is better.

    The loss of a row is `KL(reference || row)` or, with targets, cross-entropy; in nats. The
    logits of 128 rows a thread are in memory, and the reference's of some hundred.

    Args:
        x: `[layer, row, d_model]`, normed.
        w_u: `[d_model, d_vocab]`; the transpose of a contiguous array is read in place.
        bias: `[d_vocab]`.
        reference: `[row, d_model]`, normed; the model's own last rows.
        targets: in its place, integers `[row]`, negative for none: no loss and no gradient.
        logit_scale: factor on the logits.
        softcap: `softcap * tanh(logit / softcap)` where given.

    Returns:
        float32 `[layer, row]` and, by the entries of `x`, `[layer, row, d_model]`.

    Raises:
        ArgumentError: axes that do not fit, a target beyond the vocabulary, or not just one of
            reference and targets.
    """
    rows = _floats("x", x, 3)
    compared = _optional("reference", reference, 2)
    weight, transposed = _unembedding(w_u, rows, compared)
    loss, gradient = np.zeros(rows.shape[:2], np.float32), np.zeros(rows.shape, np.float32)
    if (reference is None) == (targets is None):
        message = "a lens learns from a reference or from targets: give one of them"
        raise ArgumentError(message)
    if rows.size:
        _residuum.lens_gradients(
            rows,
            weight,
            loss,
            gradient,
            transposed=transposed,
            bias=_optional("bias", bias, 1),
            reference=compared,
            targets=None if targets is None else _integers("targets", targets),
            logit_scale=logit_scale,
            softcap=softcap,
        )
    return loss, gradient


@dataclass(frozen=True, eq=False)
class Judged:
    """How far lenses are from the model's own predictions; by layer and row unless said.

    Attributes:
        kl: `KL(reference || row)`, nats. float32.
        entropy: of the softmax, nats. float32.
        top_id: uint32, the token with the largest logit; `NO_TOKEN` if one is NaN.
        target_logprob: nats; NaN without a target. float32.
        marginal: float64 `[layer, d_vocab]`, the sum over rows of their probabilities.
    """

    kl: Floats
    entropy: Floats
    top_id: NDArray[np.uint32]
    target_logprob: Floats
    marginal: NDArray[np.float64]


def lens_judge(
    x: ArrayLike,
    w_u: ArrayLike,
    reference: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    targets: ArrayLike | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
) -> Judged:
    """How far several lenses of the same rows are from a reference, in one product each.

    The reference's distributions of 128 rows are in memory, and the logits of 64 a thread.

    Args:
        x: `[layer, row, d_model]`, normed.
        w_u: `[d_model, d_vocab]`; the transpose of a contiguous array is read in place.
        reference: `[row, d_model]`, normed; the model's own last rows.
        bias: `[d_vocab]`.
        targets: integers `[row]`, negative for none.
        logit_scale: factor on the logits.
        softcap: `softcap * tanh(logit / softcap)` where given.

    Raises:
        ArgumentError: axes that do not fit, or a target beyond the vocabulary.
    """
    rows, compared = _floats("x", x, 3), _floats("reference", reference, 2)
    weight, transposed = _unembedding(w_u, rows, compared)
    shape = rows.shape[:2]
    found = Judged(
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
        np.full(shape, NO_TOKEN, np.uint32),
        np.full(shape, np.nan, np.float32),
        np.zeros((shape[0], weight.shape[0] if transposed else weight.shape[1])),
    )
    if rows.size:
        _residuum.lens_judge(
            rows,
            weight,
            compared,
            found.kl,
            found.entropy,
            found.top_id,
            found.target_logprob,
            found.marginal,
            transposed=transposed,
            bias=_optional("bias", bias, 1),
            targets=None if targets is None else _integers("targets", targets),
            logit_scale=logit_scale,
            softcap=softcap,
        )
    return found


@dataclass(frozen=True, eq=False)
class Norm:
    """A model's normalisation.

    Attributes:
        kind: "layer_norm", "rms_norm" or "none".
        eps: added to the variance or mean square.
        offset: added to the gain: 1 for models that store `gain - 1`.
        weight: gain `[d_model]`; None is 1, and then `offset` is not used.
        bias: shift `[d_model]`; None is 0.
    """

    kind: str
    eps: float = 0.0
    offset: float = 0.0
    weight: ArrayLike | None = None
    bias: ArrayLike | None = None

    def apply(self, x: ArrayLike) -> Floats:
        """Normalise rows: `[row, d_model]` to float32 of the same shape.

        Raises:
            ArgumentError: axes that do not fit.
        """
        rows = _floats("x", x, 2)
        out = np.empty_like(rows)
        self._core().apply(rows, out)
        return out

    def scale(self, x: ArrayLike) -> Floats:
        """The divisor of every row: `[row, d_model]` to `[row]`; what `norm_scale` holds.

        Raises:
            ArgumentError: axes that do not fit.
        """
        return self._core().scale(_floats("x", x, 2))

    def fold(self, directions: ArrayLike) -> tuple[Floats, Floats]:
        """Directions seen through the norm with each row's divisor frozen.

        `norm(x) @ directions == x @ folded / scale(x)[:, None] + constant`.

        Args:
            directions: `[d_model, direction]`.

        Returns:
            folded `[d_model, direction]` and constant `[direction]`.

        Raises:
            ArgumentError: axes that do not fit.
        """
        return self._core().fold(_floats("directions", directions, 2))

    def _core(self) -> _residuum.Norm:
        return _residuum.Norm(
            self.kind,
            eps=self.eps,
            offset=self.offset,
            weight=_optional("weight", self.weight, 1),
            bias=_optional("bias", self.bias, 1),
        )


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
    ids = None if targets is None else _integers("targets", targets)
    if ids is not None:
        _same_axis("row", (site.name, site.n_row), ("targets", len(ids)))
    if reference is not None:
        _same_axis("row", (site.name, site.n_row), (reference[0].name, reference[0].n_row))
    norm = norm or Norm("none")

    def normed(of: SiteArray, at: int | None, rows: slice) -> Floats:
        return norm.apply(of.read(rows, at, dtype=np.float32).reshape(rows.stop - rows.start, -1))

    found = []
    copies = 2 if reference is None else 4  # as it is read and as it is normed
    for rows in _blocks(site, copies * 4 * site.row_len, memory_bytes):
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


def layer_norm(
    x: ArrayLike, weight: ArrayLike | None = None, bias: ArrayLike | None = None, *, eps: float
) -> Floats:
    """Layer norm of `x [row, d_model]`, gain and shift `[d_model]`."""
    return Norm("layer_norm", eps, 0.0, weight, bias).apply(x)


def rms_norm(
    x: ArrayLike, weight: ArrayLike | None = None, *, eps: float, offset: float = 0.0
) -> Floats:
    """Root-mean-square norm of `x [row, d_model]`, gain `[d_model]` plus `offset`."""
    return Norm("rms_norm", eps, offset, weight).apply(x)


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
    rows, weight = _floats("z", z, 3), _floats("w_o", w_o, 3)
    folded = _floats("directions", directions, 2)
    _same_axis("head", ("z", rows.shape[1]), ("w_o", weight.shape[0]))
    _same_axis("d_head", ("z", rows.shape[2]), ("w_o", weight.shape[1]))
    _same_axis("d_model", ("w_o", weight.shape[2]), ("directions", folded.shape[0]))
    out = np.empty((rows.shape[0], rows.shape[1], folded.shape[1]), np.float32)
    _residuum.attribution(rows, weight, folded, _optional("scale", scale, 1), out)
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
    weight, folded = _floats("w_o", w_o, 3), _floats("directions", directions, 2)
    divisor = None if scale is None else _floats("scale", scale, 1)
    if divisor is not None:
        _same_axis("row", (z.name, z.n_row), ("scale", len(divisor)))
    out = np.empty((z.n_row, weight.shape[0], folded.shape[1]), np.float32)
    for rows in _blocks(z, 4 * z.row_len, memory_bytes):
        values = z.read(rows, layer, dtype=np.float32)
        part = None if divisor is None else divisor[rows]
        out[rows] = attribution(values, weight, folded, scale=part)
    return out


def _blocks(site: SiteArray, row_bytes: int, budget: int) -> list[slice]:
    """Rows of a site in blocks within a budget; one of no rows where there are none."""
    if budget < row_bytes:
        message = f"memory_bytes is {budget}, but one row of `{site.name}` takes {row_bytes}"
        raise ArgumentError(message)
    return list(blocks(site.n_row, row_bytes, budget)) or [slice(0, 0)]


def matmul(a: ArrayLike, b: ArrayLike) -> Floats:
    """The product `[m, k] @ [k, n]`; transposes of contiguous arrays are read in place.

    Raises:
        ArgumentError: axes that do not fit.
    """
    (left, transposed_a), (right, transposed_b) = _matrix("a", a), _matrix("b", b)
    m = left.shape[1] if transposed_a else left.shape[0]
    n = right.shape[0] if transposed_b else right.shape[1]
    out = np.empty((m, n), np.float32)
    _residuum.matmul(left, right, out, transposed_a=transposed_a, transposed_b=transposed_b)
    return out


@dataclass(frozen=True, eq=False)
class Kmeans:
    """Clusters of rows.

    Attributes:
        centres: float32 `[cluster, d]`.
        labels: int32 `[row]`, the nearest centre; -1 for rows with NaN or infinity.
        distances: float32 `[row]`, to that centre; NaN where there is none.
        inertia: sum of squared distances.
        n_iteration: moves of the centres in the run that was kept.
        n_sample: rows behind the centres.
    """

    centres: Floats
    labels: NDArray[np.int32]
    distances: Floats
    inertia: float
    n_iteration: int
    n_sample: int


def kmeans(
    x: ArrayLike,
    k: int,
    *,
    start: ArrayLike | None = None,
    seed: int = 0,
    restarts: int = 4,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
) -> Kmeans:
    """Cluster rows `[row, d]` by Lloyd's algorithm from k-means++ starts, or from given centres.

    Args:
        x: `[row, d]`.
        k: number of clusters.
        start: `[k, d]`, the centres to start from; there is one run then, and `seed` and `restarts`
            say nothing.
        seed: the same seed gives the same clusters.
        restarts: runs from different starts, of which the one with the least inertia is kept.
        max_iterations: moves of the centres in one run, at most.
        tolerance: a run ends when the squared move of the centres is below this share of the mean
            variance of the features.

    Raises:
        ArgumentError: fewer finite rows than clusters, or a `start` that is not `[k, d]`.
    """
    rows = _floats("x", x, 2)
    centres = None if start is None else _floats("start", start, 2)
    if centres is not None:
        _same_axis("d", ("x", rows.shape[1]), ("start", centres.shape[1]))
    found = _residuum.kmeans(
        rows,
        k,
        centres,
        seed=seed,
        n_init=restarts,
        max_iter=max_iterations,
        tol=tolerance,
    )
    return _kmeans(found)


def site_kmeans(
    site: SiteArray,
    layer: int | None,
    k: int,
    *,
    seed: int = 0,
    restarts: int = 4,
    max_iterations: int = 100,
    tolerance: float = 1e-4,
    memory_bytes: int = MEMORY,
) -> Kmeans:
    """Cluster all rows of one layer of a site; heads are part of the row.

    Where the rows exceed the budget, the centres come from evenly spaced rows that fit
    (`n_sample`); labels and distances are always those of all rows.

    Raises:
        SiteError: the layer was not captured.
        ArgumentError: fewer finite rows than clusters, or a budget below one row.
    """
    found = _residuum.site_kmeans(
        site.core,
        site.one_layer(layer),
        k,
        seed=seed,
        n_init=restarts,
        max_iter=max_iterations,
        tol=tolerance,
        memory_bytes=memory_bytes,
    )
    return _kmeans(found)


def _kmeans(found: dict[str, Any]) -> Kmeans:
    # The core's "no cluster" is the largest uint32, which is -1 in the same bits.
    return Kmeans(**{**found, "labels": found["labels"].view(np.int32)})


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest rows of each query, best first.

    Attributes:
        rows: int64 `[query, k]`, with k no more than there are rows; -1 where NaN or infinity left
            fewer to compare.
        scores: float32 `[query, k]`: cosine, inner product or distance; NaN where there is no row.
    """

    rows: NDArray[np.int64]
    scores: Floats


def knn(x: ArrayLike, queries: ArrayLike, k: int, *, metric: str = "cosine") -> Neighbours:
    """Find the rows of `x [row, d]` nearest to each of `queries [query, d]`, exactly.

    Args:
        x: `[row, d]`.
        queries: `[query, d]`.
        k: length of each list; the number of rows if that is less.
        metric: "cosine" or "dot" (larger is nearer), or "l2" (smaller is nearer).

    Raises:
        ArgumentError: axes that do not fit, or an unknown metric.
    """
    rows, asked = _floats("x", x, 2), _floats("queries", queries, 2)
    _same_axis("d", ("x", rows.shape[1]), ("queries", asked.shape[1]))
    return _neighbours(*_residuum.knn(rows, asked, k, metric))


def site_knn(
    site: SiteArray,
    layer: int | None,
    queries: ArrayLike,
    k: int,
    *,
    metric: str = "cosine",
    memory_bytes: int = MEMORY,
) -> Neighbours:
    """Find the rows of one layer nearest to `queries [query, d]`; heads are part of the row.

    Raises:
        SiteError: the layer was not captured.
        ArgumentError: axes that do not fit, an unknown metric, or a budget below one row.
    """
    asked = _floats("queries", queries, 2)
    _same_axis("d", (site.name, site.row_len), ("queries", asked.shape[1]))
    found = _residuum.site_knn(
        site.core, site.one_layer(layer), asked, k, metric, memory_bytes=memory_bytes
    )
    return _neighbours(*found)


def _neighbours(rows: NDArray[np.uint64], scores: Floats) -> Neighbours:
    # The core's "no row" is the largest uint64, which is -1 in the same bits.
    return Neighbours(rows.view(np.int64), scores)


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of every feature.

    Attributes:
        count: rows taken in.
        skipped: rows left out because of NaN or infinity.
        mean: float64 `[d]`.
        variance: float64 `[d]`.
        covariance: float64 `[d, d]`, where asked for.
    """

    count: int
    skipped: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    covariance: NDArray[np.float64] | None


def moments(x: ArrayLike, *, covariance: bool = False, ddof: int = 0) -> Moments:
    """Mean, variance and covariance of rows `[row, d]`, shifted, in float64.

    Args:
        x: `[row, d]`.
        covariance: whether to keep it, `d * d` numbers.
        ddof: what is subtracted from the count in the divisor.
    """
    return Moments(**_residuum.moments(_floats("x", x, 2), covariance, ddof))


def site_moments(
    site: SiteArray,
    layer: int | None,
    *,
    covariance: bool = False,
    ddof: int = 0,
    memory_bytes: int = MEMORY,
) -> Moments:
    """Moments of all rows of one layer of a site; heads are part of the row.

    Raises:
        SiteError: the layer was not captured.
        ArgumentError: a budget below one row.
    """
    found = _residuum.site_moments(
        site.core, site.one_layer(layer), covariance, ddof, memory_bytes=memory_bytes
    )
    return Moments(**found)


@dataclass(frozen=True, eq=False)
class Pca:
    """Principal components.

    Attributes:
        variances: float64 `[component]`, largest first.
        components: float64 `[component, d]`, unit vectors, the largest entry of each positive.
        total: sum of all variances.
    """

    variances: NDArray[np.float64]
    components: NDArray[np.float64]
    total: float


def pca(covariance: ArrayLike, n_component: int) -> Pca:
    """Principal components of a covariance `[d, d]`, as `moments` gives it.

    Raises:
        ArgumentError: it is not square or not finite, or has fewer features than components.
    """
    array: NDArray[np.float64] = np.ascontiguousarray(covariance, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        message = f"`covariance` is {list(array.shape)}, but must be [d, d]"
        raise ArgumentError(message)
    if n_component > array.shape[0]:
        message = f"{n_component} components were asked of {array.shape[0]} features"
        raise ArgumentError(message)
    return Pca(*_residuum.pca(array, n_component))


def _floats(name: str, values: ArrayLike, n_axis: int) -> Floats:
    array: NDArray[Any] = np.ascontiguousarray(values, dtype=np.float32)
    if array.ndim != n_axis:
        message = f"`{name}` has {array.ndim} axes, {list(array.shape)}, but needs {n_axis}"
        raise ArgumentError(message)
    return array


def _optional(name: str, values: ArrayLike | None, n_axis: int) -> Floats | None:
    return None if values is None else _floats(name, values, n_axis)


def _integers(name: str, values: ArrayLike) -> NDArray[np.int32]:
    array: NDArray[Any] = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        message = f"`{name}` is {array.dtype} {list(array.shape)}, but must be integers [row]"
        raise ArgumentError(message)
    if array.size and array.max() > np.iinfo(np.int32).max:
        message = f"`{name}` has {array.max()}, which is beyond every vocabulary"
        raise ArgumentError(message)
    return np.ascontiguousarray(np.maximum(array, -1), dtype=np.int32)


def _matrix(name: str, values: ArrayLike) -> tuple[Floats, bool]:
    """A matrix as C-contiguous float32, and whether that is its transpose."""
    array: NDArray[Any] = np.asarray(values)
    if array.ndim == 2 and array.T.flags.c_contiguous and not array.flags.c_contiguous:
        return _floats(name, array.T, 2), True
    return _floats(name, array, 2), False


def _unembedding(w_u: ArrayLike, x: Floats, reference: Floats | None = None) -> tuple[Floats, bool]:
    """The unembedding, and whether it lies transposed; refused if it does not fit the rows."""
    weight, transposed = _matrix("w_u", w_u)
    d_model = ("w_u", weight.shape[1] if transposed else weight.shape[0])
    for name, rows in (("x", x), ("reference", reference)):
        if rows is not None:
            _same_axis("d_model", (name, rows.shape[-1]), d_model)
    return weight, transposed


def _same_axis(axis: str, left: tuple[str, int], right: tuple[str, int]) -> None:
    if left[1] != right[1]:
        message = f"axis `{axis}` is {left[1]} in {left[0]} but {right[1]} in {right[0]}"
        raise ArgumentError(message)
