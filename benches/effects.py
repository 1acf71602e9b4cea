"""What else a store can spare: making keys of cached tokens, and blocks where effects are linear.

A replay attends to keys and values of tokens that it does not compute. They are made from the
stream, or read where `k` and `v` were captured. Patched are the last 50 of 1,000 tokens, the last
one in one layer, and a pair of 20 tokens. Then 1,000 random subsets of the components of GPT-2
small are mean-ablated in the direct effects on the last tokens of 100 prompts, once all shares have
been read. The weights are random.

    python benches/effects.py [--rounds 5]
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import residuum
from common import Case, interleaved
from findings import Report, versions
from pairs import pair, shapes, store_of
from residuum.replay import direct_effects, logit_diff

SITES = ("resid_pre", "resid_final", "z")
METRIC = logit_diff(5, 9)
N_SUBSET, N_PROMPT = 1000, 100


def size_of(store: residuum.Store) -> float:
    """Bytes of the arrays for each token."""
    files = (file for file in Path(str(store.path)).rglob("*") if "/c/" in file.as_posix())
    return sum(file.stat().st_size for file in files if file.is_file()) / store.n_row


def keys(report: Report, make: Callable[[], Any], rounds: int) -> None:
    """Sweeps of the residual stream, with and without stored keys and values."""
    rows = []
    for title, n_token, first, layers in (
        ("1,000 tokens, the last 50 patched", 1000, 950, range(12)),
        ("1,000 tokens, one patch of the last", 1000, 999, [0]),
        ("20 tokens, all patched", 20, 0, range(12)),
    ):
        ids = pair(n_token, same=max(first, 3))
        stores = {
            name: store_of(make(), name, ids, sites)
            for name, sites in (("made", SITES), ("read", (*SITES, "k", "v")))
        }
        tokens = list(range(first, n_token))
        sweeps = {
            name: partial(
                residuum.replay(store).sweep,
                *("resid_pre", 0, 1),
                metric=METRIC,
                layers=layers,
                tokens=tokens,
            )
            for name, store in stores.items()
        }
        made, read = (sweep()["logit_diff"].to_numpy() for sweep in sweeps.values())
        np.testing.assert_allclose(made, read, atol=1e-4)
        found = interleaved({name: Case(sweep) for name, sweep in sweeps.items()}, rounds)
        for name, store in stores.items():
            each = found[name].median / len(made)
            rows.append([title, name, f"{1e3 * each:.2f}", f"{size_of(store) / 1e3:.0f} kB"])
    report.table(["prompt", "keys and values are", "ms a patch", "bytes a token"], rows)


def direct(report: Report, make: Callable[[], Any], rounds: int) -> None:
    """Subsets of components a second."""
    ids = torch.cat([pair(seed=seed) for seed in range(N_PROMPT // 2)])
    store = store_of(make(), "direct", ids, ("embed", "z", "mlp_out", "resid_final"))
    last = list(range(19, store.n_row, 20))
    effects = direct_effects(store, [5], [9], rows=last)
    subsets = np.random.default_rng(0).random((N_SUBSET, effects.components.num_rows)) < 0.5
    np.testing.assert_allclose(effects.shares.sum(1), effects.logits, atol=1e-3)
    cases = {
        "reading the shares": Case(lambda: direct_effects(store, [5], [9], rows=last)),
        "1,000 subsets": Case(lambda: effects.ablated(subsets)),
    }
    found = interleaved(cases, rounds)
    report.table(
        [f"direct effects, {len(last)} rows, {subsets.shape[1]} components", "ms", "subsets a s"],
        [
            [name, f"{1e3 * one.median:,.1f}", "" if "reading" in name else rate(one.median)]
            for name, one in found.items()
        ],
    )


def rate(seconds: float) -> str:
    """Subsets a second."""
    return f"{N_SUBSET / seconds:,.0f}"


def main() -> None:
    """Check the answers, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    report = Report("effects", "Stored keys, direct effects")
    report.introduce(__doc__)
    report.say(f"Medians of {options.rounds}. {versions('torch', 'transformers')}")
    make = shapes()["GPT-2 small"]
    keys(report, make, options.rounds)
    direct(report, make, options.rounds)
    report.keep()


if __name__ == "__main__":
    main()
