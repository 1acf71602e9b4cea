"""Replay against full passes of the unmodified model: every family, site and kind of edit.

Torch in float64, Rust in float32 from the same activations and weights.
"""

import numpy as np
import pytest
import torch
from replay.oracle import Captured
from tiny_models import MODELS, in_64_bit

from residuum.replay.course import KitExecutor
from residuum.replay.edit import ORDER, Edit
from residuum.replay.plan import Read, Run, plan
from residuum.replay.rust_kit import RustKit
from residuum.replay.torch_kit import TorchKit
from residuum.sites import Site

# Of float32 by the size of what a read gives, which random edits make large.
CLOSE = {"torch": 1e-10, "rust": 1e-5}
NAMES = [
    name
    for name in MODELS
    if name not in ("gpt2_bare", "bert_mlm", "clip_text_gelu", "clip_vision_joint")
]
KINDS = ["set", "add", "scale", "zero", "mix", "project"]


@pytest.fixture(scope="module", params=NAMES)
def captured(request):
    with in_64_bit():
        yield Captured(request.param)


@pytest.fixture(autouse=True)
def _wide():
    with in_64_bit():
        yield


def width(captured: Captured, site: Site, example: int) -> tuple[int, ...]:
    of = captured.of
    return {
        Site.Q: (of.n_head, of.d_head),
        Site.K: (of.n_kv_head, of.d_head),
        Site.V: (of.n_kv_head, of.d_head),
        Site.Z: (of.n_head, of.d_head),
        Site.PATTERN: (of.n_head, captured.lengths[example]),
    }.get(site, (of.d_model,))


def draw(captured: Captured, rng, site: Site, layer: int, example: int, kind: str) -> Edit:
    """A random edit: some tokens, some heads."""
    n_token = captured.lengths[example]
    tokens = np.sort(rng.choice(n_token, rng.integers(1, n_token + 1), replace=False))
    inner = width(captured, site, example)
    heads = None
    if len(inner) == 2 and rng.random() < 0.7:
        heads = np.sort(rng.choice(inner[0], rng.integers(1, inner[0] + 1), replace=False))
        inner = (len(heads), inner[1])
    shift = rng.standard_normal((len(tokens), *inner))
    if site is Site.PATTERN:
        shift = np.abs(shift)
        if captured.of.causal:
            shift *= np.arange(n_token) <= tokens[:, None, None]
        kind = "scale" if kind == "project" else kind
    more = {
        "set": {"shift": shift},
        "add": {"scale": 1.0, "shift": shift},
        "scale": {"scale": -0.7},
        "zero": {},
        "mix": {"scale": 0.4, "shift": 0.6 * shift},
        "project": {"scale": 1.0, "off": np.linalg.qr(rng.standard_normal((inner[-1], 2)))[0].T},
    }[kind]
    return Edit(site, layer, tokens, heads, **more)


def sites_of(captured: Captured) -> list[Site]:
    there = captured.adapter.sites(captured.model)
    return [site for site in ORDER if site in there]


def check(
    captured: Captured,
    runs: list[tuple[int, list[Edit], list[tuple[Site, int]]]],
    close: float | None = None,
) -> None:
    """Replay runs together and compare what each read gives with a full pass."""
    made = []
    for example, edits, reads in runs:
        tokens = np.arange(captured.lengths[example])
        made.append(
            Run(
                int(captured.first_row[example]),
                captured.lengths[example],
                edits,
                [Read(site, layer, tokens) for site, layer in reads],
            )
        )
    planned = plan(made, captured.of, lambda layer: captured.has(Site.Z, layer))
    kits = {
        "torch": TorchKit(captured.of, captured.weights, dtype=torch.float64),
        "rust": RustKit(captured.of, captured.weights),
    }
    for name, kit in kits.items():
        found = KitExecutor(captured.of, kit).run(planned, captured)
        compare(captured, runs, found, close or CLOSE[name], name)


def compare(captured: Captured, runs, found, close: float, who: str) -> None:
    """What each read gives beside a full pass."""
    for number, (example, edits, reads) in enumerate(runs):
        want = captured.with_edits(example, edits, reads)
        for read in reads:
            got = captured.at(*read, example).copy()
            if read in found:
                mine = found[read].run == number
                got[found[read].token[mine]] = found[read].values[mine]
            what = [(e.site.value, e.layer, list(e.tokens)) for e in edits]
            size = max(1.0, np.abs(want[read]).max())
            error = f"{who}: {read} after {what}"
            np.testing.assert_allclose(got, want[read], 0.0, close * size, err_msg=error)


@pytest.mark.parametrize("kind", KINDS)
def test_each_site_and_kind(captured, kind):
    rng = np.random.default_rng(KINDS.index(kind))
    last = captured.of.n_layer - 1
    runs = []
    for site in sites_of(captured):
        for layer in range(captured.of.n_layer):
            example = int(rng.integers(len(captured.examples)))
            edit = draw(captured, rng, site, layer, example, kind)
            runs.append((example, [edit], [(Site.RESID_POST, last)]))
    check(captured, runs)


def test_keys_are_rotated_further(captured):
    if captured.of.rotary is None:
        pytest.skip("this family does not rotate")
    runs = []
    for layer in range(3):
        for turn in ([1, -2], [5, 0], [-9, 3]):
            tokens = np.array([0, 2])
            edit = Edit(Site.K, layer, tokens, scale=1.0, turn=np.array(turn))
            runs.append((0, [edit], [(Site.RESID_POST, 2)]))
    # Sine and cosine are float32 in the model; in the oracle the turns are not.
    check(captured, runs, 1e-5)
    table = captured.with_edits(0, runs[0][1], [(Site.RESID_POST, 2)])
    plain = captured.at(Site.RESID_POST, 2, 0)
    assert not np.allclose(table[Site.RESID_POST, 2], plain, atol=1e-3)


def test_several_edits_and_reads_in_between(captured):
    """Any sites and layers together, several runs of an example, every site read that can be."""
    sites, last = sites_of(captured), captured.of.n_layer - 1
    # Of the others the oracle's hooks show what later edits of the block make of them.
    apart = {Site.PATTERN, Site.ATTN_OUT, Site.RESID_MID}
    apart |= {Site.MLP_OUT} if captured.of.post_norm else set()
    readable = [site for site in sites if site not in apart]
    for seed in range(8):
        rng = np.random.default_rng(100 + seed)
        runs = []
        for _ in range(6):
            example = int(rng.integers(len(captured.examples)))
            edits = [
                draw(
                    captured,
                    rng,
                    Site(str(site)),
                    int(rng.integers(last + 1)),
                    example,
                    str(rng.choice(KINDS)),
                )
                for site in rng.choice(sites, rng.integers(1, 4), replace=False)
            ]
            edits.sort(key=lambda edit: (edit.layer, ORDER.index(edit.site)))
            reads = [(Site.RESID_POST, last)]
            reads += [(Site(str(s)), int(rng.integers(last + 1))) for s in rng.choice(readable, 2)]
            runs.append((example, edits, sorted(set(reads))))
        check(captured, runs)
