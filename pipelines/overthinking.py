"""Overthinking the truth: where inside a model do wrong demonstrations make it answer wrongly?

Trains small models (train_overthinking_models.py, about a minute each on one core), captures
pairs of prompts with true and with wrong labels, and asks the study's questions of what was stored:
the overthinking curve, the same before the model saw a lie (the control), the heads that look at
earlier labels of the same class, and what is left when they are cut out. Everything stays under
demo/overthinking/.

    python pipelines/overthinking.py
    python pipelines/overthinking.py --model FOLDER --data sst2=FILE.jsonl --data agnews=FILE.jsonl

With a model of yours the prompts are texts: `unnatural`, on which heads are chosen, and the data
sets that you name, in files of JSON lines (`residuum.prompts.demonstrations.loader`). Its stream is
kept at the tokens before labels, its attention at the last of them; `--ablate` keeps the stream of
every token, about 50 times as much, which a replay needs.
"""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import AutoTokenizer

import residuum
from residuum.analyses.result import Result
from residuum.prompts import demonstrations
from residuum.prompts.demonstrations import Dataset, build
from residuum.store import Store
from telling import heading, report, show
from train_overthinking_models import trained_model, world_of

FOLDER = Path("demo/overthinking")
SITES = ["embed", "resid_post", "z", "pattern"]
N_PROMPT = 500
SETTINGS = ["permuted", "half_permuted", "random"]
# Models of the last decade have room for 40 demonstrations; those of 1024 tokens take half.
N_DEMO, N_DEMO_SHORT, SHORT = 40, 20, 1024
PROMPT_SEED = 1


def captured(
    model: str,
    rows: list[dict[str, Any]],
    out: Path,
    sites: Sequence[str] = SITES,
    positions: str = "all",
) -> Store:
    """The store of a model on prompts; made anew."""
    shutil.rmtree(out, ignore_errors=True)
    started = time.perf_counter()
    table = pa.Table.from_pylist(rows)
    store = residuum.capture(model, table, out, sites=sites, positions=positions)
    print(f"{store}\n  captured in {time.perf_counter() - started:.0f} s", flush=True)
    return store


def asked(store: Store, **params: object) -> Result:
    """The study's answer, kept in the store."""
    started = time.perf_counter()
    result = residuum.analyses.run("overthinking", store, **params)
    print(f"  asked in {time.perf_counter() - started:.0f} s", flush=True)
    for row in result["skipped"].to_pylist():
        print(f"  left out of {row['experiment']}: {row['reason']}")
    return result


def show_curve(store: Store) -> None:
    """Calibrated accuracy at the last demonstration by state, and where the prefixes part."""
    show(
        store,
        "Calibrated accuracy of the last demonstration by state (0: embedding, l: after l blocks)",
        """
        PIVOT (
            SELECT dataset, setting, prefix, metric, state_index, round(avg(mean), 3) AS mean
            FROM overthinking_accuracy JOIN (
                SELECT dataset, max(demo) AS demo FROM overthinking_accuracy GROUP BY ALL
            ) USING (dataset, demo)
            WHERE metric IN ('calibrated', 'permuted_score')
              AND NOT (prefix = 'true' AND metric = 'permuted_score')
            GROUP BY ALL
        ) ON state_index USING first(mean) ORDER BY dataset, setting, metric, prefix
        """,
    )
    show(
        store,
        "Critical state: the first with half of the final gap (null: there is no gap)",
        """
        SELECT dataset, setting, state_index AS critical_state, block,
               round(final_gap, 3) AS final_gap, round(final_gap_error, 4) AS error
        FROM overthinking_critical_layers
        """,
    )
    show(
        store,
        "Early exit: the state at which reading gains most with false demonstrations",
        """
        SELECT dataset, setting, state_index, round(acc_true, 3) AS acc_true,
               round(acc_false, 3) AS acc_false, round(delta_true, 3) AS delta_true,
               round(delta_false, 3) AS delta_false
        FROM overthinking_early_exit
        """,
    )


def show_heads(store: Store) -> None:
    """Prefix-matching heads, and ablations."""
    n_layer = store.model["n_layer"]
    show(
        store,
        f"Heads that look at labels of the same shown class (blocks count from 0 of {n_layer})",
        """
        SELECT dataset, setting, layer AS block, head, round(pm_label, 3) AS pm_label,
               round(on_labels, 3) AS on_labels,
               round(shown_logit_minus_mean, 3) AS adds_to_shown_logit
        FROM overthinking_prefix_matching
        LEFT JOIN overthinking_label_copying USING (dataset, setting, layer, head)
        WHERE rank < 5 ORDER BY dataset, setting, rank
        """,
    )
    show(
        store,
        "Ablations at the last token before the label (random heads: mean and largest of draws)",
        """
        SELECT dataset, setting, ablation, n_heads AS heads, any_value(parts) AS for_example,
               round(avg(cal_acc) FILTER (prefix = 'true'), 3) AS acc_true,
               round(avg(cal_acc) FILTER (prefix = 'false'), 3) AS acc_false,
               round(avg(gap_reduction), 3) AS gap_reduction,
               round(max(gap_reduction), 3) AS largest
        FROM overthinking_ablations GROUP BY dataset, setting, ablation, n_heads
        ORDER BY dataset, setting, heads NULLS FIRST, ablation
        """,
    )


def curve() -> None:
    """The overthinking curve of a small model, and its control."""
    world = world_of("curve")
    for name, title in (
        ("curve", "Curve: a model that has seen labels lie"),
        ("curve_truthful", "Control: the same model before it saw a lie"),
    ):
        heading(title)
        rows = build(
            world.datasets[0],
            n_prompt=N_PROMPT,
            n_demo=world.n_demo,
            settings=SETTINGS,
            seed=PROMPT_SEED,
        )
        store = captured(str(trained_model(name)), rows, FOLDER / f"{name}.residuum")
        result = asked(store, experiments=["accuracy", "critical_layers", "early_exit"])
        show_curve(store)
        report(store, [result], FOLDER / f"{name}.html")


def heads(name: str, title: str) -> None:
    """False induction heads: chosen on one item set, tried on two others."""
    heading(title)
    world = world_of(name)
    rows = [
        row
        for dataset in world.datasets
        for row in build(dataset, n_prompt=N_PROMPT, n_demo=world.n_demo, seed=PROMPT_SEED)
    ]
    store = captured(str(trained_model(name)), rows, FOLDER / f"{name}.residuum")
    result = asked(store, n_heads=[1, 2, 3, 4], seeds=[0, 1, 2])
    show_curve(store)
    show_heads(store)
    report(store, [result], FOLDER / f"{name}.html")


def real(
    model: str, given: Sequence[str], n_prompt: int, n_demo: int | None, *, ablate: bool
) -> None:
    """The study of a model of yours on `unnatural` and your own files."""
    tokenizer = AutoTokenizer.from_pretrained(model)

    def encode(text: str) -> list[tuple[int, int, int]]:
        made = tokenizer(text, return_offsets_mapping=True)
        offsets = zip(made.input_ids, made.offset_mapping, strict=True)
        return [(token, start, end) for token, (start, end) in offsets]

    context = int(tokenizer.model_max_length)
    if n_demo is None:
        n_demo = N_DEMO_SHORT if context <= SHORT else N_DEMO
    sets: list[Dataset] = [demonstrations.unnatural()]
    for one in given:
        name, _, path = one.partition("=")
        sets.append(demonstrations.load(path, name))
    rows = []
    for dataset in sets:
        rows += build(
            dataset,
            n_prompt=n_prompt,
            n_demo=n_demo,
            seed=PROMPT_SEED,
            encode=encode,
            context=min(context, 2 * SHORT),
        )
    heading(f"{model}: {len(rows)} prompts of {n_demo} demonstrations")
    # A pattern of all tokens by all tokens would be far larger than what is asked about.
    pattern = FOLDER / "real_pattern.residuum"
    captured(model, rows, pattern, ["pattern"], "column:query_token")
    stream = "all" if ablate else "column:pre_label_token"
    store = captured(model, rows, FOLDER / "real.residuum", ["embed", "resid_post"], stream)
    parts = ["accuracy", "critical_layers", "early_exit", "prefix_matching"]
    parts += ["ablations", "label_copying"] if ablate else []
    result = asked(store, pattern=str(pattern), experiments=parts)
    show_curve(store)
    show_heads(store)
    report(store, [result], FOLDER / "real.html")


def main() -> None:
    """The small models, or a real one."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--model", help="a folder or a name on the hub; trains small ones without")
    options.add_argument("--data", action="append", default=[], metavar="NAME=FILE")
    options.add_argument("--prompts", type=int, default=N_PROMPT, help="pairs of each data set")
    options.add_argument("--demos", type=int, help="demonstrations of a prompt")
    options.add_argument(
        "--ablate",
        action="store_true",
        help="ablate heads and late blocks too, which keeps the stream of every token",
    )
    chosen = options.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    if chosen.model is not None:
        real(chosen.model, chosen.data, chosen.prompts, chosen.demos, ablate=chosen.ablate)
        return
    curve()
    heads("model_a", "Heads: classes lie one by one, each data set has labels of its own (model A)")
    heads("model_a_shared", "Heads: the same, but all data sets have the same label words")


if __name__ == "__main__":
    main()
