"""Judging a tuned lens over a store, beside torch with all logits of a chunk of rows.

KL, cross-entropy, entropy, top-1 agreement and the mean distribution of the logit and the tuned
lens at every third state of GPT-2 small's shape with random weights (50,257 tokens): the quality
part of `residuum run tuned_lens`, or torch, through the package's modules, from the same store.
Means are compared to 1e-5 before anything is timed. Peaks are of processes of their own, above the
model's weights, the unembedding and the lens, which residuum maps and the package has copied.
The goal for memory is against torch's fastest chunks, of 2,048 rows; with chunks of 256 torch takes
a little longer and a seventh of the memory, about twice that of residuum.

    python benches/judging.py [--rounds 3] [--rows 2048] [--layers 12]
"""

import argparse
from dataclasses import replace

import residuum
from common import Case, interleaved
from findings import Goal, Report, versions
from lenses import CHUNKS, NAME, OURS, WORK, Bench, alone, compare, judging, made, peak, table
from residuum.lenses import save, stored

JUDGED = "judged.residuum"
TOKENS = 512  # of a batch of the capture


def judged(report: Report, bench: Bench, n_row: int, rounds: int) -> None:
    """Judge a lens over a store: times in turns, then peaks, each in a process of its own."""
    layers = range(0, bench.n_layer, 3)
    store = bench.captured(JUDGED, n_row, layers)
    lens = stored(residuum.open(WORK / "small.residuum"), NAME)
    # Without a split, as if it came from elsewhere: it is judged on all rows.
    save(store, replace(lens, about={}), NAME)
    calls = judging(bench, store)
    cases = {name: Case(call) for name, call in calls.items()}
    measured = interleaved(cases, rounds, warm_up=False)
    seconds = {name: case.median for name, case in measured.items()}
    peaks = {name: alone(judging_peak, name, bench) for name in calls}
    title = f"judging two lenses, {store.n_row:,} rows, {len(layers) + 1} states"
    table(report, title, seconds, store.n_row, peaks)
    speeds = {name: 1 / value for name, value in seconds.items()}
    every, large = tuple(CHUNKS.values()), CHUNKS[max(CHUNKS)]
    report.judge(title, OURS, speeds, [Goal("torch's best chunks", every, 1.2)])
    smallness = {name: 1 / value for name, value in peaks.items()}
    report.judge(f"{title}, peak memory", OURS, smallness, [Goal(large, (large,), 10)])


def judging_peak(name: str, n_layer: int, tokens: int) -> int:
    """Bytes above weights and lens that judging takes in this process, which did nothing before."""
    bench, store = made(n_layer, 1, tokens), residuum.open(WORK / JUDGED)
    # Ours maps the unembedding and the lens while it runs; the package's were copied before.
    found = stored(store, NAME).translators.values()
    maps = store.weights["W_U"].nbytes + sum(one.weight.nbytes for one in found)
    return peak(judging(bench, store)[name]) - (maps if name == OURS else 0)


def main() -> None:
    """Check the answers, then time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=2048, help="that are judged")
    parser.add_argument("--layers", type=int, default=12, help="of the model; fewer for a try")
    options = parser.parse_args()
    report = Report("judging", "Tuned lenses: judging")
    report.introduce(__doc__)
    packages = ("tuned-lens", "torch", "transformers")
    report.say(f"Medians of {options.rounds}. {versions(*packages)}")
    bench = made(options.layers, 1, TOKENS)
    compare(bench)
    judged(report, bench, options.rows, options.rounds)
    report.keep()


if __name__ == "__main__":
    main()
