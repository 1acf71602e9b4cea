"""Prefix-matching scores of attention that is known."""

import numpy as np
import pyarrow as pa
import pytest
from analyses import tiny

from residuum.analyses.overthinking.matching import ranked, rows, scores

# The first text of the tiny store has 6 tokens: three demonstrations, labels at 1, 3 and 5. The
# query is token 4, before the last label. The last demonstration is of class 0.
QUERY = 4


def store_with(weights, path):
    """A store whose pattern at the query is `weights`, key by key, for every head."""
    made = tiny.tiny()
    pattern = np.zeros_like(made.sites["pattern"])
    pattern[QUERY, :, :, :] = np.asarray(weights, np.float32)
    return tiny.write(
        tiny.Tiny(**{**vars(made), "sites": {**made.sites, "pattern": pattern}}), path
    )


def demos(shown, n_class, label_tokens=((1,), (3,), (5,))):
    n = len(shown)
    return pa.table(
        {
            "example": [0] * n,
            "dataset": ["d"] * n,
            "setting": ["permuted"] * n,
            "prefix": ["false"] * n,
            "demo": list(range(n)),
            "n_demo": [n] * n,
            "n_class": [n_class] * n,
            "shown_label": shown,
            "row": [None] * (n - 1) + [QUERY],
            "pre_label_token": [tokens[0] - 1 for tokens in label_tokens],
            "label_tokens": [list(tokens) for tokens in label_tokens],
        }
    )


EVEN = [0.2, 0.2, 0.2, 0.2, 0.2, 0]


@pytest.mark.parametrize(
    ("weights", "shown", "n_class", "label", "before"),
    [
        (EVEN, [0, 1, 0], 2, 0.0, 0.0),
        ([0, 1, 0, 0, 0, 0], [0, 1, 0], 2, 1.0, 0.0),
        ([0, 0, 0, 1, 0, 0], [0, 1, 0], 2, -1.0, 0.0),
        ([0, 0, 0, 1, 0, 0], [0, 1, 0], 4, -1 / 3, 0.0),
        ([0, 0.5, 0, 0.5, 0, 0], [2, 1, 0], 4, -1 / 3, 0.0),
        ([1, 0, 0, 0, 0, 0], [0, 1, 0], 3, 0.0, 1.0),
        ([0.5, 0, 0.5, 0, 0, 0], [0, 1, 0], 3, 0.0, 0.25),
        # Attention elsewhere counts for nothing.
        ([0, 0, 0, 0, 1, 0], [0, 1, 0], 2, 0.0, 0.0),
    ],
)
def test_scores_of_known_attention(tmp_path, weights, shown, n_class, label, before):
    table = scores(store_with(weights, tmp_path / "run"), demos(shown, n_class)).to_pylist()
    assert len(table) == tiny.N_LAYER * tiny.N_HEAD
    for row in table:
        assert row["pm_label"] == pytest.approx(label, abs=1e-7)
        assert row["pm_prelabel"] == pytest.approx(before, abs=1e-7)
        assert (row["demo"], row["n"]) == (2, 1)


def test_all_tokens_of_a_label_count(tmp_path):
    store = store_with([0, 0.25, 0.5, 0.25, 0, 0], tmp_path / "run")
    (row, *_) = scores(store, demos([0, 0], 2, ((1, 2), (5,)))).to_pylist()
    assert row["pm_label"] == pytest.approx(0.75)
    assert row["on_labels"] == pytest.approx(0.75)


def test_heads_are_ranked_on_the_false_prefix():
    heads = [(0, 0, 0.1), (0, 1, 0.9), (1, 0, 0.9), (1, 1, -0.5)]
    table = pa.Table.from_pylist(
        [
            {
                "dataset": d,
                "setting": "s",
                "prefix": p,
                "layer": la,
                "head": h,
                "pm_label": sign * v,
            }
            for d, p, sign in (("a", "false", 1), ("a", "true", -1), ("b", "false", -1))
            for la, h, v in heads
        ]
    )
    assert ranked(table, "a", "s") == [(0, 1), (1, 0), (0, 0), (1, 1)]
    made = rows(table, "a", "s", "m")
    by = {(r["dataset"], r["prefix"], r["layer"], r["head"]): r for r in made}
    assert by["a", "false", 1, 0]["rank"] == 1
    assert by["a", "true", 1, 0]["rank"] is None
    assert by["b", "false", 1, 1]["rank"] == 0
    assert by["a", "false", 0, 0]["selected"]
    assert not by["b", "false", 0, 0]["selected"]
