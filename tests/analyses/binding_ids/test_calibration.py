"""Calibration by medians: what it ignores, and that SQL over the kept scores finds the same."""

import numpy as np
import pytest
from analyses.binding_ids.tiny_prompts import capture, prompt_rows

import binding_fixture
from residuum.analyses.binding_ids import run
from residuum.analyses.binding_ids.calibration import chosen, medians, share

SQL = """
WITH null_query AS (
    SELECT delta, draw, swap_entity, swap_attr, answer, median(logprob) AS mid
    FROM binding_ids_mean_scores WHERE query_slot = n_entities GROUP BY ALL
), calibrated AS (
    SELECT s.*, logprob - mid AS score FROM binding_ids_mean_scores s
    JOIN null_query USING (delta, draw, swap_entity, swap_attr, answer)
    WHERE query_slot < n_entities
), best AS (
    SELECT delta, draw, swap_entity, swap_attr, query_slot, prompt_id,
           arg_max(answer, score) AS said
    FROM calibrated GROUP BY ALL
)
SELECT delta, draw, swap_entity, swap_attr, query_slot AS query,
       avg((said = query_slot)::INT) AS accuracy
FROM best GROUP BY ALL ORDER BY ALL
"""


def test_what_every_answer_gets_on_top_does_not_count():
    rng = np.random.default_rng(0)
    logprob = rng.standard_normal((200, 3))
    offset = np.array([5.0, -2.0, 0.3])
    plain = chosen(logprob, medians(logprob))
    moved = logprob + offset
    np.testing.assert_array_equal(chosen(moved, medians(moved)), plain)
    assert (chosen(moved) != chosen(logprob)).any()


def test_of_nothing_there_is_no_share():
    assert np.isnan(share(np.zeros(0, bool)))
    assert share(np.array([True, False, False, False])) == 0.25


@pytest.mark.parametrize("family", ["gpt_neox"])
def test_sql_over_the_scores_finds_the_same(family, tmp_path):
    store, _ = capture(family, tmp_path, prompt_rows(20, 25))
    found = run(store, experiments=["mean_intervention"], random_seeds=2)
    table = found["mean_intervention"].to_pylist()
    assert len(table) == 3 * 4 * 2
    got = {
        (r["delta"], r["draw"], r["swap_entity"], r["swap_attr"], r["query"]): r["cal_accuracy"]
        for r in table
    }
    rows = store.sql(SQL).fetchall()
    assert {tuple(row[:5]): row[5] for row in rows} == got
    assert found["deltas"].num_rows
    assert not found["swaps"].num_rows


def test_a_preference_is_calibrated_away():
    """A reader that always likes attribute slot 0 is right in half of the cases, or in all."""
    subject, prompts = binding_fixture.made("id", 50)
    liked = np.where(np.arange(2) == 0, 60.0, 0.0)
    asked = prompts.of("test", "default")
    own = asked.take(asked.query < 2)
    logprob = subject.scores(own, own.answers[:, :2], [()]).logprob[0] + liked
    assert share(chosen(logprob) == own.query) == 0.5
    assert share(chosen(logprob, medians(logprob)) == own.query) > 0.97
