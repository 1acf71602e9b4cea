"""What blocks add against the gradient of the loss, beside a backward pass of the model itself."""

import sys

import numpy as np
import pytest
import tiny_models
from lenses.test_analysis import replayed_examples
from replay.backward import by_backward, by_lens

import residuum
from residuum.lenses.states import States

NAMES = {tiny_models.MODELS[name]()[0]: name for name in ("gpt2", "llama", "gemma2")}
ASKED = {"steps": 2, "save_as": "steps", "experiments": ["gradient"]}


def run(store, **more):
    return residuum.analyses.run("tuned_lens", store, **{**ASKED, **more})


@pytest.fixture(scope="module")
def rows(store):
    yield run(store)["gradient"].to_pylist()
    (store.path / "lenses" / "steps.safetensors").unlink()


def ids_of(store):
    """Of the judged examples."""
    tokens = store.tokens.to_table(columns=["row", "token_id"]).to_pylist()
    ids = {one["row"]: one["token_id"] for one in tokens}
    return [[ids[first + at] for at in range(n)] for first, n in replayed_examples(store)]


def cosine(a, b):
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def test_every_block_beside_a_backward_pass(store, rows):
    name, examples = NAMES[store.model["architecture"]], ids_of(store)
    held = [(first, first + n) for first, n in replayed_examples(store)]
    there = np.concatenate([np.arange(*span) for span in held])
    states = [States(store, analysis="test").read(state, there) for state in range(4)]
    gradients = by_backward(name, examples)[1]
    assert [(row["loss"], row["block"], row["layer"]) for row in rows] == [
        (loss, block, layer)
        for loss in ("model", "logit")
        for block in range(3)
        for layer in (block, block + 1)
    ]
    for row in rows:
        block, layer = row["block"], row["layer"]
        by = gradients[layer]
        if row["loss"] == "logit":
            by = by_lens(name, examples, states[layer])
        added, begin, tokens, wholes = states[block + 1] - states[block], 0, [], []
        for ids in examples:
            span = slice(begin, begin + len(ids) - 1)  # the last token has no next one
            begin += len(ids)
            tokens += [cosine(a, b) for a, b in zip(added[span], by[span], strict=True)]
            if len(ids) > 1:
                wholes.append(cosine(added[span], by[span]))
        assert row["cosine"] == pytest.approx(np.mean(tokens), abs=1e-4)
        assert row["negative_share"] == pytest.approx(np.mean(np.array(tokens) < 0))
        assert row["example_negative_share"] == pytest.approx(np.mean(np.array(wholes) < 0))
        assert (row["n_tokens"], row["n_examples"]) == (len(tokens), len(wholes))


def test_random_directions_are_neither_up_nor_down(store, rows):
    """Within four standard errors: squared, their cosine is 1 / d_model in the mean."""
    for row in rows:
        error = 1 / np.sqrt(row["n_tokens"] * store.model["d_model"])
        assert abs(row["cosine_random"]) < 4 * error
        assert abs(row["cosine_other"]) <= 1


def test_without_torch_it_is_left_out(store, rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    # The names of no part: all of them are tried, with few directions.
    found = run(store, lens="steps", experiments=None, directions=1, random_directions=0)
    skipped = {row["experiment"]: row["reason"] for row in found["skipped"].to_pylist()}
    assert "torch, which is not installed" in skipped["gradient"]
    assert "ablation" not in skipped
    assert not found["gradient"].num_rows
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        run(store, lens="steps", seed=1)
