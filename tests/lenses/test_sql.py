"""`tuned_lens(…)` in SQL against numpy, and against `logit_lens` where nothing was trained."""

import duckdb
import numpy as np
import pytest

from residuum.lenses import Recipe, TunedLens, save, train
from residuum.lenses.states import States
from residuum.replay.readout import readout

ORDER = "ORDER BY row, layer, rank"


@pytest.fixture
def kept(store):
    """A store with the lenses `tuned` and `fresh`; its folder is cleaned afterwards."""
    lens = train(store, Recipe(steps=30), progress=False).lens
    save(store, lens, "tuned")
    save(store, TunedLens.untrained(lens.n_state, lens.d_model), "fresh")
    yield store, lens
    for file in (store.path / "lenses").glob("*.safetensors"):
        file.unlink()


def test_rows_go_through_the_translators(kept):
    store, lens = kept
    of, states = readout(store, analysis="test"), States(store, analysis="test")
    final = of.norm.apply(states.read(lens.n_state - 1, slice(None)))
    targets = store.target.read().astype(np.int32)
    found = store.sql(f"FROM tuned_lens(k := 3) {ORDER}").to_arrow_table()
    assert found.num_rows == store.n_row * 3 * 3
    for layer in range(3):
        moved = lens.translated(layer + 1, states.read(layer + 1, slice(None)))
        want = of.statistics(of.norm.apply(moved), final, targets, 3)
        mine = found.filter(np.asarray(found["layer"]) == layer)
        close = {"rtol": 1e-4, "atol": 1e-5}
        first = np.asarray(mine["rank"]) == 0
        np.testing.assert_array_equal(mine["token_id"], want.top_ids.ravel())
        np.testing.assert_allclose(mine["logprob"], want.top_logprobs.ravel(), **close)
        np.testing.assert_allclose(mine.filter(first)["entropy"], want.entropy, **close)
        np.testing.assert_allclose(mine.filter(first)["kl_to_final"], want.kl_to_reference, **close)
        ranks = mine.filter(first)["target_rank"].to_pylist()
        has = targets >= 0
        assert [rank is not None for rank in ranks] == has.tolist()
        assert [rank for rank in ranks if rank is not None] == want.target_rank[has].tolist()


def test_a_fresh_lens_is_the_logit_lens_to_the_bit(kept):
    store, _ = kept
    fresh = store.sql(f"FROM tuned_lens(lens := 'fresh', k := 4) {ORDER}").to_arrow_table()
    logit = store.sql(f"FROM logit_lens(k := 4) {ORDER}").to_arrow_table()
    assert fresh.equals(logit)


def test_the_first_layer_that_ranks_the_answer_high_is_one_query(kept):
    store, _ = kept
    found = store.sql(
        """
        SELECT row, min(layer) FILTER (WHERE target_rank < 5) AS layer
        FROM tuned_lens(lens := 'tuned', k := 1) GROUP BY row ORDER BY row
        """
    ).to_arrow_table()
    assert found.num_rows == store.n_row
    assert set(found["layer"].to_pylist()) <= {None, 0, 1, 2}


def test_what_a_lens_lacks_is_named(kept):
    store, lens = kept
    sql = f"FROM residuum_tuned_lens('{store.path}', "
    with pytest.raises(duckdb.Error, match="has no lens `other`"):
        store.sql(f"{sql} lens := 'other')").fetchall()
    with pytest.raises(duckdb.Error, match=r"has no lens `\.\./other`"):
        store.sql(f"{sql} lens := '../other')").fetchall()
    save(store, TunedLens({2: lens.translators[2]}, lens.n_state), "some")
    assert store.sql("FROM tuned_lens(lens := 'some', layers := [1, 2])").fetchall()
    with pytest.raises(duckdb.Error, match=r"no translator that is .* wide for layer 0"):
        store.sql("FROM tuned_lens(lens := 'some')").fetchall()
