"""Roles against their words, for causal and for full attention."""

import numpy as np
import pytest
from analyses import naive, tiny

from residuum.analyses import attention_roles
from residuum.analyses.vocabulary import separator_ids


@pytest.fixture(params=[True, False], ids=["causal", "full"])
def causal(request):
    return request.param


@pytest.fixture
def made(causal):
    return tiny.tiny(causal=causal)


@pytest.mark.parametrize("budget", [1, 1 << 20])
@pytest.mark.parametrize("separators", [(), ("5", " w12")])
def test_scores(made, store, causal, separators, monkeypatch, budget):
    monkeypatch.setattr(attention_roles, "BUDGET", budget)
    table = attention_roles.run(store, separators=separators)["heads"]
    ids = {5, 12} if separators else {0}  # <eos> is what the vocabulary has by itself
    roles = [r for r in attention_roles.ROLES if r != "next_token" or not causal]
    assert list(dict.fromkeys(table["role"].to_pylist())) == roles
    for role in roles:
        rows = [row for row in table.to_pylist() if row["role"] == role]
        scores, even, n = naive.role_scores(made, role, ids, causal=causal)
        assert [(row["layer"], row["head"]) for row in rows] == [
            (layer, head) for layer in range(tiny.N_LAYER) for head in range(tiny.N_HEAD)
        ]
        # Attention is stored as float32 and summed over at most 6 keys.
        np.testing.assert_allclose([row["score"] for row in rows], scores.ravel(), rtol=1e-5)
        np.testing.assert_allclose([row["uniform"] for row in rows], even, rtol=1e-12)
        assert {row["n"] for row in rows} == {n}
        assert n > 0


def test_a_role_that_no_token_has_is_null(store):
    table = attention_roles.run(store, examples=1, separators=["11"])["heads"]
    rows = [row for row in table.to_pylist() if row["role"] == "separator"]
    assert {(row["score"], row["uniform"], row["n"]) for row in rows} == {(None, None, 0)}


def test_some_layers(store):
    table = attention_roles.run(store, layers="2")["heads"]
    assert set(table["layer"].to_pylist()) == {2}


def test_separators_are_those_that_the_model_names(made, tmp_path):
    config = {"eos_token_id": [5, 12], "bos_token_id": 7, "sep_token_id": None}
    named = tiny.Tiny(**{**vars(made), "model": {**made.model, "config": config}})
    store = tiny.write(named, tmp_path / "named.residuum")
    assert separator_ids(store).tolist() == [0, 5, 7, 12]
