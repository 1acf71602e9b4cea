"""Where commits are made: by the rows planned, not by how quick the disk is."""

import numpy as np
import pyarrow as pa
import pytest

from residuum.capture.commit_points import EXAMPLE_ROWS, CommitPoints
from residuum.capture.plan import Example, Group, Placed


class Queue:
    """A writer whose shards finish when the test says so."""

    def __init__(self, n_example=0, example_rows=0):
        self.n_example = n_example
        self.rows = {"token": 0, "example": example_rows}
        self.ends = []
        self.sealed = 0

    def sealed_rows(self, row_space):
        assert row_space == "token"
        return self.sealed

    def n_within(self, token_rows=None):
        fitting = [n for n, end in self.ends if token_rows is None or end <= token_rows]
        return max(fitting, default=-1) + 1


def group(first, lengths, row):
    """Consecutive distinct examples, `lengths` tokens long, from `row` on."""
    placed = []
    for number, n in enumerate(lengths, first):
        item = Example(number, pa.table({}), 0, None, n, np.arange(n, dtype=np.int32), b"")
        placed.append(Placed(number, item, row, number, repeat=False))
        row += n
    return Group(placed, [])


def feed(points, queue, groups):
    for one in groups:
        queue.ends += [(p.example, p.stop_row) for p in one.placed]
        points.look(one)


GROUPS = [group(0, [3, 3], 0), group(2, [3, 1], 6), group(4, [9, 2], 10), group(6, [1], 21)]


@pytest.mark.parametrize("late", [False, True])
def test_points_are_the_same_however_late_shards_are_finished(late):
    queue = Queue()
    points, made = CommitPoints(queue, 4, token_rows=True), []
    for one in GROUPS:
        feed(points, queue, [one])
        queue.sealed = 0 if late else one.placed[-1].stop_row // 4 * 4
        while (point := points.take()) is not None:
            made.append(point)
    queue.sealed = 100
    while (point := points.take()) is not None:
        made.append(point)
    # Rows 0 to 3 hold one example, to 7 two, to 19 five.
    assert [tuple(point) for point in made] == [(1, 4), (2, 8), (5, 20)]


def test_a_resumed_capture_has_the_points_that_are_left():
    queue = Queue(n_example=2)
    queue.sealed = 100
    points = CommitPoints(queue, 4, token_rows=True)
    queue.ends += [(n, 0) for n in range(2)]
    feed(points, queue, GROUPS)
    assert points.take() == (5, 20)
    assert points.take() is None


def test_without_token_rows_every_so_many_examples():
    many = [group(n, [0] * 400, 0) for n in range(0, 2 * EXAMPLE_ROWS, 400)]
    queue = Queue()
    points = CommitPoints(queue, 4, token_rows=False)
    made = []
    for one in many:
        feed(points, queue, [one])
        made += [point.n_example for point in iter(points.take, None)]
    assert made == [1200, 2400]
    resumed = Queue(n_example=1200, example_rows=1200)
    points = CommitPoints(resumed, 4, token_rows=False)
    feed(points, resumed, many)
    assert [point.n_example for point in iter(points.take, None)] == [2400]
