"""The plan: every distinct example runs once, rows are dense and in order, whatever the inputs."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from residuum.capture.plan import Example, Mark, Planner, batches_by_length, repeat_key, text_hash
from residuum.capture.tokenise import TokenisedText

ORIGIN = pa.table({"text": ["x"]})
lengths = st.lists(st.integers(1, 9), max_size=60)


def example(n_token: int, seed: int, positions=None) -> Example:
    ids = (np.arange(n_token, dtype=np.int32) + 100 * seed).astype(np.int32)
    kept = (
        np.arange(n_token, dtype=np.int32) if positions is None else np.array(positions, np.int32)
    )
    text = TokenisedText(ids, None, 0, np.arange(n_token, dtype=np.int32), n_token)
    return Example(seed, ORIGIN, 0, text, n_token, kept, text_hash(ids))


# few seeds, so that repeats are common
examples = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 4)), max_size=60).map(
    lambda pairs: [example(n, seed) for n, seed in pairs]
)


@given(examples, st.integers(1, 20))
def test_every_distinct_example_is_in_exactly_one_batch(items, batch_tokens):
    groups = list(Planner(batch_tokens).groups(items))
    placed = [p for g in groups for p in g.placed]
    assert [p.example for p in placed] == list(range(len(items)))
    assert [p.item for p in placed] == items
    run = sorted(p.example for g in groups for b in g.batches for p in b)
    assert run == [p.example for p in placed if not p.repeat]
    assert len({p.item.content_hash for p in placed if not p.repeat}) == len(run)
    for group in groups:
        assert {p.example for b in group.batches for p in b} <= {p.example for p in group.placed}


@given(examples, st.integers(1, 20))
def test_padded_batches_stay_within_their_tokens(items, batch_tokens):
    for group in Planner(batch_tokens).groups(items):
        for batch in group.batches:
            assert (
                len(batch) == 1 or len(batch) * max(p.item.n_token for p in batch) <= batch_tokens
            )


@given(examples, st.integers(1, 20))
def test_rows_are_dense_in_order_and_shared_by_repeats(items, batch_tokens):
    placed = [p for g in Planner(batch_tokens).groups(items) for p in g.placed]
    row = example_row = 0
    seen = {}
    for p in placed:
        if p.repeat:
            assert (p.first_row, p.example_row) == seen[p.item.content_hash]
            continue
        assert (p.first_row, p.example_row) == (row, example_row)
        seen[p.item.content_hash] = (row, example_row)
        row, example_row = p.stop_row, example_row + 1


@given(examples, st.integers(1, 20))
def test_the_plan_is_the_same_every_time(items, batch_tokens):
    def shape():
        groups = Planner(batch_tokens).groups(items)
        return [
            ([p.example for p in g.placed], [[p.example for p in b] for b in g.batches])
            for g in groups
        ]

    assert shape() == shape()


def test_appended_examples_follow_those_known():
    first, second = example(3, 1), example(4, 2)
    known = {repeat_key(first.content_hash, None): (20, 5)}
    planner = Planner(100, known=known, behind=Mark(9, 50, 7))
    [group] = planner.groups([first, second])
    assert [(p.example, p.first_row, p.example_row, p.repeat) for p in group.placed] == [
        (9, 20, 5, True),
        (10, 50, 7, False),
    ]


def test_other_marks_on_the_same_text_are_captured_again():
    items = [example(4, 1, [0]), example(4, 1, [0, 2]), example(4, 1, [0])]
    placed = [p for g in Planner(100, marked=True).groups(items) for p in g.placed]
    assert [(p.first_row, p.repeat) for p in placed] == [(0, False), (1, False), (0, True)]


def test_long_runs_of_repeats_still_make_groups_of_bounded_size(monkeypatch):
    monkeypatch.setattr("residuum.capture.plan.GROUP_EXAMPLES", 10)
    sizes = [len(g.placed) for g in Planner(100).groups([example(2, 1)] * 25)]
    assert sizes == [10, 10, 5]


@given(lengths, st.integers(1, 20))
def test_batches_run_the_longest_first(sizes, batch_tokens):
    [*groups] = Planner(10**6).groups([example(n, i) for i, n in enumerate(sizes)])
    placed = [p for g in groups for p in g.placed]
    longest = [max(p.item.n_token for p in b) for b in batches_by_length(placed, batch_tokens)]
    assert longest == sorted(longest, reverse=True)
