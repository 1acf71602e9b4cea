"""Tuned lenses: what does a model believe at every layer, and does it mean it?

Four small models, captured once each; everything stays under demo/tuned_lens/:

    causal    the demo's model of docstrings: both lenses, causal directions and their fidelity to
              the model, blocks taken out; a lens of shuffled states is the control
    start     the same model before it was trained: there is nothing to refine
    curve     a model that has seen labels lie: the same, and wrong demonstrations told from right
              ones by the trajectory, with a lens that was trained on other prompts
    base      the same model before it saw a lie: its lens on the states of the later model

    python pipelines/tuned_lens_study.py
    python pipelines/tuned_lens_study.py --model FOLDER --texts FILE

With a model of yours, `--texts` is a file of one text a line, a part of which is held out.
"""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed

import residuum
from demo import choose
from docstring_corpus import build_corpus
from residuum.analyses.result import Result
from residuum.prompts.demonstrations import build
from residuum.store import Store
from telling import heading, report, show
from train_causal_model import trained_model as causal_model
from train_overthinking_models import trained_model, world_of

FOLDER = Path("demo/tuned_lens")
SITES = ["embed", "resid_post"]
SGD: dict[str, Any] = {"save_as": "sgd"}
ADAM: dict[str, Any] = {"optimizer": "adam", "rate_scale": 5.0, "save_as": "adam"}
# Of the causal model's 37,000 tokens and the small world's 8,000 that are trained on.
TOKENS, TOKENS_SMALL = 4096, 1024
# Pairs of prompts that the lens of the small world is trained on and judged by, half and half.
N_PAIR, HELD_OUT = 220, 0.45
N_PROMPT = 500
SETTINGS = ["permuted", "half_permuted", "random"]


def captured(model: Path | str, inputs: list[str] | pa.Table, out: Path) -> Store:
    """The store of a model's stream; made anew."""
    shutil.rmtree(out, ignore_errors=True)
    store = residuum.capture(
        str(model), inputs, out, sites=SITES, dtype="float32", truncate=isinstance(inputs, list)
    )
    print(store, flush=True)
    return store


def asked(store: Store, **params: object) -> Result:
    """The study's answer, kept in the store."""
    started = time.perf_counter()
    result = residuum.analyses.run("tuned_lens", store, **params)
    print(f"  asked in {time.perf_counter() - started:.0f} s", flush=True)
    for row in result["skipped"].to_pylist():
        print(f"  left out: {row['experiment']}: {row['reason']}")
    return result


def show_quality(store: Store) -> None:
    """Both lenses by layer."""
    show(
        store,
        "KL from the model's output, nats a token (constant: the best that says the same always)",
        """
        SELECT layer, lens, round(kl_nats, 3) AS kl, round(constant_kl_nats, 3) AS constant,
               round(marginal_kl, 4) AS bias, round(ce_nats, 3) AS cross_entropy,
               round(top1_is_final, 3) AS top1_is_final
        FROM tuned_lens_quality ORDER BY layer, lens
        """,
    )


def show_causal(store: Store) -> None:
    """Directions, alignment and blocks."""
    show(
        store,
        "Directions taken out: KL of the model, the basis beside random ones",
        """
        SELECT layer, round(spearman, 2) AS spearman, round(model_kl_top, 3) AS first,
               round(model_kl_basis, 3) AS basis, round(model_kl_random, 4) AS random,
               round(top_over_random) AS first_over_random,
               round(basis_over_random) AS basis_over_random
        FROM tuned_lens_fidelity ORDER BY layer
        """,
    )
    show(
        store,
        "Do lens and model move the same way? (Aitchison cosine, mean over the basis)",
        """
        PIVOT (
            SELECT layer, weights, lens, round(avg(alignment), 2) AS alignment
            FROM tuned_lens_alignment WHERE kind = 'basis' GROUP BY ALL
        ) ON lens, weights USING first(alignment) ORDER BY layer
        """,
    )
    show(
        store,
        "Blocks taken out: KL of the model's output, nats a token",
        """
        PIVOT (SELECT block, method, round(kl_nats, 3) AS kl FROM tuned_lens_ablation)
        ON method USING first(kl) ORDER BY block
        """,
    )
    show(
        store,
        "What blocks add against the gradient by the state that enters: cosine, share that is down",
        """
        SELECT block, loss, round(cosine, 3) AS cosine, round(cosine_random, 3) AS random,
               round(cosine_other, 3) AS of_another_token, round(negative_share, 3) AS tokens,
               round(example_negative_share, 3) AS examples
        FROM tuned_lens_gradient WHERE layer = block ORDER BY loss, block
        """,
    )


def causal() -> None:
    """The demo's model: two recipes, and the control."""
    corpus = build_corpus()
    model, texts = causal_model(corpus), [row["text"] for row in choose(corpus)]
    store = captured(model, texts, FOLDER / "causal.residuum")
    for recipe in (SGD, ADAM):
        heading(f"A model of docstrings, trained by {recipe['save_as']}")
        result = asked(store, **recipe, tokens_per_step=TOKENS, basis_examples=64)
        show_quality(store)
        show_causal(store)
    report(store, [result], FOLDER / "causal.html")
    heading("Control: states learn other tokens' outputs")
    mixed = {**ADAM, "save_as": "shuffled", "shuffled": True}
    asked(store, **mixed, tokens_per_step=TOKENS, experiments=["quality"])
    show_quality(store)
    heading("Control: the model before it was trained")
    store = captured(started(model), texts, FOLDER / "start.residuum")
    asked(store, **ADAM, tokens_per_step=TOKENS, experiments=["quality"])
    show_quality(store)


def started(trained: Path) -> Path:
    """A model of the same shape whose weights are drawn."""
    set_seed(0)
    out = FOLDER / "start"
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(trained)).save_pretrained(out)
    AutoTokenizer.from_pretrained(trained).save_pretrained(out)
    return out


def prompts(n_prompt: int, settings: Sequence[str], seed: int) -> pa.Table:
    """Pairs of prompts with right and with wrong labels."""
    world = world_of("curve")
    rows = build(
        world.datasets[0],
        n_prompt=n_prompt,
        n_demo=world.n_demo,
        settings=settings,
        seed=seed,
    )
    return pa.Table.from_pylist(rows)


def curve() -> None:
    """The model that has seen lies: its lens, wrong demonstrations, and the lens of its past."""
    of_lens = prompts(N_PAIR, ["permuted"], seed=5)
    settings = {**ADAM, "tokens_per_step": TOKENS_SMALL, "held_out": HELD_OUT}
    heading("A model that has seen labels lie")
    store = captured(trained_model("curve"), of_lens, FOLDER / "curve.residuum")
    result = asked(store, **settings)
    show_quality(store)
    show_causal(store)
    report(store, [result], FOLDER / "curve.html")

    heading("Wrong demonstrations, told from right ones by the trajectory of the last label")
    odd = captured(
        trained_model("curve"), prompts(N_PROMPT, SETTINGS, seed=1), FOLDER / "odd.residuum"
    )
    lens = str(store.path / "lenses" / "adam.safetensors")
    result = asked(odd, lens=lens, experiments=["anomaly"])
    show(
        odd,
        "AUROC (against clean: prompts of the same kind, which should be told by chance)",
        """
        SELECT task, coalesce(lens, 'last state') AS lens, detector, against,
               round(auroc, 3) AS auroc, round(auroc_lo, 3) AS lo, round(auroc_hi, 3) AS hi
        FROM tuned_lens_anomaly ORDER BY ALL
        """,
    )
    report(odd, [result], FOLDER / "odd.html")

    heading("The lens of the model before it saw a lie, on the states of the later one")
    base = captured(trained_model("curve_truthful"), of_lens, FOLDER / "base.residuum")
    asked(base, **settings, experiments=["quality"])
    theirs = str(base.path / "lenses" / "adam.safetensors")
    asked(store, lens="adam", beside=theirs, experiments=["quality"])
    show(
        store,
        "KL of either lens, nats a token",
        """
        SELECT layer, round(own_kl_nats, 3) AS own, round(kl_nats, 3) AS of_the_past,
               round(penalty_nats, 3) AS penalty
        FROM tuned_lens_lens_transfer ORDER BY layer
        """,
    )


def real(model: str, texts: Path, examples: int) -> None:
    """A model of yours."""
    store = captured(model, texts.read_text().splitlines(), FOLDER / "real.residuum")
    heading(model)
    result = asked(store, save_as="sgd", basis_examples=examples)
    show_quality(store)
    if result["fidelity"].num_rows:
        show_causal(store)
    report(store, [result], FOLDER / "real.html")


def main() -> None:
    """The small models, or a real one."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--model", help="a folder or a name on the hub; trains small ones without")
    options.add_argument("--texts", type=Path, help="a file of one text a line")
    options.add_argument("--examples", type=int, default=16, help="held out, that are replayed")
    chosen = options.parse_args()
    if (chosen.model is None) != (chosen.texts is None):
        options.error("--model and --texts go together")
    FOLDER.mkdir(parents=True, exist_ok=True)
    if chosen.model is not None:
        real(chosen.model, chosen.texts, chosen.examples)
        return
    causal()
    curve()


if __name__ == "__main__":
    main()
