"""Attribution against its definition: make every head's output, norm it, unembed it."""

import numpy as np
import pytest
from analyses import naive, tiny

from residuum.analyses import head_attribution
from residuum.errors import ArgumentError, StoreError

CLOSE = {"rtol": 2e-5, "atol": 2e-5}  # sums over at most 11 * 7 float32 products of size about 1


def contributions(made, direction_of):
    """Of each head at each row that is asked about, [row, layer, head]."""
    z, w_o = made.sites["z"], made.weights["W_O"]
    asked = []
    for row in range(tiny.N_ROW):
        direction = direction_of(row)
        if direction is not None:
            final = made.sites["resid_final"][row]
            asked.append(
                [
                    [
                        naive.component_logit(made, z[row, at, h] @ w_o[at, h], final, direction)
                        for h in range(tiny.N_HEAD)
                    ]
                    for at in range(tiny.N_LAYER)
                ]
            )
    return np.array(asked)


def next_token(row):
    target = naive.targets()[row]
    return None if target is None else np.eye(tiny.D_VOCAB)[target]


def table_of(table, name):
    return np.array(table[name].to_pylist()).reshape(tiny.N_LAYER, tiny.N_HEAD)


def test_heads(made, store):
    table = head_attribution.run(store)["heads"]
    want = contributions(made, next_token)
    assert table["n"].to_pylist() == [len(want)] * (tiny.N_LAYER * tiny.N_HEAD)
    np.testing.assert_allclose(table_of(table, "mean"), want.mean(0), **CLOSE)
    np.testing.assert_allclose(table_of(table, "std"), want.std(0), **CLOSE)


def test_difference_of_given_tokens(made, store):
    result = head_attribution.run(store, to=" w3,4", minus="<eos>", per_token=True)
    direction = np.zeros(tiny.D_VOCAB)
    direction[[3, 4]], direction[0] = 0.5, -1
    want = contributions(made, lambda _row: direction)
    assert want.shape[0] == tiny.N_ROW
    np.testing.assert_allclose(table_of(result["heads"], "mean"), want.mean(0), **CLOSE)
    tokens = np.array(result["tokens"]["contribution"].to_pylist()).reshape(want.shape)
    np.testing.assert_allclose(tokens, want, **CLOSE)
    logits = [naive.logits(made, x) @ direction for x in made.sites["resid_final"]]
    np.testing.assert_allclose(result["logits"]["logit"].to_pylist(), logits, **CLOSE)
    assert result["logits"]["target_id"].null_count == tiny.N_ROW


def test_the_parts_are_the_logit(made, store):
    result = head_attribution.run(store)
    pairs = [(row, t) for row, t in enumerate(naive.targets()) if t is not None]
    logits = [naive.logits(made, made.sites["resid_final"][row])[t] for row, t in pairs]
    table = result["logits"]
    assert table["row"].to_pylist() == [row for row, _ in pairs]
    assert table["target_id"].to_pylist() == [t for _, t in pairs]
    np.testing.assert_allclose(table["logit"].to_pylist(), logits, **CLOSE)
    np.testing.assert_allclose(table["sum_of_parts"].to_pylist(), logits, **CLOSE)
    assert np.abs(table["difference"].to_pylist()).max() < 1e-5
    parts = result["components"]
    assert sum(parts["mean"].to_pylist()) == pytest.approx(np.mean(logits), abs=1e-5)
    kinds = ["heads", "attention bias", "MLP"] * tiny.N_LAYER
    assert parts["kind"].to_pylist() == ["embedding", *kinds, "output bias"]


def test_without_all_components_no_difference_is_claimed(made, tmp_path):
    some = {name: made.sites[name] for name in ("z", "resid_final")}
    store = tiny.write(
        tiny.Tiny(**{**vars(made), "sites": some}), tmp_path / "r.residuum", layers={"z": [0, 2]}
    )
    result = head_attribution.run(store)
    assert result["logits"]["difference"].null_count == result["logits"].num_rows
    assert sorted(set(result["heads"]["layer"].to_pylist())) == [0, 2]
    want = contributions(made, next_token).mean(0)[[0, 2]].ravel()
    np.testing.assert_allclose(result["heads"]["mean"].to_pylist(), want, **CLOSE)


@pytest.mark.parametrize("budget", [1, 5000])
def test_blocks_do_not_matter(store, monkeypatch, budget):
    whole = head_attribution.ANALYSIS.compute(store, head_attribution.Params())
    monkeypatch.setattr(head_attribution, "BUDGET", budget)
    cut = head_attribution.ANALYSIS.compute(store, head_attribution.Params())
    for name in ("mean", "std"):
        a, b = (np.array(t["heads"][name]) for t in (cut, whole))
        np.testing.assert_allclose(a, b, **CLOSE)


def test_nothing_to_predict_makes_empty_tables(made, tmp_path):
    tokens = made.tokens.filter([row["token"] == 0 for row in made.tokens.to_pylist()])
    lonely = tiny.Tiny(**{**vars(made), "tokens": tokens})
    store = tiny.write(lonely, tmp_path / "r.residuum")
    result = head_attribution.run(store)
    assert [table.num_rows for table in result.tables.values()] == [0, 0, 0, 0]


def test_wrong_questions(made, store, tmp_path):
    with pytest.raises(ArgumentError, match="`minus` needs `to`"):
        head_attribution.run(store, minus="<eos>")
    with pytest.raises(ArgumentError, match=r"no token is 'w12'.*' w12'"):
        head_attribution.run(store, to=["w12"])
    for setting, said in (("post_norm", "post-norm"), ("branch_norm", "what their heads give")):
        normed = {**made.model, "readout": {**made.model["readout"], setting: True}}
        other = tiny.write(tiny.Tiny(**{**vars(made), "model": normed}), tmp_path / setting)
        with pytest.raises(StoreError, match=said):
            head_attribution.run(other)
