"""The doors of `residuum.kernels` against the definitions in numpy and float64."""

import pkgutil
import signal
from types import ModuleType

import numpy as np
import pytest
from store import made

from residuum import kernels
from residuum.errors import ArgumentError, SelectionError, SiteError
from residuum.store import Store

N_ROW, D, D_VOCAB, N_HEAD, D_HEAD = 23, 11, 29, 5, 7
# float32 sums of at most 35 products of numbers below 10.
CLOSE = {"rtol": 2e-5, "atol": 1e-4}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def log_softmax(logits):
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_lens_is_statistics_of_log_softmax(transposed, softcap):
    x, bias, reference = draw(N_ROW, D), draw(D_VOCAB, seed=2), draw(N_ROW, D, seed=3)
    w_u = draw(D_VOCAB, D, seed=1).T if transposed else draw(D, D_VOCAB, seed=1)
    targets = np.arange(N_ROW) % D_VOCAB
    targets[4] = -1

    def logits(rows):
        found = (rows.astype(np.float64) @ w_u + bias) * 0.5
        return found if softcap is None else softcap * np.tanh(found / softcap)

    got = kernels.lens(
        x,
        w_u,
        bias=bias,
        reference=reference,
        targets=targets,
        k=4,
        logit_scale=0.5,
        softcap=softcap,
    )
    want, logprob, other = logits(x), log_softmax(logits(x)), log_softmax(logits(reference))
    order = np.argsort(-want, axis=-1, kind="stable")[:, :4]
    np.testing.assert_array_equal(got.top_ids, order)
    assert got.top_ids.dtype == np.uint32
    np.testing.assert_allclose(got.top_logits, np.take_along_axis(want, order, 1), **CLOSE)
    np.testing.assert_allclose(got.top_logprobs, np.take_along_axis(logprob, order, 1), **CLOSE)
    np.testing.assert_allclose(got.lse, (want - logprob)[:, 0], **CLOSE)
    np.testing.assert_allclose(got.entropy, -(np.exp(logprob) * logprob).sum(-1), **CLOSE)
    divergence = (np.exp(other) * (other - logprob)).sum(-1)
    np.testing.assert_allclose(got.kl_to_reference, divergence, **CLOSE)
    row = np.delete(np.arange(N_ROW), 4)
    place = (row, targets[row])
    np.testing.assert_allclose(got.target_logit[row], want[place], **CLOSE)
    np.testing.assert_allclose(got.target_logprob[row], logprob[place], **CLOSE)
    rank = (want[row] > want[place][:, None]).sum(-1)
    np.testing.assert_array_equal(got.target_rank[row], rank)
    assert np.isnan(got.target_logit[4])
    assert np.isnan(got.target_logprob[4])
    assert got.target_rank[4] == kernels.NO_TOKEN


@pytest.mark.parametrize("memory", [64 << 10, 4096])
def test_site_kernels_are_those_of_arrays(tmp_path, memory):
    store = Store(made.write(tmp_path / "run").path)
    site, z = store["resid_post"], store["z"]
    w_u, weight = draw(made.D_MODEL, D_VOCAB), draw(made.D_MODEL, seed=3)
    norm = kernels.Norm("layer_norm", 1e-5, 0.0, weight)
    last, first = (norm.apply(site.read(layers=layer)) for layer in (2, 0))
    targets = np.arange(site.n_row) % D_VOCAB
    more = {"targets": targets, "bias": draw(D_VOCAB), "k": 3, "softcap": 20.0}
    want = kernels.lens(first, w_u, reference=last, **more)
    got = kernels.site_lens(
        site, 0, w_u, norm=norm, reference=(site, 2), memory_bytes=memory, **more
    )
    for name, values in vars(want).items():
        np.testing.assert_allclose(getattr(got, name), values, rtol=1e-5, atol=1e-5)
    w_o, directions = draw(made.N_HEAD, made.D_HEAD, made.D_MODEL), draw(made.D_MODEL, 2)
    scale = np.abs(draw(z.n_row)) + 1
    want = kernels.attribution(z.read(layers=1), w_o, directions, scale=scale)
    got = kernels.site_attribution(z, 1, w_o, directions, scale=scale, memory_bytes=memory)
    np.testing.assert_array_equal(got, want)
    for call in (
        lambda: kernels.site_lens(site, 0, w_u, targets=targets[1:]),
        lambda: kernels.site_attribution(z, 1, w_o, directions, scale=scale[1:]),
        lambda: kernels.site_lens(site, 0, w_u, memory_bytes=8),
    ):
        with pytest.raises(ArgumentError, match=r"axis `row`|one row of"):
            call()


def test_lens_without_extras_leaves_them_empty():
    x = draw(N_ROW, D)
    got = kernels.lens(x, draw(D, D_VOCAB), k=1)
    assert got.kl_to_reference.size == got.target_logit.size == got.target_rank.size == 0
    same = kernels.lens(x, draw(D, D_VOCAB), reference=x)
    np.testing.assert_allclose(same.kl_to_reference, 0, atol=1e-6)
    assert kernels.lens(x[:0], draw(D, D_VOCAB)).top_ids.shape == (0, 5)
    assert kernels.lens(x, draw(D, 3), k=5).top_ids.shape == (N_ROW, 3)


def test_lens_keeps_a_nan_in_its_row():
    x = draw(N_ROW, D)
    clean = kernels.lens(x, draw(D, D_VOCAB))
    x[3, 2] = np.nan
    got = kernels.lens(x, draw(D, D_VOCAB))
    assert np.isnan(got.entropy[3])
    rest = np.arange(N_ROW) != 3
    np.testing.assert_array_equal(got.top_logits[rest], clean.top_logits[rest])


def test_lens_refuses_what_does_not_fit():
    x, w_u = draw(N_ROW, D), draw(D, D_VOCAB)
    for arguments, message in (
        ({"targets": np.full(N_ROW, D_VOCAB)}, str(D_VOCAB)),
        ({"targets": np.full(N_ROW, 2**32 + 5)}, "4294967301"),
        ({"targets": np.zeros(N_ROW - 1, int)}, str(N_ROW - 1)),
        ({"targets": np.zeros(N_ROW)}, "must be integers"),
        ({"bias": w_u}, "`bias` has 2 axes"),
        ({"bias": draw(D)}, "d_vocab"),
        ({"reference": x[1:]}, "row"),
    ):
        with pytest.raises(ArgumentError, match=message):
            kernels.lens(x, w_u, **arguments)
    # Some have as many numbers as rows of another length: they must not be cut anew.
    for rows, weight, other in (
        (x, w_u[1:], None),
        (draw(4, 10), draw(5, D_VOCAB), None),
        (draw(2, 10), draw(10, D_VOCAB), draw(4, 5)),
        (draw(4, 10), draw(D_VOCAB, 5).T, None),
    ):
        with pytest.raises(ArgumentError, match=r"axis `d_model` is .* but .* in w_u"):
            kernels.lens(rows, weight, reference=other)
    with pytest.raises(ArgumentError, match="`x` has 1 axes"):
        kernels.lens(x[0], w_u)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_norms_are_their_definitions(dtype):
    x, weight, bias = draw(N_ROW, D).astype(dtype), draw(D, seed=1), draw(D, seed=2)
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    divisor = np.sqrt((centred**2).mean(-1) + 1e-3)
    want = centred / divisor[:, None] * weight + bias
    got = kernels.layer_norm(x, weight, bias, eps=1e-3)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, **CLOSE)
    norm = kernels.Norm("layer_norm", 1e-3, 0.0, weight, bias)
    np.testing.assert_allclose(norm.scale(x), divisor, **CLOSE)
    root = np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-3)
    np.testing.assert_allclose(
        kernels.rms_norm(x, weight, eps=1e-3, offset=1.0), wide / root * (1 + weight), **CLOSE
    )
    np.testing.assert_allclose(kernels.rms_norm(x, eps=1e-3, offset=1.0), wide / root, **CLOSE)
    np.testing.assert_array_equal(kernels.Norm("none").apply(x), x.astype(np.float32))


@pytest.mark.parametrize("kind", ["layer_norm", "rms_norm", "none"])
def test_folded_directions_see_through_the_norm(kind):
    x, directions = draw(N_ROW, D), draw(D, 3, seed=4)
    norm = kernels.Norm(kind, 1e-5, 0.0, draw(D, seed=1), draw(D, seed=2))
    folded, constant = norm.fold(directions)
    got = x @ folded / norm.scale(x)[:, None] + constant
    np.testing.assert_allclose(got, norm.apply(x) @ directions, **CLOSE)


def test_norms_refuse_what_does_not_fit():
    with pytest.raises(ArgumentError, match="batch_norm"):
        kernels.Norm("batch_norm").apply(draw(2, D))
    with pytest.raises(ArgumentError, match="d_model"):
        kernels.layer_norm(draw(2, D), draw(D - 1), eps=0.1)


def test_attribution_is_heads_times_weights_times_directions():
    z, w_o = draw(N_ROW, N_HEAD, D_HEAD), draw(N_HEAD, D_HEAD, D, seed=1)
    directions, scale = draw(D, 3, seed=2), 1 + draw(N_ROW, seed=3) ** 2
    want = np.einsum("rhd,hdm,mk->rhk", z.astype(np.float64), w_o, directions)
    np.testing.assert_allclose(kernels.attribution(z, w_o, directions), want, **CLOSE)
    got = kernels.attribution(z[:, ::-1], w_o[::-1], directions, scale=scale)
    assert got.shape == (N_ROW, N_HEAD, 3)
    np.testing.assert_allclose(got, want[:, ::-1] / scale[:, None, None], **CLOSE)
    for axis, arguments in (
        ("head", (z[:, 1:], w_o, directions)),
        ("d_head", (z[..., 1:], w_o, directions)),
        ("d_model", (z, w_o, directions[1:])),
    ):
        with pytest.raises(ArgumentError, match=f"axis `{axis}` is "):
            kernels.attribution(*arguments)
    with pytest.raises(ArgumentError, match="row"):
        kernels.attribution(z, w_o, directions, scale=scale[1:])


def test_matmul_reads_every_layout():
    a, b = draw(N_ROW, D), draw(D, 6, seed=1)
    want = a.astype(np.float64) @ b
    for left in (a, a.T.copy().T, np.repeat(a, 2, 1)[:, ::2]):
        for right in (b, b.T.copy().T, b.astype(np.float64)):
            np.testing.assert_allclose(kernels.matmul(left, right), want, **CLOSE)
    assert kernels.matmul(a[:0], b).shape == (0, 6)
    with pytest.raises(ArgumentError, match=f"{D}.*{D - 1}|{D - 1}.*{D}"):
        kernels.matmul(a, b[1:])


def test_kmeans_finds_clusters_that_are_far_apart():
    centres = 50 * draw(4, D, seed=1)
    which = np.arange(60) % 4
    x = centres[which] + draw(60, D)
    x[7, 3] = np.nan
    got = kernels.kmeans(x, 4, seed=2)
    assert got.labels.dtype == np.int32
    assert got.labels[7] == -1
    assert np.isnan(got.distances[7])
    finite = np.arange(60) != 7
    pairs = set(zip(which[finite].tolist(), got.labels[finite].tolist(), strict=True))
    assert len(pairs) == 4
    for cluster in range(4):
        mean = x[got.labels == cluster].astype(np.float64).mean(0)
        # Means of 15 numbers up to 200 in float32.
        np.testing.assert_allclose(got.centres[cluster], mean, rtol=1e-5, atol=1e-4)
    distance = np.linalg.norm(x - got.centres[got.labels], axis=1)[finite]
    np.testing.assert_allclose(got.distances[finite], distance, rtol=1e-3)
    np.testing.assert_allclose(got.inertia, (distance**2).sum(), rtol=1e-3)
    again = kernels.kmeans(x, 4, seed=2)
    np.testing.assert_array_equal(again.centres, got.centres)
    with pytest.raises(ArgumentError, match="59"):
        kernels.kmeans(x, 60)


def test_kmeans_goes_on_from_given_centres():
    x = draw(N_ROW, D)
    start = x[[3, 11, 20]]
    got = kernels.kmeans(x, 3, start=start, max_iterations=1)
    nearest = ((x[:, None] - start) ** 2).sum(-1).argmin(1)
    moved = np.stack([x[nearest == at].mean(0) for at in range(3)])
    np.testing.assert_allclose(got.centres, moved, **CLOSE)
    done = kernels.kmeans(x, 3, seed=2, restarts=1, tolerance=0)
    again = kernels.kmeans(x, 3, start=done.centres)
    assert again.n_iteration == 1
    np.testing.assert_array_equal(again.labels, done.labels)
    with pytest.raises(ArgumentError, match="holds 3 centres, but must hold k = 4"):
        kernels.kmeans(x, 4, start=start)
    with pytest.raises(ArgumentError, match="axis `d` is 11 in x but 10 in start"):
        kernels.kmeans(x, 3, start=start[:, 1:])
    with pytest.raises(ArgumentError, match="all of them finite"):
        kernels.kmeans(x, 3, start=np.full_like(start, np.nan))


@pytest.mark.parametrize("metric", ["cosine", "dot", "l2"])
def test_knn_is_a_sort_of_all_rows(metric):
    x, queries = draw(N_ROW, D), draw(4, D, seed=1)
    wide, asked = x.astype(np.float64), queries.astype(np.float64)
    dot = asked @ wide.T
    norms = np.linalg.norm(asked, axis=1)[:, None] * np.linalg.norm(wide, axis=1)
    distance = np.linalg.norm(asked[:, None] - wide, axis=2)
    score = {"cosine": dot / norms, "dot": dot, "l2": distance}[metric]
    order = np.argsort(score if metric == "l2" else -score, axis=1)[:, :6]
    got = kernels.knn(x, queries, 6, metric=metric)
    assert got.rows.dtype == np.int64
    np.testing.assert_array_equal(got.rows, order)
    np.testing.assert_allclose(got.scores, np.take_along_axis(score, order, 1), **CLOSE)


def test_knn_is_exact_where_products_are_too_small_for_float32():
    x = np.full((2, 1), 1e-25, np.float32) * [[1], [2]]
    got = kernels.knn(x, np.full((1, 1), 1e-25, np.float32), 1, metric="dot")
    assert got.rows.tolist() == [[1]]


def test_knn_says_where_there_is_no_row():
    x = draw(3, D)
    x[1, 4] = np.nan
    got = kernels.knn(x, x[:1], 5)
    assert got.rows.tolist() == [[0, 2, -1]]
    assert np.isnan(got.scores[0, 2])
    with pytest.raises(ArgumentError, match="axis `d` is 11 in x but 10 in queries"):
        kernels.knn(draw(2, D), draw(1, D - 1), 1)
    with pytest.raises(ArgumentError, match="hamming"):
        kernels.knn(draw(2, D), draw(1, D), 1, metric="hamming")


def test_moments_and_components_are_those_of_numpy():
    # Far from zero, where sums that are not shifted lose all digits.
    x = 1000 + draw(N_ROW, D)
    x[5, 0] = np.inf
    got = kernels.moments(x, covariance=True, ddof=1)
    wide = np.delete(x, 5, 0).astype(np.float64)
    assert (got.count, got.skipped) == (N_ROW - 1, 1)
    np.testing.assert_allclose(got.mean, wide.mean(0), rtol=1e-9)
    np.testing.assert_allclose(got.covariance, np.cov(wide.T), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(got.variance, wide.var(0, ddof=1), rtol=1e-5)
    assert kernels.moments(x).covariance is None
    pca = kernels.pca(got.covariance, 4)
    values, vectors = np.linalg.eigh(got.covariance)
    np.testing.assert_allclose(pca.variances, values[::-1][:4], rtol=1e-9)
    np.testing.assert_allclose(pca.total, values.sum(), rtol=1e-9)
    overlap = np.abs((pca.components * vectors.T[::-1][:4]).sum(1))
    np.testing.assert_allclose(overlap, 1, rtol=1e-9)
    largest = np.abs(pca.components).argmax(1)
    assert (pca.components[np.arange(4), largest] > 0).all()
    with pytest.raises(ArgumentError, match=r"must be \[d, d\]"):
        kernels.pca(got.covariance[1:], 2)
    with pytest.raises(ArgumentError, match="12 components were asked of 11"):
        kernels.pca(got.covariance, 12)


def test_kernels_over_a_site_are_those_over_its_rows(tmp_path):
    done = made.write(tmp_path / "run.residuum", "float16")
    store = Store(done.path)
    x = done.arrays["z"][:, 2].reshape(made.N_ROW, -1).astype(np.float32)
    want, got = (
        kernels.moments(x, covariance=True),
        kernels.site_moments(store["z"], 2, covariance=True),
    )
    np.testing.assert_allclose(got.covariance, want.covariance, rtol=1e-9, atol=1e-12)
    near = kernels.site_knn(store["z"], 2, x[[30, 4]], 3, metric="l2")
    np.testing.assert_array_equal(near.rows, kernels.knn(x, x[[30, 4]], 3, metric="l2").rows)
    assert near.rows[:, 0].tolist() == [30, 4]
    clusters = kernels.site_kmeans(store["z"], 2, 3, seed=1)
    assert clusters.n_sample == made.N_ROW
    np.testing.assert_array_equal(clusters.labels, kernels.kmeans(x, 3, seed=1).labels)
    with pytest.raises(SiteError, match="0, 2"):
        kernels.site_moments(store["mlp_out"], 1)
    for layer in (7, -7):
        with pytest.raises(SiteError, match="layer"):
            kernels.site_moments(store["z"], layer)
    with pytest.raises(ArgumentError, match="`z` has layers"):
        kernels.site_kmeans(store["z"], None, 3)
    with pytest.raises(ArgumentError, match="axis `d` is 35 in z but 34 in queries"):
        kernels.site_knn(store["z"], 2, x[:1, 1:], 1)


def test_a_signals_own_exception_comes_through():
    """Of a time limit, for instance; only Ctrl-C is a KeyboardInterrupt."""

    def late(*_signal):
        message = "too late"
        raise TimeoutError(message)

    x = np.random.default_rng(0).standard_normal((60_000, 64), np.float32)
    before = signal.signal(signal.SIGALRM, late)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(TimeoutError, match="too late"):
            kernels.kmeans(x, 500, restarts=1000, tolerance=0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_no_module_takes_the_name_of_a_kernel():
    modules = {name for _, name, _ in pkgutil.iter_modules(kernels.__path__)}
    assert not modules & set(kernels.__all__)
    assert not any(isinstance(getattr(kernels, name), ModuleType) for name in kernels.__all__)


def test_text_bases_come_with_their_shapes():
    texts, outputs = draw(9, D), draw(N_ROW, D, seed=1).astype(np.float64)
    covariance = np.cov(outputs.T, bias=True)
    got = kernels.textspan(texts, covariance, 3)
    first = int(np.argmax((texts @ covariance * texts).sum(-1)))
    assert (got.texts[0], got.texts.dtype) == (first, np.int64)
    assert got.directions.shape == (3, D)
    unit = texts[first] / np.linalg.norm(texts[first].astype(np.float64))
    np.testing.assert_allclose(got.directions[0], unit, rtol=0, atol=1e-6)
    assert got.explained[0] == pytest.approx(unit @ covariance @ unit)
    assert got.total == pytest.approx(np.trace(covariance))
    assert kernels.textspan(texts[:0], covariance, 3).directions.shape == (0, D)
    with pytest.raises(ArgumentError, match=r"`covariance` is \[3, 11\], but texts are 11 wide"):
        kernels.textspan(texts, covariance[:3], 3)
    with pytest.raises(ArgumentError, match="n_pick is at least 1, not 0"):
        kernels.textspan(texts, covariance, 0)


def test_maps_of_image_patches_are_weighted_values():
    pattern, v = draw(3, N_HEAD, 4), draw(3, 4, N_HEAD, D_HEAD, seed=1)
    readout, scale = draw(N_HEAD, D_HEAD, 2, seed=2), np.abs(draw(3, seed=3)) + 1
    want = np.einsum("iht,ithd,hdk->ihtk", pattern, v, readout, dtype=np.float64)
    np.testing.assert_allclose(kernels.image_patch_maps(pattern, v, readout), want, **CLOSE)
    got = kernels.image_patch_maps(pattern, v, readout, scale=scale, summed=True)
    np.testing.assert_allclose(got, want.sum(1) / scale[:, None, None], **CLOSE)
    # Views that are not contiguous are copied, not misread.
    some = kernels.image_patch_maps(pattern[:, ::2], v[:, :, ::2], readout[::2])
    np.testing.assert_allclose(some, want[:, ::2], **CLOSE)
    for given, axis in (
        ((pattern[:2], v, readout), "image"),
        ((pattern[:, :, :3], v, readout), "token"),
        ((pattern, v[:, :, :4], readout), "head"),
        ((pattern, v, readout[:4]), "head"),
        ((pattern, v, readout[:, :5]), "d_head"),
    ):
        with pytest.raises(ArgumentError, match=f"axis `{axis}`"):
            kernels.image_patch_maps(*given)
    with pytest.raises(ArgumentError, match="axis `image` is 3 in pattern but 2 in scale"):
        kernels.image_patch_maps(pattern, v, readout, scale=scale[:2])


def test_moments_of_heads_are_those_of_scaled_rows(tmp_path):
    z = Store(made.write(tmp_path / "run").path)["z"]
    rows = np.array([30, 2, 17, 2, 5, 36, 9])
    scale = np.abs(draw(len(rows))) + 1
    want = z.read(rows, 1).astype(np.float64) / scale[:, None, None]
    for memory in (8 * 4 * made.N_HEAD * made.D_HEAD, 64 << 10):
        got = kernels.site_head_moments(z, 1, rows, scale, memory_bytes=memory)
        np.testing.assert_allclose(got.mean, want.mean(0), rtol=0, atol=1e-5)
        for head in range(made.N_HEAD):
            covariance = np.cov(want[:, head].T, bias=True)
            np.testing.assert_allclose(got.covariance[head], covariance, rtol=0, atol=1e-5)
    with pytest.raises(ArgumentError, match="axis `row` is 7 in rows but 6 in scale"):
        kernels.site_head_moments(z, 1, rows, scale[1:])
    with pytest.raises(SelectionError, match="37"):
        kernels.site_head_moments(z, 1, rows + 7, scale)
    with pytest.raises(SiteError, match="layer 3"):
        kernels.site_head_moments(z, 3, rows, scale)


def test_sets_of_components_are_counted_by_group():
    logits, lost = draw(N_ROW, 3), draw(4, N_ROW, 3, seed=1)
    labels, groups = np.arange(N_ROW) % 3, np.arange(N_ROW) * 5 % 2
    sets = np.array([[0, 1], [0, 3], [2, 1]])
    got = kernels.subset_scores(logits, lost, labels, groups, sets)
    want = [
        np.bincount(groups, (logits - lost[a] - lost[b]).argmax(1) == labels, 2) for a, b in sets
    ]
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.int64
    for given, words in (
        ((logits[1:], lost, labels, groups, sets), "axis `image` is 22 in logits but 23 in lost"),
        ((logits[:, 1:], lost, labels, groups, sets), "axis `class`"),
        ((logits, lost, labels - 1, groups, sets), "`labels` are whole numbers from 0 along 1"),
        ((logits, lost, labels, groups + 0.5, sets), "`groups` are whole numbers"),
        ((logits, lost, labels, groups, sets[0]), "`sets` are whole numbers from 0 along 2 axes"),
        ((logits, lost, labels, groups, sets + 2), "component 5 does not exist: there are 4"),
        ((logits, lost, labels + 1, groups, sets), "label 3 does not exist: there are 3"),
    ):
        with pytest.raises(ArgumentError, match=words):
            kernels.subset_scores(*given)
