"""The kernels beside what people would call instead: lens, k-means, principal components.

Lens statistics (log-sum-exp, entropy, log-probability and rank of a target) of 4,096 and 20,000
rows, a vocabulary of 50,257, d = 768: torch in chunks of 512 and 128 rows, and all logits at once.
k-means of 200,000 rows of 256 numbers, 100 clusters, 20 moves from the same start, on noise and on
clusters that overlap: faiss, scikit-learn, torch. Components of 200,000 x 768 in float16 out of a
store: scikit-learn's IncrementalPCA and a covariance summed in numpy, both streamed from a memory
map. All else is float32.

    python benches/kernels.py [--rounds 5] [--scale 1.0]
"""

import argparse
import shutil
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import residuum
from common import Case, Measured, add_table, interleaved, measure, speeds
from findings import Goal, Report, versions
from formats import Residuum
from residuum import kernels

WORK = Path(".cache/bench/kernels")
Floats = NDArray[np.float32]
MANY = 10_000
"""Rows whose logits do not fit into memory a few times over."""
LENS = "residuum lens"
TORCH_LENS = ("torch, chunks of 512", "torch, chunks of 128")


def lens_cases(n_row: int, *, compared: bool = True) -> dict[str, Case]:
    """Statistics of random logits; unless told not to, the answers of all are compared first."""
    random = np.random.default_rng(0)
    x = random.standard_normal((n_row, 768), np.float32)
    w_u = random.standard_normal((768, 50257), np.float32) / 16
    targets = random.integers(0, 50257, n_row).astype(np.int32)
    tx, tw, tt = torch.from_numpy(x), torch.from_numpy(w_u), torch.from_numpy(targets).long()

    def by_torch(chunk: int) -> tuple[torch.Tensor, ...]:
        parts = []
        for start in range(0, n_row, chunk):
            logits = tx[start : start + chunk] @ tw
            logprobs = logits.log_softmax(-1)
            entropy = -(logprobs.exp() * logprobs).sum(-1)
            target = tt[start : start + chunk, None]
            own = logits.gather(1, target)
            parts.append((entropy, logprobs.gather(1, target)[:, 0], (logits > own).sum(-1)))
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))

    if compared:
        ours = kernels.lens(x, w_u, targets=targets, k=5)
        entropy, logprob, rank = by_torch(512)
        assert np.allclose(ours.entropy, entropy, atol=1e-4)
        assert np.allclose(ours.target_logprob, logprob, atol=1e-4)
        assert (ours.target_rank == rank.numpy()).mean() > 0.99  # the others are ties
    return {
        LENS: Case(lambda: kernels.lens(x, w_u, targets=targets, k=5)),
        "torch, chunks of 512": Case(lambda: by_torch(512)),
        "torch, chunks of 128": Case(lambda: by_torch(128)),
        **({"torch, everything at once": Case(lambda: by_torch(n_row))} if n_row < MANY else {}),
    }


def lens_memory(name: str, n_row: int) -> int:
    """Bytes above its inputs that a case takes in this process, which did nothing before."""
    case = lens_cases(n_row, compared=False)[name]
    measured = Measured()
    measure(case, measured)
    return measured.peak_bytes


def judge_memory(report: Report, n_row: int) -> None:
    """Measure each in a process of its own: what one gave back, another would take for nothing."""
    peaks = {}
    for name in (LENS, *TORCH_LENS):
        with get_context("spawn").Pool(1) as alone:
            peaks[name] = alone.apply(lens_memory, (name, n_row))
    title = f"lens, peak memory above inputs, {n_row:,} rows"
    rows = [[name, f"{peak / 1e6:,.0f} MB"] for name, peak in peaks.items()]
    report.table([title, "of a process of its own"], rows)
    goal = Goal("torch's best chunks", TORCH_LENS, 10)
    report.judge(title, LENS, {name: 1 / max(peak, 1) for name, peak in peaks.items()}, [goal])


def clustered(n_row: int, d: int, n_cluster: int) -> Floats:
    """Rows around as many centres, a third of their own spread apart in each direction."""
    random = np.random.default_rng(1)
    centres = np.float32(1 / 3) * random.standard_normal((n_cluster, d), np.float32)
    rows = random.standard_normal((n_row, d), np.float32)
    return rows + centres[random.integers(0, n_cluster, n_row)]


def kmeans_cases(x: Floats, k: int, n_move: int) -> dict[str, Case]:
    """Lloyd's algorithm from the same start; inertias are compared first."""
    import faiss  # type: ignore[import-not-found,unused-ignore]  # installed for `make bench`
    from sklearn.cluster import KMeans

    d = x.shape[1]
    start = x[np.random.default_rng(2).choice(len(x), k, replace=False)]

    def ours() -> float:
        return kernels.kmeans(x, k, start=start, max_iterations=n_move, tolerance=0).inertia

    def by_faiss() -> float:
        found = faiss.Kmeans(
            d, k, niter=n_move, max_points_per_centroid=len(x), min_points_per_centroid=1
        )
        found.train(x, init_centroids=start)
        distances, _ = found.index.search(x, 1)
        return float(distances.sum(dtype=np.float64))

    def by_sklearn() -> float:
        found = KMeans(k, init=start, n_init=1, max_iter=n_move, tol=0).fit(x)
        return float(found.inertia_)

    def by_torch() -> float:
        rows, centres = torch.from_numpy(x), torch.from_numpy(start.copy())
        for move in range(n_move + 1):
            near = [_nearest(part, centres) for part in rows.split(8192)]
            labels = torch.cat([label for _, label in near])
            if move == n_move:
                break
            sums = torch.zeros_like(centres).index_add_(0, labels, rows)
            count = torch.bincount(labels, minlength=k)[:, None]
            centres = torch.where(count > 0, sums / count.clamp(min=1), centres)
        return float(torch.cat([d for d, _ in near]).sum(dtype=torch.float64))

    inertia = ours()
    for other in (by_faiss, by_sklearn, by_torch):
        # Not closer, because each puts a centre that lost its rows somewhere else.
        assert abs(other() / inertia - 1) < 0.05, (other.__name__, other(), inertia)
    return {
        "residuum k-means": Case(ours),
        "faiss": Case(by_faiss),
        "scikit-learn": Case(by_sklearn),
        "torch, blocks of 8192": Case(by_torch),
    }


def _nearest(rows: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    squares = (rows**2).sum(1, keepdim=True) + (centres**2).sum(1) - 2 * rows @ centres.T
    found = squares.min(1)
    return found.values, found.indices


def pca_cases(n_row: int, d: int, n_component: int) -> dict[str, Case]:
    """The leading components of one layer, streamed; the variances are compared first."""
    from sklearn.decomposition import IncrementalPCA

    random = np.random.default_rng(3)
    spectrum = (1 / np.arange(1, d + 1)).astype(np.float32) ** 0.5
    rows = (random.standard_normal((n_row, d), np.float32) * spectrum + 0.5).astype(np.float16)
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    np.save(WORK / "rows.npy", rows)
    Residuum(WORK).write(rows[:, None])
    del rows

    def blocks() -> Iterator[Floats]:
        mapped = np.load(WORK / "rows.npy", mmap_mode="r")
        for start in range(0, n_row, 8192):
            yield mapped[start : start + 8192].astype(np.float32)

    def ours() -> NDArray[np.float64]:
        site = residuum.open(WORK / "residuum")["resid_post"]
        found = kernels.site_moments(site, 0, covariance=True, ddof=1, memory_bytes=64 << 20)
        assert found.covariance is not None
        return kernels.pca(found.covariance, n_component).variances

    def by_numpy() -> NDArray[np.float64]:
        total, products, first = np.zeros(d), np.zeros((d, d)), None
        for block in blocks():
            first = block.mean(0) if first is None else first
            shifted = block - first
            total += shifted.sum(0, dtype=np.float64)
            products += shifted.T @ shifted
        mean = total / n_row
        covariance = (products - n_row * np.outer(mean, mean)) / (n_row - 1)
        return np.asarray(np.linalg.eigh(covariance)[0][::-1][:n_component], np.float64)

    def by_sklearn() -> NDArray[np.float64]:
        fit: Any = IncrementalPCA(n_component)
        for block in blocks():
            fit.partial_fit(block)
        return np.asarray(fit.explained_variance_)

    want = ours()
    assert np.allclose(by_numpy(), want, rtol=1e-3)
    assert np.allclose(by_sklearn()[:8], want[:8], rtol=0.05)  # an approximation
    return {
        "residuum moments + pca": Case(ours),
        "numpy, streamed covariance": Case(by_numpy),
        "scikit-learn IncrementalPCA": Case(by_sklearn),
    }


def ask(report: Report, title: str, cases: dict[str, Case], rounds: int, *goals: Goal) -> None:
    """Time the cases and compare them with the goals; ours is the first."""
    ours, measured = next(iter(cases)), interleaved(cases, rounds)
    add_table(report, title, measured, base=ours)
    report.judge(title, ours, speeds(measured), goals)


def main() -> None:
    """Check the answers, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows")
    options = parser.parse_args()
    n_row, rounds = int(200_000 * options.scale), options.rounds
    report = Report("kernels", "Kernels")
    report.introduce(__doc__)
    report.say(f"Medians of {rounds}. {versions('torch', 'faiss-cpu', 'scikit-learn', 'numpy')}")
    for n_lens in (int(n * options.scale) for n in (4096, 20_000)):
        title = f"lens statistics, {n_lens:,} rows, 50,257 tokens, d = 768"
        goal = Goal("torch's best chunks", TORCH_LENS, 2.5)
        ask(report, title, lens_cases(n_lens), rounds, goal)
        judge_memory(report, n_lens)
    noise = np.random.default_rng(0).standard_normal((n_row, 256), np.float32)
    for name, rows, least in (
        ("noise", noise, 1.2),
        ("overlapping clusters", clustered(n_row, 256, 100), 2.5),
    ):
        title = f"k-means, {name}, {n_row:,} x 256, k = 100"
        ask(report, title, kmeans_cases(rows, 100, 20), rounds, Goal("faiss", ("faiss",), least))
    cases = pca_cases(n_row, 768, 64)
    title = f"64 components of {n_row:,} x 768, float16, from disk"
    streamed, incremental = list(cases)[1:]
    goals = (Goal("numpy", (streamed,), 1.5), Goal("IncrementalPCA", (incremental,), 5))
    ask(report, title, cases, rounds, *goals)
    report.keep()


if __name__ == "__main__":
    main()
