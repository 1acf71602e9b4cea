"""Every part of the analysis on a tiny CLIP of random weights, against vectors written out."""

import json
from itertools import pairwise

import numpy as np
import pyarrow.compute as pc
import pytest
from analyses.clip_decomposition.written import (
    CLASSES,
    CLOSE,
    D_EMBED,
    N_HEAD,
    N_IMAGE,
    N_LAYER,
    PLACES,
    REPAIR,
    SAID,
    TWINS,
    assert_same_rows,
    heads,
    run,
    spread,
    total,
)

from residuum.analyses.clip_decomposition import study
from residuum.analyses.clip_decomposition.params import EXPERIMENTS, Params
from residuum.errors import InputError


def test_the_parts_are_the_whole(made):
    np.testing.assert_allclose(total(made), made.store["pooled"][:][example_rows(made)], **CLOSE)


def example_rows(made):
    return made.store.examples.to_table(columns=["example_row"])["example_row"].to_numpy()


def test_it_says_how_far_the_sums_are_off(made):
    rows = {row["what"]: row for row in run(made, "exactness")["exactness"].to_pylist()}
    assert set(rows) == {"components", "vector"}
    for row in rows.values():
        assert 0 < row["relative"] < 1e-5, row
        assert row["max_abs"] < 1e-4, row
        assert row["n"] == N_IMAGE


def test_effects_are_those_of_the_full_vectors(made):
    rows = run(made, "effect", **made.given)["effect"].to_pylist()
    assert [row["component"] for row in rows] == list(made.parts)
    for row in rows:
        vectors = made.parts[row["component"]]
        share = spread(vectors) / spread(total(made))
        assert row["var_share"] == pytest.approx(share, rel=1e-4, abs=1e-7), row
        length = np.linalg.norm(vectors, axis=1).mean()
        assert row["mean_norm"] == pytest.approx(length, rel=1e-4), row
        along = vectors @ made.classes.T
        own = along[np.arange(N_IMAGE), made.label]
        margin = (own - (along.sum(axis=1) - own) / 2).mean()
        assert row["class_margin"] == pytest.approx(margin, rel=1e-3, abs=1e-5), row
        assert row["n"] == N_IMAGE


def test_ablations_are_those_of_vectors_put_together_anew(made):
    rows = run(made, "ablation", **made.given, group="place")["ablation"].to_pylist()
    lost = {name: vectors - vectors.mean(axis=0) for name, vectors in made.parts.items()}
    mlps = sum(lost[f"L{layer} MLP"] for layer in range(N_LAYER))
    own = made.own - made.own.mean(axis=0)
    upto = np.cumsum([attention(lost, layer) for layer in range(N_LAYER)], axis=0)
    wanted = {
        ("none", None): 0.0,
        ("MLPs", None): mlps,
        ("class token to itself", None): own,
        ("MLPs and class token to itself", None): mlps + own,
        **{("attention", layer): upto[layer] for layer in range(N_LAYER)},
        ("everything", None): sum(lost.values()),
    }
    assert [(row["what"], row["upto_layer"]) for row in rows] == list(wanted)
    for row, away in zip(rows[:-1], list(wanted.values())[:-1], strict=True):
        logits = (total(made) - away) @ made.classes.T
        gaps = np.diff(np.sort(logits, axis=1)[:, -2:], axis=1)
        assert gaps.min() > 1e-5, "rounding decides nothing"
        right = logits.argmax(axis=1) == made.label
        assert row["accuracy"] == pytest.approx(right.mean()), row
        worst = min(
            right[(made.label == label) & (made.place == place)].mean()
            for label in range(3)
            for place in PLACES
        )
        assert row["worst_group"] == pytest.approx(worst), row
    # Nothing but the mean is left: one class for all.
    mean = total(made).mean(axis=0) @ made.classes.T
    everything = (made.label == mean.argmax()).mean()
    assert rows[-1]["accuracy"] == pytest.approx(everything)


def attention(lost, layer):
    return sum(lost[f"L{layer}H{h}"] for h in range(N_HEAD)) + lost[f"L{layer} attention bias"]


def test_texts_are_those_of_the_published_form(made):
    table = run(made, "textspan", **made.given, n_text=5)["textspan"].to_pylist()
    assert len(table) == N_LAYER * N_HEAD * 5
    for layer in range(N_LAYER):
        for head in range(N_HEAD):
            mine = [row for row in table if (row["layer"], row["head"]) == (layer, head)]
            picks, shares = literal_textspan(heads(made)[:, layer, head], made.pool, 5)
            assert [row["text_id"] for row in mine] == picks
            assert [row["text"] for row in mine] == [SAID[number] for number in picks]
            assert [row["rank"] for row in mine] == list(range(5))
            np.testing.assert_allclose([row["var_explained"] for row in mine], shares, atol=1e-4)
            cumulated = [row["cum_explained"] for row in mine]
            np.testing.assert_allclose(cumulated, np.cumsum(shares), atol=2e-4)


def literal_textspan(outputs, pool, n):
    """Gandelsman et al. 2024, algorithm 1, as their code has it."""
    _, values, vectors = np.linalg.svd(outputs, full_matrices=False)
    span = vectors[values > 1e-5 * values[0]]
    texts, left = pool @ span.T @ span, outputs - outputs.mean(axis=0)
    whole, picks, shares = spread(left), [], []
    for _ in range(n):
        pick = int((left @ texts.T).std(axis=0).argmax())
        direction = texts[pick] / np.linalg.norm(texts[pick])
        before = spread(left)
        left = left - np.outer(left @ direction, direction)
        texts = texts - np.outer(texts @ direction, direction)
        picks.append(pick)
        shares.append((before - spread(left)) / whole)
    return picks, shares


def test_with_texts_that_span_a_head_nothing_is_lost(made):
    found = run(made, "ablation", "textspan_accuracy", **made.given, n_text=D_EMBED)
    baseline = found["ablation"].to_pylist()[0]["accuracy"]
    table = found["textspan_accuracy"].to_pylist()
    assert {(row["pool"], row["m"]) for row in table} == {
        (pool, m) for pool in ("texts", "random") for m in (0, 1, 2, 5, 10, D_EMBED)
    }
    full = [row["accuracy"] for row in table if row["m"] == D_EMBED]
    assert full == pytest.approx([baseline] * 2)
    silent = total(made) - (heads(made) - heads(made).mean(axis=0)).sum(axis=(1, 2))
    wanted = ((silent @ made.classes.T).argmax(axis=1) == made.label).mean()
    none = [row["accuracy"] for row in table if row["m"] == 0]
    assert none == pytest.approx([wanted] * 2)


def test_top_images_are_those_with_the_greatest_share(made):
    table = run(made, "top_images", **made.given, top=4, n_text=2)["top_images"].to_pylist()
    assert len(table) == N_LAYER * N_HEAD * 4
    for first in range(0, len(table), 4):
        mine = table[first : first + 4]
        layer, head, text = (mine[0][name] for name in ("layer", "head", "text"))
        shares = heads(made)[:, layer, head] @ made.pool[SAID.index(text)]
        wanted = np.sort(shares)[::-1][:4]
        np.testing.assert_allclose([row["value"] for row in mine], wanted, **CLOSE)
        np.testing.assert_allclose(shares[[row["example"] for row in mine]], wanted, **CLOSE)


def test_retrieval_is_that_of_all_pairs(made):
    asked = {"properties": ("kind", "place"), "neighbours": 4, "top": 6}
    found = run(made, "retrieval", **asked)
    distinct = [image for image in range(N_IMAGE) if image not in TWINS]
    vectors = {(la, h): heads(made)[:, la, h] for la in range(N_LAYER) for h in range(N_HEAD)} | {
        (None, None): total(made)
    }
    for row in found["retrieval"].to_pylist():
        said = vectors[row["layer"], row["head"]]
        near = nearest(said, distinct, made.row, 4)
        of = np.array(made.store.examples.to_table()[row["property"]].to_pylist())
        assert row["agreement"] == pytest.approx((of[near] == of[:, None]).mean()), row
        chance = ((np.unique(of, return_counts=True)[1] / N_IMAGE) ** 2).sum()
        assert row["chance"] == pytest.approx(chance)
        assert (row["k"], row["n"]) == (4, N_IMAGE)
    check_similar(found)


def nearest(said, distinct, row, k):
    """Images of greatest cosine to each, twins of it and of each other left out."""
    centred = said - said.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    near = []
    for image in range(N_IMAGE):
        others = [one for one in distinct if row[one] != row[image]]
        near.append(sorted(others, key=lambda one: -float(unit[one] @ unit[image]))[:k])
    return np.array(near)


def check_similar(found):
    """The best head of each property, its images in order, none of them the query."""
    for name in ("kind", "place"):
        rows = [row for row in found["retrieval"].to_pylist() if row["property"] == name]
        best = max(row["agreement"] for row in rows if row["head"] is not None)
        mine = [row for row in found["similar"].to_pylist() if row["property"] == name]
        (at,) = {(row["layer"], row["head"]) for row in mine}
        assert best in [r["agreement"] for r in rows if (r["layer"], r["head"]) == at]
        assert len(mine) == 3 * 6
        assert all(row["image_id"] != row["query_image"] for row in mine)
        for first in range(0, len(mine), 6):
            sims = [row["sim"] for row in mine[first : first + 6]]
            assert all(one >= other for one, other in pairwise(sims))


def test_heat_maps_sum_to_what_heads_add(made):
    table = run(made, "heatmap", **made.given, map_examples=2)["heatmap"]
    whole = table.filter(pc.field("head").is_null()).to_pylist()
    assert len(whole) == 2 * 3 * 9
    summed = heads(made).sum(axis=(1, 2)) - made.own  # patches alone
    for example in range(2):
        for number, name in enumerate(CLASSES):
            mine = [r["value"] for r in whole if (r["example"], r["text"]) == (example, name)]
            assert sum(mine) == pytest.approx(summed[example] @ made.classes[number], abs=1e-4)
    of_heads = table.filter(~pc.field("head").is_null()).to_pylist()
    assert len(of_heads) == 4 * 2 * 9
    for first in range(0, len(of_heads), 9):
        mine = of_heads[first : first + 9]
        example, layer, head, text = (mine[0][n] for n in ("example", "layer", "head", "text"))
        assert [row["patch"] for row in mine] == list(range(9))
        head_sum = heads(made)[example, layer, head] @ made.pool[SAID.index(text)]
        own = own_look(made, example, layer, head) @ made.pool[SAID.index(text)]
        assert sum(row["value"] for row in mine) == pytest.approx(head_sum - own, abs=1e-4)


def own_look(made, example, layer, head):
    """What one head adds by the class token's look at itself, `[d_embed]`."""
    store, weights = made.store, made.store.weights
    final = store["resid_final"][:][made.row[example]].astype(np.float64)
    look = float(store["pattern"][:][made.row[example], layer, head, 0])
    value = store["image_v"][:][example_rows(made)[example], layer, 0, head].astype(np.float64)
    added = look * value @ np.asarray(weights["W_O"][layer][head], np.float64)
    sigma = np.sqrt(final.var() + store.model["readout"]["eps"])
    return (added - added.mean()) / sigma * weights["ln_final.w"] @ weights["W_proj"]


def test_segmentation_has_all_rivals_and_another_text_to_look_for(made):
    methods = {
        "decomposition",
        "raw attention, last layer",
        "raw attention, first layer",
        "attention rollout",
        "attention by value norm",
        "random",
    }
    said = run(made, "segment", **made.given, masks=made.masks)["segment"].to_pylist()
    assert {row["method"] for row in said} == methods
    asked = run(made, "segment", **made.given, masks=made.masks, mask_text="look")["segment"]
    other = asked.to_pylist()
    assert other[0]["miou"] != said[0]["miou"]
    assert other[1:] == said[1:], "rivals know of no text"
    for row in said:
        assert all(0 <= row[name] <= 1 for name in ("pixel_acc", "miou", "foreground_iou", "map"))
        assert row["n"] == N_IMAGE


def test_repairs_are_those_of_vectors_put_together_anew(made):
    found = run(
        made,
        "repair",
        **made.given,
        **REPAIR,
        greedy=2,
        remove="SELECT layer, head FROM (VALUES (0, 1), (2, 4), (0, 1)) t(layer, head)",
    )
    rows = {row["how"]: row for row in found["repair"].to_pylist()}
    ways = ["none", "mlps", "ranked", "mlps and ranked", "projection", "sql", "greedy", "random"]
    assert list(rows) == ways
    assert [rows[way]["n_head"] for way in ways] == [0, 0, 4, 4, 0, 2, 2, 4]
    chosen, judged = halves(made)
    assert {row["n"] for row in rows.values()} == {len(judged)}
    for way in ("none", "mlps", "ranked", "mlps and ranked", "sql", "greedy"):
        removed = json.loads(rows[way]["removed"])
        names = [f"L{layer}H{head}" for layer, head in removed["heads"]] + removed["others"]
        lost = sum((made.parts[n] - made.parts[n][chosen].mean(axis=0) for n in names), start=0.0)
        check_groups(made, found, rows[way], total(made) - lost, judged)
    assert json.loads(rows["sql"]["removed"])["heads"] == [[0, 1], [2, 4]]
    u = made.pool[SAID.index("w3 w3")] - made.pool[SAID.index("w9 w4")]
    u /= np.linalg.norm(u)
    flat = total(made) - np.outer(total(made) @ u, u)
    check_groups(made, found, rows["projection"], flat, judged)
    assert rows["ranked"]["removed"] == json.dumps({"heads": ranked(made, u, chosen), "others": []})


def halves(made):
    """Images that are chosen by, and those that are judged; found again from the tables' sizes."""
    chosen, judged = study.Study(made.store, Params(**made.given, group="place")).halves
    assert sorted([*chosen, *judged]) == list(range(N_IMAGE))
    return chosen, judged


def check_groups(made, found, row, vectors, judged):
    right = (vectors @ made.classes.T).argmax(axis=1) == made.label
    groups = [one for one in found["groups"].to_pylist() if one["how"] == row["how"]]
    assert len(groups) == 6
    for group in groups:
        label = CLASSES.index(group["group_y"])
        of = [i for i in judged if (made.label[i], made.place[i]) == (label, group["group_b"])]
        assert group["n"] == len(of)
        assert group["accuracy"] == pytest.approx(right[of].mean()), group
        assert group["lo"] <= group["accuracy"] <= group["hi"]
    shares = [group["accuracy"] for group in groups]
    assert row["worst_group"] == pytest.approx(min(shares))
    assert row["balanced"] == pytest.approx(np.mean(shares))
    assert row["accuracy"] == pytest.approx(right[judged].mean())


def ranked(made, u, chosen):
    """Heads by variance along the cue less variance along what classes differ in beside it."""
    beside = made.classes - np.outer(made.classes @ u, u)
    _, lengths, vectors = np.linalg.svd(beside[1:] - beside[0], full_matrices=False)
    v = vectors[lengths > 1e-6 * lengths[0]]
    said = heads(made)[chosen]
    score = (said @ u).var(axis=0) - (said @ v.T).var(axis=0).sum(axis=-1)
    order = np.argsort(-score.ravel())[:4]
    return [[int(at) // N_HEAD, int(at) % N_HEAD] for at in order]


def test_twins_stay_in_one_half(made):
    for seed in range(5):
        chosen = set(study.Study(made.store, Params(seed=seed)).halves[0].tolist())
        assert len({3, 50, 51} & chosen) in (0, 3)
        assert len({7, 52} & chosen) in (0, 2)


def test_a_conventions_ablations_differ_little_and_units_not_at_all(made):
    asked = {**made.given, "group": "place"}
    plain = run(made, "ablation", **asked)["ablation"].to_pylist()
    even = run(made, "ablation", **asked, convention="even_split")["ablation"].to_pylist()
    assert plain[0] == even[0]
    unit = run(made, "ablation", **asked, unit=True)["ablation"].to_pylist()
    assert unit[0] == plain[0]


def test_a_small_memory_changes_nothing(made, monkeypatch):
    parts = [name for name in EXPERIMENTS if name not in ("repair", "pictures")]
    asked = {**made.given, "properties": ("kind",), "masks": made.masks}
    plain = run(made, *parts, **asked)
    monkeypatch.setattr(study, "parse_memory", lambda _: 3000)
    small = run(made, *parts, **asked, memory="16MB")
    for name, table in plain.items():
        assert_same_rows(table.to_pylist(), small[name].to_pylist())


def test_shares_that_do_not_fit_are_refused(made, monkeypatch):
    monkeypatch.setattr(study, "parse_memory", lambda _: 3000)
    with pytest.raises(InputError, match="more than memory=17MB"):
        run(made, "repair", **made.given, **REPAIR, memory="17MB")
