"""CLIP taken apart, beside the published form in torch: TextSpan, shares of heads, maps, searches.

A store of ten thousand noise images by four blocks of ViT-B/16's shape (768 wide, 12 heads) with
random weights; the images are two patches a side, so that the capture is quick: class tokens are as
wide as the real ones. The published form is that of the paper's code, written out here: every image
times every text at every pick; heads projected to the joint space before a text is looked at; sums
of components made anew for every subset. Answers are compared before anything is timed. TextSpan is
compared by processor time, per head, the pass over the store included.

    python benches/clip.py [--rounds 3] [--images 10000] [--texts 3500] [--picks 20]
"""

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

import residuum
from common import Case, add_table, interleaved, speeds
from findings import Goal, Report, versions
from residuum import clip
from residuum.clip.images import Images
from residuum.clip.stored import Stored

WORK = Path(".cache/bench/clip")
N_LAYER, N_HEAD, D_MODEL, D_EMBED, SIDE, PATCH = 4, 12, 768, 512, 32, 16
MAPPED = 256  # images whose heat maps are drawn
SUBSETS = 2000

Floats = NDArray[np.float32]


def captured(n_image: int) -> residuum.Store:
    """The store, made once."""
    path = WORK / f"images-{n_image}.residuum"
    if path.exists():
        return residuum.open(path)
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=D_MODEL,
        intermediate_size=4 * D_MODEL,
        num_hidden_layers=N_LAYER,
        num_attention_heads=N_HEAD,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=D_EMBED,
    )
    model = CLIPVisionModelWithProjection(config).eval()
    processor = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)
    sites = ["z", "resid_final", "mlp_out", "embed", "pattern", "image_v"]
    WORK.mkdir(parents=True, exist_ok=True)
    return residuum.capture(
        (model, processor), pa.table({"image": list(noise(n_image))}), path, sites=sites,
        positions="first", progress=False,
    )  # fmt: skip


def noise(n_image: int) -> list[bytes]:
    """Encoded pictures of coloured squares and noise."""
    import io

    import PIL.Image

    random = np.random.default_rng(0)
    encoded = []
    for _ in range(n_image):
        base = random.integers(0, 256, (2, 2, 3)).repeat(PATCH, 0).repeat(PATCH, 1)
        pixels = np.clip(base + random.normal(0, 20, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        kept = io.BytesIO()
        PIL.Image.fromarray(pixels).save(kept, "BMP")
        encoded.append(kept.getvalue())
    return encoded


def unit(n: int, seed: int) -> Floats:
    """Random unit vectors `[n, d_embed]`."""
    vectors = np.random.default_rng(seed).standard_normal((n, D_EMBED), np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


class Published:
    """The paper's code, on the same numbers."""

    def __init__(self, store: residuum.Store) -> None:
        """Read what both sides begin with."""
        self.stored, self.images = Stored(store), Images.of(store)
        self.tower = self.stored.tower
        self.whole = torch.from_numpy(self.tower.along(np.eye(D_EMBED, dtype=np.float32)))
        self.sigma = torch.from_numpy(self.tower.divisor(self.stored.final(self.images)))

    def heads(self) -> torch.Tensor:
        """What every head adds to every vector, `[image, layer, head, d_embed]`."""
        out = torch.empty(len(self.images), N_LAYER, N_HEAD, D_EMBED)
        for layer in range(N_LAYER):
            z = torch.from_numpy(self.stored.z(self.images, layer))
            w_o = torch.from_numpy(self.tower.w_o[layer])
            through = torch.einsum("hdm,me->hde", w_o, self.whole)
            out[:, layer] = torch.einsum("ihd,hde->ihe", z, through)
        return out / self.sigma[:, None, None, None]

    def textspan(self, head: torch.Tensor, texts: torch.Tensor, n: int) -> list[int]:
        """The texts of a head `[image, d_embed]`, by products of all images and all texts."""
        _, lengths, basis = torch.linalg.svd(head, full_matrices=False)
        basis = basis[lengths > 1e-5 * lengths[0]]
        texts = texts @ basis.T @ basis
        head = head - head.mean(0)
        picks = []
        for _ in range(n):
            pick = int((head @ texts.T).std(0).argmax())
            picks.append(pick)
            direction = texts[pick] / texts[pick].norm()
            head = head - torch.outer(head @ direction, direction)
            texts = texts - torch.outer(texts @ direction, direction)
        return picks

    def maps(self, text: torch.Tensor, n_image: int) -> torch.Tensor:
        """Heat maps of a text `[image, token]`: every token of every head projected, then read."""
        some = self.images.taken(slice(0, n_image))
        total = torch.zeros(n_image, some.n_token)
        for layer in range(N_LAYER):
            pattern = torch.from_numpy(some.pattern(layer))
            v = torch.from_numpy(some.values(layer))
            w_o = torch.from_numpy(self.tower.w_o[layer])
            through = torch.einsum("hdm,me->hde", w_o, self.whole)
            each = torch.einsum("iht,ithd,hde->ithe", pattern, v, through)
            total += (each @ text).sum(2)
        return total / self.sigma[:n_image, None]


def textspan(report: Report, published: Published, n_text: int, n_pick: int) -> None:
    """Same picks first; then processor time per head."""
    store, texts = published.images.store, unit(n_text, 1)
    heads, pool = published.heads(), torch.from_numpy(texts)
    bases = clip.text_bases(store, texts, layers=range(N_LAYER), n_text=n_pick)
    literal = []
    for number in (0, 17, 46):
        head = heads[:, number // N_HEAD, number % N_HEAD]
        started = time.process_time()
        picks = published.textspan(head, pool, n_pick)
        literal.append(time.process_time() - started)
        assert picks == bases[number].texts.tolist(), (picks, bases[number].texts)
    quick = []
    for _ in range(3):
        started = time.process_time()
        clip.text_bases(store, texts, layers=range(N_LAYER), n_text=n_pick)
        quick.append((time.process_time() - started) / (N_LAYER * N_HEAD))
    slow, ours = np.median(literal), np.median(quick)
    title = (
        f"TextSpan, {len(heads):,} images, {n_text:,} texts, {n_pick} picks: processor time a head"
    )
    report.table(
        [title, "time", "ratio"],
        [
            ["published form, torch", f"{1e3 * slow:,.1f} ms", f"{slow / ours:,.0f}"],
            ["residuum, reading the store", f"{1e3 * ours:,.1f} ms", "1"],
        ],
    )
    rates = {"published form, torch": 1 / float(slow), "residuum": 1 / float(ours)}
    goal = Goal("the published form", ("published form, torch",), 100)
    report.judge("TextSpan, processor time", "residuum", rates, [goal])


def shares(report: Report, published: Published, rounds: int) -> None:
    """Shares of all heads along two classes, from the store."""
    classes = unit(2, 2)
    store = published.images.store
    literal = (published.heads() @ torch.from_numpy(classes).T).numpy()
    ours = clip.effects(store, classes)
    found = ours.shares[:, ours.numbers("head")].reshape(literal.shape)
    assert np.abs(found - literal).max() < 1e-5 * np.abs(literal).max() + 1e-6
    cases = {
        "published form, torch": Case(lambda: published.heads() @ torch.from_numpy(classes).T),
        "residuum": Case(lambda: clip.effects(store, classes)),
    }
    measured = interleaved(cases, rounds)
    title = f"shares of {N_LAYER * N_HEAD} heads along 2 texts, {len(published.images):,} images"
    add_table(report, title, measured, "residuum")
    goal = Goal("the published form", ("published form, torch",), 2)
    report.judge("shares of heads", "residuum", speeds(measured), [goal])


def maps(report: Report, published: Published, rounds: int) -> None:
    """Heat maps of one text."""
    text, store = unit(1, 3), published.images.store
    examples = np.arange(MAPPED)
    literal = published.maps(torch.from_numpy(text[0]), MAPPED).numpy()
    ours = clip.patch_maps(store, text, examples=examples)[..., 0]
    assert np.abs(ours - literal).max() < 1e-5 * np.abs(literal).max() + 1e-6
    cases = {
        "published form, torch": Case(lambda: published.maps(torch.from_numpy(text[0]), MAPPED)),
        "residuum": Case(lambda: clip.patch_maps(store, text, examples=examples)),
    }
    measured = interleaved(cases, rounds)
    add_table(report, f"heat maps of a text, {MAPPED} images", measured, "residuum")
    goal = Goal("the published form", ("published form, torch",), 2)
    report.judge("heat maps", "residuum", speeds(measured), [goal])


def searches(report: Report, published: Published, rounds: int) -> None:
    """Accuracy of groups without each of many subsets of heads."""
    random = np.random.default_rng(4)
    some = clip.effects(published.images.store, unit(2, 2))
    heads = some.numbers("head")
    label = random.integers(0, 2, len(published.images))
    group = 2 * label + random.integers(0, 2, len(label))
    lost = np.ascontiguousarray(some.lost()[:, heads].transpose(1, 0, 2))
    sets = np.array(list(itertools.islice(itertools.combinations(range(24), 4), SUBSETS)))

    def literal() -> NDArray[np.int64]:
        found = np.empty((len(sets), 4), np.int64)
        for at, members in enumerate(sets):
            logits = some.total - lost[members].sum(axis=0)
            found[at] = np.bincount(group, logits.argmax(1) == label, 4)
        return found

    def ours() -> NDArray[np.int64]:
        return residuum.kernels.subset_scores(some.total, lost, label, group, sets)

    # Sums in another order: an image whose logits are all but equal may fall on the other side.
    assert np.abs(literal() - ours()).max() <= 3
    cases = {"numpy, sums made anew": Case(literal), "residuum": Case(ours)}
    measured = interleaved(cases, rounds)
    title = f"{len(sets):,} subsets of heads, {len(label):,} images, 2 classes"
    add_table(report, title, measured, "residuum")
    goal = Goal("numpy", ("numpy, sums made anew",), 5)
    report.judge("ablations of subsets", "residuum", speeds(measured), [goal])


def main() -> None:
    """Check the answers, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--texts", type=int, default=3_500)
    parser.add_argument("--picks", type=int, default=20)
    options = parser.parse_args()
    report = Report("clip", "CLIP taken apart")
    report.introduce(__doc__)
    report.say(f"Medians of {options.rounds}. {versions('torch', 'numpy')}")
    published = Published(captured(options.images))
    textspan(report, published, options.texts, options.picks)
    shares(report, published, options.rounds)
    maps(report, published, options.rounds)
    searches(report, published, options.rounds)
    report.keep()


if __name__ == "__main__":
    main()
