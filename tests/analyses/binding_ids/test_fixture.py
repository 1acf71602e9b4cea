"""The readers made by hand: experiments find the mechanism that was put in."""

import numpy as np
import pytest

import binding_fixture
from residuum.analyses.binding_ids import means, scan
from residuum.analyses.binding_ids.deltas import estimate
from residuum.analyses.binding_ids.experiments import Study, run
from residuum.analyses.binding_ids.geometry import geometry, plane
from residuum.analyses.binding_ids.params import Params

NEAR = 0.03
"""The table was measured with other draws."""

EXPECTED = {
    "swap none": (1.0, 1.0),
    "swap both": (1.0, 1.0),
    "swap attribute": (1.0, 0.49),
    "swap entity": (1.0, 0.49),
    "columns exchanged": (1.0, 1.0),
}
MEAN = {"id": [1, 0, 0, 1], "direct": [1, 1, 1, 1]}


@pytest.fixture(scope="module", params=["id", "direct"])
def found(request):
    return request.param, binding_fixture.table(request.param)


def test_swaps(found):
    kind, table = found
    for name, expected in EXPECTED.items():
        assert table[name] == pytest.approx(
            [expected[kind == "direct"]] * len(table[name]), abs=NEAR
        )


def test_differences_are_as_long_as_two_ids(found):
    kind, table = found
    norms = table["norm of the difference, entity and attribute"]
    assert norms == pytest.approx([2**0.5 if kind == "id" else 0.027] * 2, abs=NEAR)


def test_mean_differences_exchange_ids_and_random_vectors_do_not(found):
    kind, table = found
    for query in (0, 1):
        rows = f"none, attribute, entity, both (query {query})"
        assert table[f"mean {rows}"] == pytest.approx(MEAN[kind], abs=NEAR)
        assert min(table[f"random {rows}"]) > 0.65


def test_ids_that_meet_cannot_be_told_apart():
    """The map needs two differences; here the second is a slot's that the prompts do not use."""
    subject, prompts = binding_fixture.made("id", 100)
    shift = estimate(subject, prompts)
    third = np.zeros_like(shift.by["entity"][:1])
    third[0, 0, 0] = subject.ids[2] - subject.ids[0]
    wide = {category: np.concatenate([by, third]) for category, by in shift.by.items()}
    more = type(shift)(shift.task, 3, shift.n_prompt, wide, shift.residual)
    first, second, (along, across) = plane(more)
    assert along == pytest.approx(0.5, abs=0.02)
    assert across == 1.0
    flat = [np.concatenate([v["entity"].ravel(), v["attribute"].ravel()]) for v in (first, second)]
    assert abs(flat[0] @ flat[1]) < 1e-10
    rows = geometry(subject, prompts, more, grid=5, promote=False)
    assert len(rows) == 8 * 25
    at = {(r["c0_x"], r["c0_y"], r["c1_x"], r["c1_y"]): r for r in rows}
    meet, apart = at[0.0, 0.0, 0.0, 0.0], at[0.0, 0.0, 1.0, 0.0]
    assert abs(meet["logit_margin"]) < 1.0
    assert 0.3 < meet["accuracy"] < 0.7
    assert apart["accuracy"] > 0.97
    assert apart["logit_margin"] > 20


def test_zeros_leave_no_binding_and_own_ids_restore_it():
    subject, prompts = binding_fixture.made("id")
    own = estimate(subject, prompts)
    given = {
        "own": own,
        "ZEROS": own.zeros(),
        "RANDOM": own.random(np.random.default_rng(0)),
    }
    rows = {
        name: means.transfer(subject, prompts, own, source, name, promote=False)
        for name, source in given.items()
    }
    assert rows["own"]["cal_accuracy"] > 0.97
    assert rows["ZEROS"]["cal_accuracy"] == pytest.approx(0.5, abs=0.06)
    assert rows["own"]["mean_logprob_of_intended"] > rows["ZEROS"]["mean_logprob_of_intended"] + 0.5


def test_the_scan_finds_the_attribute():
    for kind, entity_counts in (("id", True), ("direct", False)):
        subject, prompts = binding_fixture.made(kind)
        rows = {(r["query"], r["holds"]): r for r in scan.column_scan(subject, prompts)}
        assert len(rows) == 8
        new = rows[0, "attribute 0"]["takes_new"]
        # Direct: the new attribute holds another entity, so that nothing fits.
        assert new > 0.97 if kind == "id" else new < 0.65
        lost = rows[0, "entity 0"]["keeps_old"] < 0.65
        assert lost == entity_counts
        assert rows[0, "entity 1"]["keeps_old"] > 0.97


def test_what_cannot_be_run_is_said():
    subject, prompts = binding_fixture.made("id", 30)
    tables = run(Study(subject, [prompts], Params()))
    skipped = {row["experiment"]: row["reason"] for row in tables["skipped"]}
    assert set(skipped) == {"cyclic", "geometry", "mcq_width"}
    assert "3 or more" in skipped["cyclic"]
    for name in ("swaps", "position", "mean_intervention", "transfer", "column_scan", "deltas"):
        assert tables[name], name
    with pytest.raises(ValueError, match="cyclic cannot be run: IDs of two slots"):
        run(Study(subject, [prompts], Params(experiments=("cyclic",))))
    with pytest.raises(ValueError, match="there is no experiment 'swap'; there are: factor"):
        run(Study(subject, [prompts], Params(experiments=("swap",))))
    with pytest.raises(ValueError, match="promote_attr_keys moves keys"):
        run(Study(subject, [prompts], Params(promote_attr_keys=True)))
    test_only = prompts.take(prompts.split == "test")
    tables = run(Study(subject, [test_only], Params()))
    reasons = {row["experiment"]: row["reason"] for row in tables["skipped"]}
    assert "no train prompts" in reasons["mean_intervention"]


def test_columns_of_contexts_of_other_lengths_do_not_correspond():
    subject, prompts = binding_fixture.made("id", 10)
    prompts.ctx_end[prompts.context == "disjoint"] += 1
    with pytest.raises(ValueError, match="contexts of equal length"):
        scan.column_scan(subject, prompts)


def test_cyclic_answers_move_the_other_way_for_attributes():
    partner = np.arange(4)
    assert [means.moved(partner, "entity", 1, q) for q in range(4)] == [1, 2, 3, 0]
    assert [means.moved(partner, "attribute", 1, q) for q in range(4)] == [3, 0, 1, 2]
    assert [means.moved(partner, "none", 0, q) for q in range(4)] == [0, 1, 2, 3]
    assert means.moved(partner[::-1], "entity", 1, 0) == 2
    assert means.moved(partner[::-1], "attribute", 1, 0) == 2
