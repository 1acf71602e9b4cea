"""The study on captured models of random weights, against full passes of the unmodified ones."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from analyses.overthinking import prompts
from replay.oracle import Captured

import residuum
from residuum.analyses.overthinking import metrics, run
from residuum.analyses.overthinking import study as study_module
from residuum.analyses.overthinking.ablations import _streams
from residuum.analyses.overthinking.cases import Case, Editor
from residuum.analyses.overthinking.lens import Lens
from residuum.analyses.overthinking.params import Params
from residuum.analyses.overthinking.study import Study
from residuum.errors import (
    ArgumentError,
    InputError,
    ModelError,
    SelectionError,
    SiteError,
    StoreError,
)
from residuum.replay.edit import Edit
from residuum.sites import Site

CLOSE = {"rtol": 2e-5, "atol": 2e-5}
ROWS = prompts.prompts()


@pytest.fixture(scope="module", params=["gpt2", "gptj", "gpt_neox", "llama"])
def opened(request, tmp_path_factory):
    """A store of a model, and passes of it over the same prompts."""
    folder = tmp_path_factory.mktemp(request.param)
    oracle = Captured(request.param, torch.float32, [prompts.ids(row) for row in ROWS])
    return prompts.captured(request.param, folder), oracle


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return prompts.captured("gpt2", tmp_path_factory.mktemp("one"))


def passed(oracle, example, edits=()):
    """Logits of the unmodified model with edits, `[token, token_id]`."""
    found = oracle.with_edits(example, list(edits), [(Site.LOGITS, None)])
    return found[Site.LOGITS, None]


def before_labels(row):
    """Positions of the tokens before labels: `item sep label` five times."""
    return [3 * demo + 1 for demo in range(len(row["true_label"]))]


def test_demos_are_where_the_prompts_say(opened):
    store, _ = opened
    table = run(store, experiments="accuracy")["demos"].to_pylist()
    assert len(table) == len(ROWS) * prompts.N_DEMO
    for example, row in enumerate(ROWS):
        mine = [one for one in table if one["example"] == example]
        assert [one["demo"] for one in mine] == list(range(prompts.N_DEMO))
        assert [one["pre_label_token"] for one in mine] == before_labels(row)
        assert [one["label_tokens"] for one in mine] == [[at + 1] for at in before_labels(row)]
        given = prompts.ids(row)
        assert [one["first_token_id"] for one in mine] == [
            given[at + 1] for at in before_labels(row)
        ]
        assert [one["shown_label"] for one in mine] == row["shown_label"]


def test_the_last_state_is_the_models_own_output(opened):
    """Each label's probability is the softmax of the model's logits, with one final norm."""
    store, oracle = opened
    study = Study(store, Params())
    differs = 0.0
    for task in study.tasks:
        once, twice = (
            Lens(store, double=double).at(task, study.lens.n_state - 1, [0, task.last])
            for double in (False, True)
        )
        mine = [i for i, row in enumerate(ROWS) if row["dataset"] == task.dataset]
        mine = [i for i in mine if ROWS[i]["setting"] == task.setting]
        for number, example in enumerate(mine):
            log_p = torch.from_numpy(passed(oracle, example)).double().log_softmax(-1).numpy()
            at = [before_labels(ROWS[example])[demo] for demo in (0, task.last)]
            expected = log_p[at][:, task.token_id]
            got = np.log(once.p[number // 2, number % 2])
            np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(
                once.top[number // 2, number % 2, :, 0], log_p[at].argmax(1)
            )
            differs = max(
                differs, np.abs(np.log(twice.p[number // 2, number % 2]) - expected).max()
            )
    assert differs > 1e-4


def test_prefix_matching_is_the_sum_over_full_attention_matrices(opened):
    store, oracle = opened
    table = run(store, experiments="prefix_matching")["prefix_matching"].to_pylist()
    assert len(table) == 2 * 2 * 2 * oracle.of.n_layer * oracle.of.n_head
    for one in table:
        scores = []
        for example, row in enumerate(ROWS):
            if all(row[name] == one[name] for name in ("dataset", "setting", "prefix")):
                attention = oracle.at(Site.PATTERN, one["layer"], example)[:, one["head"]]
                scores.append(plain_score(row, attention))
        pm_label, pm_prelabel, on_labels = np.mean(scores, axis=0)
        assert one["pm_label"] == pytest.approx(pm_label, abs=1e-6)
        assert one["pm_prelabel"] == pytest.approx(pm_prelabel, abs=1e-6)
        assert one["on_labels"] == pytest.approx(on_labels, abs=1e-6)
        assert one["n"] == prompts.N_PAIR
        assert one["demo"] == prompts.N_DEMO - 1


def plain_score(row, attention):
    """The score of one head on one prompt; attention `[query, key]`."""
    at, shown = before_labels(row), row["shown_label"]
    n_class = len(row["labels"])
    label = prelabel = everything = 0.0
    for position, other in zip(at[:-1], shown[:-1], strict=True):
        weight = 1.0 if other == shown[-1] else -1.0 / (n_class - 1)
        label += weight * float(attention[at[-1], position + 1])
        prelabel += weight * float(attention[at[-1], position])
        everything += float(attention[at[-1], position + 1])
    return label, prelabel, everything


def test_the_query_in_the_docs_gives_the_same(gpt2):
    """Asked by a user of the kept result, of the shape that docs/analyses.md shows."""
    kept = run(gpt2, experiments="prefix_matching")["prefix_matching"]
    from residuum.analyses.overthinking.matching import SQL

    asked = gpt2.sql(SQL.format(demos="overthinking_demos")).to_arrow_table()
    shared = ["dataset", "setting", "prefix", "layer", "head", "pm_label"]
    assert asked.select(shared).to_pylist() == kept.select(shared).to_pylist()


def test_the_pattern_may_be_in_another_store(gpt2, tmp_path):
    """Stream at the tokens before labels, pattern at the last: what large models leave room for."""
    rows = [{**row, "before": before_labels(row), "query": before_labels(row)[-1:]} for row in ROWS]
    model, table = gpt2.capture["model_folder"], pa.Table.from_pylist(rows)
    pattern = residuum.capture(
        model, table, tmp_path / "p", sites=["pattern"], positions="column:query"
    )
    stream = residuum.capture(
        model, table, tmp_path / "s", sites=["embed", "resid_post"], positions="column:before"
    )
    parts = ["accuracy", "critical_layers", "early_exit", "prefix_matching"]
    small = run(stream, pattern=str(pattern.path), experiments=parts)
    whole = run(gpt2, experiments=parts)
    for name in parts:
        mine, theirs = (one[name].drop_columns("model") for one in (small, whole))
        for a, b in zip(mine.to_pylist(), theirs.to_pylist(), strict=True):
            assert a == pytest.approx(b, abs=1e-6)
    with pytest.raises(SelectionError, match="positions='all'"):
        run(stream, experiments="ablations", pattern=str(pattern.path))
    skipped = run(stream, pattern=str(pattern.path), n_heads=[1])["skipped"]["experiment"]
    assert set(skipped.to_pylist()) == {"ablations", "label_copying"}
    other = residuum.capture(model, table.slice(0, 40), tmp_path / "o", sites=["pattern"])
    with pytest.raises(ArgumentError, match="not of the model and prompts"):
        run(stream, experiments="prefix_matching", pattern=str(other.path))
    plain = residuum.capture(model, table.select(["text"]), tmp_path / "plain", sites=["pattern"])
    with pytest.raises(StoreError, match="nowhere"):
        run(stream, pattern=str(tmp_path / "nowhere"))
    with pytest.raises(ArgumentError, match=r"plain has no column prompt_id, .*: make prompts"):
        run(stream, experiments="prefix_matching", pattern=str(plain.path))


def test_a_model_of_few_heads_has_the_other_ablations(gpt2, monkeypatch):
    monkeypatch.setattr(study_module.matching, "ranked", lambda *_: [(0, 1), (1, 2), (1, 3)])
    study = Study(gpt2, Params())
    assert study._heads() == []
    assert [row["reason"] for row in study.skipped] == ["n_heads=5, but the model has 3 heads"]


CASES = [
    Case("pm_heads", heads=((1, 3),)),
    Case("pm_heads", heads=((1, 3), (1, 0), (2, 4), (0, 1))),
    Case("late_attention", blocks=(1, 2)),
    Case("late_mlp", blocks=(1, 2)),
]


def replayed(store, case, kind, *, mlp_bias=False):
    """The task `one`, permuted: final streams by replay, and the rows they are of."""
    study = Study(store, Params())
    task = study.tasks[0]
    rows, tokens = (values[:, :, task.last].ravel() for values in (task.row, task.token))
    editor = Editor(study.replay, study.weights, rows, tokens, kind, mlp_bias=mlp_bias)
    return study, task, editor, next(_streams(editor, [case]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {case.parts}")
@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
def test_replay_equals_a_full_pass_with_hooks(opened, case, kind):
    store, oracle = opened
    _, task, editor, streams = replayed(store, case, kind)
    site = Site.MLP_OUT if case.name == "late_mlp" else Site.Z
    firsts = store.examples.to_table(columns=["first_row"])["first_row"].to_numpy()
    for run_, (row, token) in enumerate(zip(editor.rows, editor.tokens, strict=True)):
        if run_ % 5:
            continue
        example = next(i for i, first in enumerate(firsts) if first == row - token)
        edits = []
        for layer in sorted({layer for layer, _ in case.heads} | set(case.blocks)):
            heads = (
                np.array(sorted(h for la, h in case.heads if la == layer)) if case.heads else None
            )
            edits.append(
                Edit(
                    site,
                    layer,
                    np.array([token]),
                    heads,
                    shift=value(editor, site, layer, heads, run_),
                )
            )
        expected = oracle.with_edits(example, edits, [(Site.RESID_POST, oracle.of.n_layer - 1)])
        expected = expected[Site.RESID_POST, oracle.of.n_layer - 1][token]
        np.testing.assert_allclose(streams[run_], expected, **CLOSE)
    assert task.dataset == "one"


def value(editor, site, layer, heads, run_):
    """What an ablation puts in place, from what the store holds of all of the task's prompts."""
    if editor.kind == "zero":
        return None
    stored = editor.replay.store[site].read(rows=editor.rows, layers=layer, heads=heads)
    if editor.kind == "mean":
        return stored.mean(0, keepdims=True)
    other = editor._drawn[run_]
    assert other != run_
    return stored[other][None]


def test_no_edit_changes_nothing(opened):
    store, _ = opened
    study, task, _, streams = replayed(store, Case("nothing"), "zero")
    last = study.lens.n_state - 1
    plain = study.lens.states.read(last, task.row[:, :, task.last].ravel())
    np.testing.assert_array_equal(streams, plain)


def test_all_heads_of_a_block_are_its_attention_without_the_bias(opened):
    store, oracle = opened
    every = Case("pm_heads", heads=tuple((1, head) for head in range(oracle.of.n_head)))
    heads, block = (
        replayed(store, case, "zero")[3] for case in (every, Case("late_attention", blocks=(1,)))
    )
    np.testing.assert_allclose(heads, block, **CLOSE)
    _, task, _, _ = replayed(store, every, "zero")
    bias = oracle.weights.block(1).out.b
    bias = np.zeros(oracle.of.d_model, np.float32) if bias is None else bias
    example = next(
        i for i, row in enumerate(ROWS) if (row["dataset"], row["prefix"]) == ("one", "true")
    )
    token = int(task.token[0, 0, task.last])
    edit = Edit(Site.ATTN_OUT, 1, np.array([token]), shift=bias[None])
    last = (Site.RESID_POST, oracle.of.n_layer - 1)
    expected = oracle.with_edits(example, [edit], [last])[last][token]
    np.testing.assert_allclose(heads[0], expected, **CLOSE)


def test_an_mlp_without_its_hidden_layer_leaves_its_bias(opened):
    store, oracle = opened
    case = Case("late_mlp", blocks=(2,))
    *_, plain = replayed(store, case, "zero")
    *_, biased = replayed(store, case, "zero", mlp_bias=True)
    bias = oracle.weights.block(2).mlp_out.b
    assert bias is not None
    # Block 2 is the last.
    np.testing.assert_allclose(
        biased - plain, np.broadcast_to(bias, plain.shape), rtol=0, atol=2e-5
    )


REFERENCE = {
    # module of the projections, and the slices of its output that are a head's q, k and v
    "gptj": (
        ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
        lambda head, d: [slice(head * d, head * d + d)],
    ),
    "gpt_neox": (
        ("attention.query_key_value",),
        lambda head, d: [slice(3 * head * d, 3 * head * d + 3 * d)],
    ),
}


@pytest.mark.parametrize("name", list(REFERENCE))
def test_uniform_qkv_is_what_the_papers_hooks_do(tmp_path, name):
    """Its hooks zero the projections of a head at the last position: attention becomes even."""
    store = prompts.captured(name, tmp_path)
    oracle = Captured(name, torch.float32, [prompts.ids(row) for row in ROWS])
    case = Case("pm_heads", heads=((1, 3), (2, 0)))
    _, task, editor, streams = replayed(store, case, "uniform_qkv")
    *_, zeroed = replayed(store, case, "zero")
    assert np.abs(streams - zeroed).max() > 1e-3
    blocks = oracle.adapter.block_list(oracle.model)
    modules, slices = REFERENCE[name]
    firsts = store.examples.to_table(columns=["first_row"])["first_row"].to_numpy()
    for run_ in (0, 1, 7):
        token = int(editor.tokens[run_])
        example = next(i for i, f in enumerate(firsts) if f == editor.rows[run_] - token)
        hooks = []
        for layer, head in case.heads:

            def zero(_module, _args, out, head=head, token=token):
                out = out.clone()
                for part in slices(head, oracle.of.d_head):
                    out[:, token, part] = 0
                return out

            hooks += [blocks[layer].get_submodule(m).register_forward_hook(zero) for m in modules]
        logits = passed(oracle, example)[token]
        for hook in hooks:
            hook.remove()
        mine = study_logits(store, streams[run_])
        np.testing.assert_allclose(mine, logits, rtol=1e-4, atol=5e-5)
    assert task.last == prompts.N_DEMO - 1


def study_logits(store, stream):
    """Logits of one row of the last stream."""
    from residuum.replay.readout import readout

    return readout(store, analysis="replay").logits(stream[None])[0]


def test_shared_keys_cannot_be_zeroed_by_head(tmp_path):
    store = prompts.captured("llama", tmp_path)
    with pytest.raises(ArgumentError, match="6 heads of this model share 2"):
        run(store, kind="uniform_qkv", n_heads=[1])


def test_the_table_of_ablations_adds_up(opened):
    """Accuracies are those of a full pass with hooks; gap reduction is its definition."""
    store, oracle = opened
    result = run(store, n_heads=[2], seeds=[0], exit_state=1, select_on="two")
    table = result["ablations"].to_pylist()
    names = ("none", "late_attention", "late_mlp", "late_layers", "pm_heads")
    assert {row["ablation"] for row in table} == {*names, "random_matched", "random_any"}
    order = result["prefix_matching"].to_pylist()
    best = sorted(
        (
            r
            for r in order
            if (r["dataset"], r["setting"], r["prefix"]) == ("two", "permuted", "false")
        ),
        key=lambda r: r["rank"],
    )[:2]
    chosen = [(r["layer"], r["head"]) for r in best]
    parts = {row["parts"] for row in table if row["ablation"] == "pm_heads"}
    assert parts == {" ".join(f"L{la}H{h}" for la, h in chosen)}
    study = Study(store, Params())
    task = study.tasks[0]
    for prefix, name in enumerate(("true", "false")):
        p = []
        for example, row in enumerate(ROWS):
            if (row["dataset"], row["setting"], row["prefix"]) != ("one", "permuted", name):
                continue
            token = before_labels(row)[-1]
            edits = [Edit(Site.Z, la, np.array([token]), np.array([h])) for la, h in chosen]
            logits = torch.from_numpy(passed(oracle, example, edits)[token]).double()
            p.append(logits.softmax(-1).numpy()[task.token_id])
        expected = metrics.calibrated(np.array(p), task.true[:, -1]).mean()
        mine = [
            r
            for r in table
            if (r["dataset"], r["setting"], r["prefix"]) == ("one", "permuted", name)
        ]
        by_name = {r["ablation"]: r for r in mine}
        assert by_name["pm_heads"]["cal_acc"] == pytest.approx(expected)
        assert by_name["none"]["delta_true"] == 0
        assert prefix in (0, 1)
    for dataset in ("one", "two"):
        check_gap(table, dataset)


def check_gap(table, dataset):
    mine = {
        (r["ablation"], r["prefix"]): r
        for r in table
        if (r["dataset"], r["setting"]) == (dataset, "permuted")
    }
    tp, fp = (mine["none", prefix]["cal_acc"] for prefix in ("true", "false"))
    for (name, _), row in mine.items():
        assert row["delta_true"] == pytest.approx(mine[name, "true"]["cal_acc"] - tp)
        if row["gap_reduction"] is not None:
            closed = 1 - (tp - mine[name, "false"]["cal_acc"]) / (tp - fp)
            assert row["gap_reduction"] == pytest.approx(closed)


def test_exit_at_the_last_state_is_no_ablation(gpt2):
    table = run(gpt2, n_heads=[1], seeds=[0], exit_state=3)
    by_name = {}
    for row in table["ablations"].to_pylist():
        key = (row["dataset"], row["setting"], row["prefix"])
        by_name.setdefault(row["ablation"], {})[key] = row["cal_acc"]
    assert by_name["late_layers"] == by_name["none"]
    assert "late_attention" not in by_name
    assert any("no late block" in row["reason"] for row in table["skipped"].to_pylist())


def test_label_copying_is_the_change_of_the_frozen_logit(gpt2):
    """Heads at a label through W_V, W_O, the final norm and W_U, head by head in plain words."""
    study = Study(gpt2, Params())
    from residuum.analyses.overthinking import copying

    task = study.tasks[0]
    labels = copying.looked_at(task, study.demos, study.lens)
    found = copying.copying(task, labels, study.lens, study.replay, study.weights)
    w, n = gpt2.weights, labels.num_rows
    assert n == prompts.N_PAIR * (prompts.N_DEMO - 1)
    expected = np.zeros((3, 5))
    for row, shown, query in zip(
        *(labels[c].to_pylist() for c in labels.column_names), strict=True
    ):
        final = study.lens.states.read(3, np.array([query]))[0].astype(float)
        divisor = np.sqrt(final.var() + 1e-5)
        for layer in range(3):
            block = study.weights.block(layer)
            x = study.lens.states.read(layer, np.array([row]))[0].astype(float)
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * block.norms[0].w + block.norms[0].b
            v = (x @ block.v.w + block.v.b).reshape(5, 7)
            for head in range(5):
                added = v[head] @ w["W_O"][layer, head]
                logits = ((added - added.mean()) / divisor * w["ln_final.w"]) @ w["W_U"]
                mine = logits[task.token_id]
                expected[layer, head] += (mine[shown] - mine.mean()) / n
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_what_is_missing_is_said(tmp_path):
    store = prompts.captured("gpt2", tmp_path, sites=("embed", "resid_post"))
    result = run(store, n_heads=[1])
    skipped = {row["experiment"]: row["reason"] for row in result["skipped"].to_pylist()}
    assert set(skipped) == {"prefix_matching", "ablations"}
    assert "--site pattern" in skipped["prefix_matching"]
    # What needs no heads is there.
    assert {"none", "late_layers"} <= set(result["ablations"]["ablation"].to_pylist())
    with pytest.raises(SiteError, match="--site pattern"):
        run(store, experiments="prefix_matching")
    (tmp_path / "model").rename(tmp_path / "moved")
    moved = run(store, n_heads=[2])
    assert moved["ablations"].num_rows == 0
    skipped = {row["experiment"] for row in moved["skipped"].to_pylist()}
    assert skipped == {"prefix_matching", "ablations", "label_copying"}
    with pytest.raises(ModelError, match="pass its folder"):
        run(store, experiments="ablations", n_heads=[1])
    again = run(store, experiments="ablations", model=str(tmp_path / "moved"), n_heads=[3])
    assert again["ablations"].num_rows


def test_last_tokens_alone_say_what_to_capture(gpt2, tmp_path):
    """The last token of these prompts is a label: none before a last label is stored."""
    rows = pa.Table.from_pylist(prompts.prompts())
    folder = gpt2.capture["model_folder"]
    sites = ["embed", "resid_post", "pattern"]
    store = residuum.capture(folder, rows, tmp_path / "run", sites=sites, positions="last")
    with pytest.raises(SiteError, match="--positions all, or column:query_token"):
        run(store, experiments="prefix_matching")
    with pytest.raises(ArgumentError, match="the blocks of the model are 0 to 2"):
        run(gpt2, late="99")


def test_a_store_without_demonstrations_is_refused(gpt2_folder, tmp_path):
    store = residuum.capture(gpt2_folder, ["the dog"], tmp_path / "run", sites=["resid_post"])
    with pytest.raises(InputError, match="have no prompt_id"):
        run(store)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"kind": "remove"}, "kind='remove' is none of zero"),
        ({"experiments": "acuracy"}, "experiments='acuracy' is none"),
        ({"late": "soon"}, "late='soon'"),
        ({"datasets": "three"}, "no dataset 'three'; it has one, two"),
        ({"select_on": "three"}, "select_on='three' is none of the data sets one, two"),
        ({"exit_state": 4}, "the states of the model are 0 to 3"),
        ({"n_heads": 99}, "n_heads=99, but the model has 15"),
        ({"memory": "1B", "experiments": "ablations"}, "a memory budget of 1 bytes is too little"),
    ],
)
def test_wrong_parameters_are_refused(gpt2, asked, message):
    with pytest.raises(ArgumentError, match=message):
        run(gpt2, **asked)


def test_unpaired_or_colliding_prompts_are_refused(gpt2_folder, tmp_path):
    row = prompts.prompts(settings=["permuted"], n_pair=3)[0]
    text = "dog red cat red dog blue cat blue dog red"
    spans = [(i * 8 + 4, i * 8 + 7) for i in range(2)]
    base = {
        **row,
        "text": text,
        "labels": ["red", "red"],
        "true_label": [0, 1],
        "shown_label": [0, 1],
        "label_start": [a for a, _ in spans],
        "label_end": [b for _, b in spans],
    }
    made = [{**base, "prompt_id": i, "prefix": p} for i in range(2) for p in ("true", "false")]
    store = residuum.capture(
        gpt2_folder, pa.Table.from_pylist(made), tmp_path / "a", sites=["embed", "resid_post"]
    )
    with pytest.raises(ArgumentError, match="begin with the same token"):
        run(store)
    store = residuum.capture(
        gpt2_folder, pa.Table.from_pylist(made[:3]), tmp_path / "b", sites=["embed", "resid_post"]
    )
    with pytest.raises(ArgumentError, match="no pairs of a true and a false prefix"):
        run(store)


def test_averages_and_bands(gpt2):
    table = run(gpt2, all_demos=True, experiments="accuracy")["accuracy"]
    last = table.filter(pc.equal(table["metric"], "calibrated"))
    rows = {
        (r["dataset"], r["setting"], r["prefix"], r["state_index"], r["demo"]): r
        for r in last.to_pylist()
    }
    assert len(rows) == 3 * 2 * 2 * 4 * prompts.N_DEMO
    one, two, both = (rows[name, "random", "false", 2, 3] for name in ("one", "two", "all"))
    assert both["mean"] == pytest.approx((one["mean"] + two["mean"]) / 2)
    assert both["chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert both["n"] == 2 * prompts.N_PAIR
    assert one["hi"] - one["mean"] == pytest.approx(one["mean"] - one["lo"])
    few = run(gpt2, experiments="accuracy")["accuracy"]
    demos = few.filter(pc.less(few["state_index"], 3))["demo"]
    assert set(demos.to_pylist()) == {0, prompts.N_DEMO - 1}
