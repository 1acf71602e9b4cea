"""Training tuned lenses from a store, beside the package tuned-lens: one, and five settings.

GPT-2 small's shape with random weights: 12 translators, 768 wide, 50,257 tokens; prompts of 128
random words. Every step takes words that none took before, so that a training reads the capture
once, and the package runs the model once, over the same words in the same order: a pass for each
step, then by layer the lens, KL and a backward pass. It computes lenses in bfloat16 (autocast); it
is timed in float32 as well, and like is compared with like. Five trainings differ in the rate: they
share one capture, or run the model each time, as the package has no other way.

Why five settings stay below their goal of 3: a step of the package is 25 products as wide as the
vocabulary for every token, 24 of them the lenses' own, which no capture spares, and the model's
other weights are as much as two more. What is left is how fast these are computed: in float32 near
the machine's peak (92 to 104 GFLOP/s a core, OpenBLAS the same), in bfloat16 by torch for both.

Before anything is timed, answers are compared on 5 steps of 128 tokens: losses of both trainings in
float32 to 1e-3, a published lens bit for bit, its means at every state to 1e-5. Peaks are of
processes of their own, above the model's weights; in them is the unembedding, which residuum maps
and the package copies.

    python benches/lenses.py [--rounds 2] [--steps 3] [--tokens 512] [--layers 12]
"""

import argparse
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from tuned_lens.nn import TunedLens, Unembed

import lens_rivals
import residuum
from capture import N_TOKEN, make_model, make_prompts
from common import Case, Measured, folder_bytes, interleaved, measure
from findings import Goal, Report, versions
from residuum.analyses.rows import token_rows
from residuum.analyses.tuned_lens import compute
from residuum.analyses.tuned_lens.params import Params
from residuum.lenses import Recipe, Trained, publish, published, save, stored, train
from residuum.lenses.examples import steps, stored_examples
from residuum.lenses.states import States

WORK = Path(".cache/bench/lenses")
SITES = ("resid_pre", "resid_final")
RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
CHUNKS = {chunk: f"torch, chunks of {chunk:,}" for chunk in (2048, 256)}
OURS, TORCH, CAPTURE = "residuum", "residuum, torch", "the capture alone"
OURS_NARROW = "residuum, torch, bfloat16"
NARROW, WIDE = "tuned-lens, bfloat16", "tuned-lens, float32"
RIVALS = {OURS: WIDE, OURS_NARROW: NARROW}
"""Whom each of ours is compared with."""
PASSES = "the model's passes alone"
AFTER = ", after its capture"
RUN = "run.residuum"
NAME = "tuned"


@dataclass(frozen=True)
class Bench:
    """A model, what it reads, and how a lens of it is trained."""

    model: Any
    tokenizer: Any
    n_step: int
    tokens: int

    @property
    def n_token(self) -> int:
        """Tokens of a training."""
        return self.n_step * self.tokens

    @property
    def n_layer(self) -> int:
        """Blocks of the model."""
        return int(self.model.config.n_layer)

    def captured(
        self, name: str, n_token: int | None = None, layers: range | None = None
    ) -> residuum.Store:
        """Run the model into a store that is new; as many tokens as a training takes."""
        shutil.rmtree(WORK / name, ignore_errors=True)
        prompts = make_prompts((n_token or self.n_token) // N_TOKEN)
        return residuum.capture(
            (self.model, self.tokenizer),
            prompts,
            WORK / name,
            sites=SITES,
            layers=layers,
            batch_tokens=self.tokens,
            device="cpu",
        )

    def train(self, store: residuum.Store, name: str = OURS, rate: float = 1.0) -> Trained:
        """Train from a store and keep the lens in it."""
        recipe = Recipe(steps=self.n_step, tokens_per_step=self.tokens, rate_scale=rate)
        trained = train(
            store,
            recipe,
            held_out=0.0,
            executor="rust" if name == OURS else "torch",
            precision="bfloat16" if name == OURS_NARROW else "float32",
            progress=False,
        )
        save(store, trained.lens, NAME)
        return trained

    def rival(
        self, batches: list[torch.Tensor], rate: float = 1.0, *, autocast: bool
    ) -> lens_rivals.Training:
        """Train with the package, the model's passes included."""
        return lens_rivals.trained(self.model, batches, rate, WORK / "theirs", autocast=autocast)

    def batches(self, store: residuum.Store) -> list[torch.Tensor]:
        """The ids `[example, token]` of the steps that our training takes."""
        ids = torch.from_numpy(token_rows(store).token_id.reshape(-1, N_TOKEN)).long()
        order = steps(stored_examples(store), self.tokens, Recipe().seed)
        return [ids[taken] for taken in islice(order, self.n_step)]

    def ways(self, store: residuum.Store) -> dict[str, Callable[[], Any]]:
        """Train one lens: from a store, or with the package."""
        batches = self.batches(store)
        return {
            **{name: partial(self.train, store, name) for name in (OURS, TORCH, OURS_NARROW)},
            NARROW: partial(self.rival, batches, autocast=True),
            WIDE: partial(self.rival, batches, autocast=False),
        }

    @torch.no_grad()
    def passes(self, batches: list[torch.Tensor]) -> None:
        """What the package asks of the model in a training."""
        for batch in batches:
            self.model(input_ids=batch, output_hidden_states=True)


def made(n_layer: int, n_step: int, tokens: int) -> Bench:
    """The model, in evaluation mode and without gradients, as the package loads one."""
    model, tokenizer = make_model(n_layer)
    model.requires_grad_(requires_grad=False)
    return Bench(model, tokenizer, n_step, tokens)


def ours_judged(store: residuum.Store) -> pa.Table:
    """The table `quality`, computed anew each time."""
    return compute(store, Params(lens=NAME, experiments=("quality",)))["quality"]


def theirs_judged(
    store: residuum.Store, lens: TunedLens, targets: NDArray[np.int32], chunk: int
) -> dict[tuple[str, int], lens_rivals.Sums]:
    """The same numbers by whole logits."""
    return lens_rivals.chunked(States(store, analysis="lenses"), lens, targets, chunk)


def loaded(bench: Bench, store: residuum.Store) -> TunedLens:
    """The store's lens, published, as the package reads it."""
    lens = stored(store, NAME)
    publish(lens, WORK / "published", store.weights["W_U"])
    unembed = Unembed(bench.model)
    theirs = TunedLens.from_unembed_and_pretrained(unembed, str(WORK / "published"))
    saved = published(WORK / "published").about["unembed_hash"]
    assert saved == unembed.unembedding_hash()
    for state, one in lens.translators.items():
        assert np.array_equal(theirs[state].weight.detach(), one.weight), state
        assert np.array_equal(theirs[state].bias.detach(), one.bias), state
    return theirs.requires_grad_(requires_grad=False)


def assert_trained_alike(ours: Mapping[str, Trained], theirs: lens_rivals.Training) -> None:
    """Losses of every step and layer are the package's in float32, to 1e-3."""
    want = np.array(theirs.losses)
    for name, one in ours.items():
        got = one.losses["loss"].to_numpy().reshape(want.shape)
        error = np.abs(got / want - 1).max()
        print(f"  losses of {name} are the package's to {error:.1e}", flush=True)
        assert error <= 1e-3, (name, error)


def assert_judged_alike(
    ours: pa.Table, theirs: Mapping[tuple[str, int], lens_rivals.Sums], n_row: int
) -> None:
    """Means over rows to 1e-5, top-1 agreement to a tie in a thousand."""
    last = max(layer for _, layer in theirs)
    true, worst = theirs["model", last].marginal, 0.0
    for row in ours.to_pylist():
        key = ("model" if row["layer"] == last else row["lens"], row["layer"])
        of, totals = theirs[key], theirs[key].totals
        q, p = of.marginal / n_row, true / n_row
        want = {
            "kl_nats": totals["kl"] / n_row,
            "ce_nats": totals["ce"] / row["n_targets"],
            "entropy": totals["entropy"] / n_row,
            "marginal_kl": float((p * (p / q).log()).sum()),
        }
        assert row["n_tokens"] == n_row
        for name, value in want.items():
            error = abs(row[name] - value) / max(1.0, abs(value))
            worst = max(worst, error)
            assert error <= 1e-5, (key, name, row[name], value)
        assert abs(row["top1_is_final"] - totals["agree"] / n_row) <= 1e-3, key
    print(f"  means over rows agree to {worst:.1e}", flush=True)


def compare(bench: Bench) -> None:
    """Assert that both train and judge alike; the lens of this is judged later."""
    small = replace(bench, n_step=5, tokens=N_TOKEN)
    store = small.captured("small.residuum")
    ours = {OURS: small.train(store), TORCH: small.train(store, TORCH)}
    assert_trained_alike(ours, small.rival(small.batches(store), autocast=False))
    first, *chunked = judging(small, store).values()
    table = first()
    for call in chunked:
        assert_judged_alike(table, call(), store.n_row)


def trainings(report: Report, bench: Bench, rounds: int) -> None:
    """One lens, by everyone."""
    store = bench.captured(RUN)
    ways = bench.ways(store)
    cases = {name: Case(way) for name, way in ways.items()}
    cases[CAPTURE] = Case(lambda: bench.captured("again.residuum"))
    cases[PASSES] = Case(lambda: bench.passes(bench.batches(store)))
    measured = interleaved(cases, rounds, warm_up=False)
    seconds = {name: case.median for name, case in measured.items()}
    for name in (OURS, TORCH, OURS_NARROW):
        seconds[f"{name}{AFTER}"] = seconds[name] + seconds[CAPTURE]
    peaks = {name: alone(training_peak, name, bench) for name in ways}
    title = f"one lens, {bench.n_step} steps of {bench.tokens:,} tokens"
    table(report, title, seconds, bench.n_token, peaks)
    size = folder_bytes(WORK / RUN) / 1e6
    report.say(f"The store holds {size:.0f} MB, the unembedding and a lens included.")
    speeds = {name: 1 / value for name, value in seconds.items()}
    for ours, theirs in RIVALS.items():
        goals = [Goal(theirs, (theirs,), 1.2)]
        report.judge(f"{title}, from a store", ours, speeds, goals)
        report.judge(f"{title}, capture included", f"{ours}{AFTER}", speeds, goals)


def training_peak(name: str, n_layer: int, tokens: int) -> int:
    """Bytes above the model that a step of a training takes in this process, its first."""
    bench = made(n_layer, 1, tokens)
    return peak(bench.ways(residuum.open(WORK / RUN))[name])


def five(report: Report, bench: Bench, rounds: int) -> None:
    """Five settings on one capture, or with the model's passes five times."""
    batches = bench.batches(residuum.open(WORK / RUN))

    def ours(name: str) -> None:
        store = bench.captured("again.residuum")
        for rate in RATES:
            bench.train(store, name, rate)

    def theirs(name: str) -> None:
        for rate in RATES:
            bench.rival(batches, rate, autocast=name == NARROW)

    cases = {}
    for mine, rival in RIVALS.items():
        cases[mine], cases[rival] = Case(partial(ours, mine)), Case(partial(theirs, rival))
    measured = interleaved(cases, rounds, warm_up=False)
    seconds = {name: case.median for name, case in measured.items()}
    title = f"five settings, {bench.n_step} steps of {bench.tokens:,} tokens, capture included"
    table(report, title, seconds, len(RATES) * bench.n_token)
    speeds = {name: 1 / value for name, value in seconds.items()}
    for mine, rival in RIVALS.items():
        report.judge(title, mine, speeds, [Goal(rival, (rival,), 3)])


def judging(bench: Bench, store: residuum.Store) -> dict[str, Callable[[], Any]]:
    """Judge the store's lens on all rows: ours, and torch by the size of its chunks."""
    lens, targets = loaded(bench, store), token_rows(store).target_id
    calls: dict[str, Callable[[], Any]] = {OURS: partial(ours_judged, store)}
    for chunk, name in CHUNKS.items():
        calls[name] = partial(theirs_judged, store, lens, targets, chunk)
    return calls


def peak(call: Callable[[], Any]) -> int:
    """Bytes above the start that a call takes."""
    measured = Measured()
    measure(Case(call), measured)
    return measured.peak_bytes


def alone(measured: Callable[[str, int, int], int], name: str, bench: Bench) -> int:
    """A peak, in a process of its own: what one case gave back, another would take for nothing."""
    with get_context("spawn").Pool(1) as process:
        return process.apply(measured, (name, bench.n_layer, bench.tokens))


def table(
    report: Report,
    title: str,
    seconds: Mapping[str, float],
    n_token: int,
    peaks: Mapping[str, int] | None = None,
) -> None:
    """Tokens a second, and peaks where they were measured."""
    report.table(
        [title, "s", "tokens/s", "times residuum's", *(["peak memory"] if peaks else [])],
        [
            [
                name,
                f"{one:,.2f}",
                f"{n_token / one:,.0f}",
                f"{one / seconds[OURS]:.2f}",
                *([f"{peaks[name] / 1e6:,.0f} MB" if name in peaks else ""] if peaks else []),
            ]
            for name, one in seconds.items()
        ],
    )


def main() -> None:
    """Check the answers, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="half as many of five trainings")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=512, help="of a step")
    parser.add_argument("--layers", type=int, default=12, help="of the model; fewer for a try")
    options = parser.parse_args()
    report = Report("lenses", "Tuned lenses: training")
    report.introduce(__doc__)
    packages = ("tuned-lens", "torch", "transformers")
    report.say(f"Medians of {options.rounds}. {versions(*packages)}")
    bench = made(options.layers, options.steps, options.tokens)
    compare(bench)
    trainings(report, bench, options.rounds)
    five(report, bench, max(1, options.rounds // 2))
    report.keep()


if __name__ == "__main__":
    main()
