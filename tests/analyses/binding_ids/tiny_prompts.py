"""Prompts for the random models of `tiny_models.py`.

Of their tokenizer's words w0 to w28, w2 is a special one that it finds in w20 too: left out.
"""

import json

import numpy as np
import tiny_models

import residuum
from residuum.prompts.binding import Task, rows

SITES = ["resid_pre", "resid_final"]
N_ENTITIES = 2


def _write(draft, items):
    draft.add("w1")
    for slot, item in enumerate(items):
        draft.add(" ")
        draft.entity(slot, item.entity)
    draft.add(" w19")
    for slot, item in enumerate(items):
        draft.add(" ")
        draft.attribute(slot, item.attribute)
    draft.add(" w1")


TASK = Task(
    "tiny",
    [f"w{i}" for i in range(3, 11)],
    [f"w{i}" for i in range(11, 19)],
    _write,
    lambda draft, item, _all: draft.ask(f" w19 {item.entity}"),
    lambda item: f" {item.attribute}",
    entity_width=1,
    attr_width=1,
)


def tokenise(text):
    """As the tokenizer of `tiny_models` does."""
    found, at = [], 0
    for word in text.split():
        at = text.index(word, at)
        found.append((int(word[1:]), at, at + len(word)))
        at += len(word)
    return found


def prompt_rows(n_train=6, n_test=4, n_entities=N_ENTITIES):
    return list(rows(TASK, tokenise, n_entities=n_entities, n_train=n_train, n_test=n_test))


def capture(family, folder, made):
    """A store of a random model, and its token ids by example."""
    tiny_models.save(family, folder / "model")
    inputs = folder / "prompts.jsonl"
    inputs.write_text("".join(json.dumps(row) + "\n" for row in made))
    store = residuum.capture(
        folder / "model", inputs, folder / "run", sites=SITES, dtype="float32", device="cpu"
    )
    return store, [[token for token, _, _ in tokenise(row["text"])] for row in made]


def everything(prompts):
    """All context tokens of every prompt, `[prompt, token]`."""
    return np.tile(np.arange(int(prompts.ctx_end[0])), (len(prompts), 1))
