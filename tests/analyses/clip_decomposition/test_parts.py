"""Every part of the analysis on a tiny CLIP of random weights, against vectors written out."""

import io
import json
import warnings
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import tiny_models

import residuum
from residuum.analyses.clip_decomposition import heatmap, study
from residuum.analyses.clip_decomposition.params import EXPERIMENTS, Params
from residuum.cli import run_command
from residuum.clip import effects
from residuum.clip import texts as stored_texts
from residuum.errors import ArgumentError, InputError, SiteError, StoreError
from residuum.prompts.scenes import repair, write
from residuum.report import StoreCard, build

SITES = ["embed", "z", "mlp_out", "resid_final", "pattern", "image_v", "pooled"]
N_IMAGE, N_LAYER, N_HEAD, D_EMBED, SIDE = 53, 3, 5, 11, 12
TWINS = {50: 3, 51: 3, 52: 7}
"""Images that are others once more."""
CLASSES = ("w3", "w4", "w5")
PLACES = ("left", "right")
SAID = [f"w{a} w{b}" for a in range(3, 12) for b in range(3, 7)]
PROMPTS = {"text": ["w3", "w4 w1", "w4 w2", "w5"], "class": ["w3", "w4", "w4", "w5"]}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}  # float32, sums of 35 terms of size 1


def png(pixels):
    kept = io.BytesIO()
    PIL.Image.fromarray(pixels).save(kept, "PNG")
    return kept.getvalue()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A checkpoint of both towers, with all that reads for them."""
    folder = tmp_path_factory.mktemp("clip") / "model"
    tiny_models.save("clip_vision_joint", folder)
    tiny_models.tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def columns():
    """Images of noise, what they are and where."""
    random = np.random.default_rng(4)
    pixels = random.integers(0, 256, (N_IMAGE, SIDE, SIDE, 3), np.uint8)
    kind = np.arange(N_IMAGE) // 2 % 3
    for twin, first in TWINS.items():
        pixels[twin] = pixels[first]
    return {
        "image": [png(one) for one in pixels],
        "kind": [CLASSES[number] for number in kind],
        "place": [PLACES[number % 2] for number in range(N_IMAGE)],
        "look": [SAID[number % 5] for number in range(N_IMAGE)],
    }


@pytest.fixture(scope="module")
def made(model, columns, tmp_path_factory):
    """Stores of images, of a pool of texts and of classes; masks; the vectors written out."""
    root = tmp_path_factory.mktemp("stores")
    store = residuum.capture(model, pa.table(columns), root / "images", sites=SITES)
    texts = residuum.capture(model, SAID, root / "texts", sites=["pooled"])
    classes = residuum.capture(model, pa.table(PROMPTS), root / "classes", sites=["pooled"])
    masks = np.random.default_rng(5).random((N_IMAGE, SIDE, SIDE)) < 0.3
    np.save(root / "masks.npy", masks)
    label = np.array([CLASSES.index(kind) for kind in columns["kind"]])
    place = np.array(columns["place"])
    return SimpleNamespace(
        store=store,
        given={"texts": str(texts.path), "classes": str(classes.path), "label": "kind"},
        masks=str(root / "masks.npy"),
        root=root,
        label=label,
        place=place,
        **written_out(store),
        **directions(texts, classes),
    )


def directions(texts, classes):
    """Unit vectors of the pool and of classes, in float64."""
    unit = [
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        for vectors in (store["pooled"][:].astype(np.float64) for store in (texts, classes))
    ]
    means = np.stack([unit[1][[0]].mean(0), unit[1][[1, 2]].mean(0), unit[1][[3]].mean(0)])
    return {"pool": unit[0], "classes": means / np.linalg.norm(means, axis=1, keepdims=True)}


def written_out(store):
    """What each component adds to each image's vector `[image, d_embed]`, by its definition.

    And what class tokens add by looking at themselves, and the constant `[d_embed]`.
    """
    read = store.examples.to_table(columns=["first_row", "example_row"])
    row, image = read["first_row"].to_numpy(), read["example_row"].to_numpy()
    weights = {name: np.asarray(value, np.float64) for name, value in store.weights.items()}
    final = store["resid_final"][:][row].astype(np.float64)
    sigma = np.sqrt(final.var(axis=1) + store.model["readout"]["eps"])

    def said(parts):
        centred = parts - parts.mean(axis=1, keepdims=True)
        return centred * weights["ln_final.w"] / sigma[:, None] @ weights["W_proj"]

    z = store["z"][:][row].astype(np.float64)  # [image, layer, head, d_head]
    mlp, embed = store["mlp_out"][:][row], store["embed"][:][row]
    looks = store["pattern"][:][row].astype(np.float64)[..., 0]  # [image, layer, head]
    own = looks[..., None] * store["image_v"][:][image].astype(np.float64)[:, :, 0]
    parts, to_itself = {"embedding": said(embed)}, 0.0
    for layer in range(N_LAYER):
        w_o = weights["W_O"][layer]
        for head in range(N_HEAD):
            parts[f"L{layer}H{head}"] = said(z[:, layer, head] @ w_o[head])
            to_itself = to_itself + said(own[:, layer, head] @ w_o[head])
        bias = np.broadcast_to(weights["b_O"][layer], final.shape)
        parts[f"L{layer} attention bias"] = said(bias)
        parts[f"L{layer} MLP"] = said(mlp[:, layer])
    constant = weights["ln_final.b"] @ weights["W_proj"]
    return {"parts": parts, "own": to_itself, "constant": constant, "row": row}


def run(made, *experiments, **params):
    """The tables of some parts, or of all that there can be."""
    return residuum.analyses.run(
        "clip_decomposition", made.store, **params, experiments=experiments or None
    )


def heads(made):
    """Of all heads, `[image, layer, head, d_embed]`."""
    every = [made.parts[f"L{la}H{head}"] for la in range(N_LAYER) for head in range(N_HEAD)]
    return np.stack(every, 1).reshape(N_IMAGE, N_LAYER, N_HEAD, D_EMBED)


def total(made):
    return sum(made.parts.values()) + made.constant


def spread(vectors):
    """Variance over all directions."""
    return vectors.var(axis=0).sum()


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


REPAIR = {"group": "place", "cues": ("w3 w3", "w9 w4"), "n_remove": 4, "random_draws": 6}


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


def assert_same_rows(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for key, value in one.items():
            if isinstance(value, float):
                assert other[key] == pytest.approx(value, rel=1e-4, abs=1e-5), (one, other)
            else:
                assert other[key] == value


def test_what_is_missing_is_left_out_with_its_reason(made):
    found = run(made)
    skipped = {row["experiment"]: row["reason"] for row in found["skipped"].to_pylist()}
    assert set(EXPERIMENTS) - set(skipped) == {"exactness", "effect", "pictures"}
    reasons = {
        "ablation": "needs `label`",
        "textspan": "needs `texts`: a store of texts",
        "textspan_accuracy": "needs `texts`",
        "top_images": "needs `texts`",
        "repair": "needs `label`",
        "retrieval": "needs `properties`",
        "heatmap": "needs `classes`",
        "segment": "needs `masks`",
    }
    for name, words in reasons.items():
        assert words in skipped[name], skipped
    assert found["effect"]["class_margin"].null_count == found["effect"].num_rows
    assert found["ablation"].num_rows == 0


def test_everything_at_once_and_its_report(made):
    asked = {**made.given, **REPAIR, "properties": ("kind",), "masks": made.masks, "greedy": 1}
    found = run(made, **asked)
    assert found["skipped"].num_rows == 0
    assert all(table.num_rows for name, table in found.items() if name != "skipped")
    shown = set(found["pictures"]["example"].to_pylist())
    assert shown >= set(found["top_images"]["example"].to_pylist())
    for row in found["pictures"].to_pylist():
        with PIL.Image.open(io.BytesIO(row["png"])) as opened:
            assert opened.size == (row["width"], row["height"]) == (SIDE, SIDE)
    assert "CLIP decomposition" in build(StoreCard.of(made.store.info()), [found])


@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ({"experiments": ("effects",)}, ArgumentError, "no part 'effects'; there are: exactness"),
        ({"calibration": 0.0}, ArgumentError, "between 0 and 1"),
        ({"calibration": 1.0}, ArgumentError, "between 0 and 1"),
        ({"convention": "odd"}, ArgumentError, "folded or even_split"),
        ({"n_text": 0}, ArgumentError, "n_text"),
        ({"texts": "nowhere"}, StoreError, "nowhere"),
        ({"masks": "nowhere.npy"}, InputError, "no file of masks nowhere.npy"),
        ({"memory": "much"}, InputError, "much"),
        ({"remove": "SELECT layer FROM nowhere"}, InputError, "remove cannot be run: .*nowhere"),
    ],
)
def test_settings_that_mean_nothing_are_refused(made, params, error, words):
    with pytest.raises(error, match=words):
        residuum.analyses.run("clip_decomposition", made.store, **params)


@pytest.mark.parametrize(
    ("part", "params", "error", "words"),
    [
        ("ablation", {"label": "sort"}, InputError, "no column 'sort'; they have"),
        ("ablation", {"label": "place"}, InputError, "'left', which is no class; the classes are"),
        ("repair", {"group": "sort"}, InputError, "no column 'sort'"),
        ("repair", {"group": "place", "cues": ("w3", "w29")}, InputError, "'w29' is no text of"),
        ("repair", {"group": "place", "cues": ("w3",)}, ArgumentError, "two texts at least"),
        ("repair", {"group": "place", "remove": "SELECT 1 AS layer"}, InputError, "columns layer"),
        ("repair", {"group": "place", "calibration": 0.01}, InputError, "cannot be halved"),
        ("retrieval", {"properties": ("sort",)}, InputError, "no column 'sort'"),
        ("segment", {"mask_text": "place"}, InputError, "'left' is no text of"),
        ("textspan", {"layers": (7,)}, SiteError, "7"),
    ],
)
def test_what_was_asked_for_by_name_fails_with_its_reason(made, part, params, error, words):
    asked = {**made.given, "masks": made.masks, **params}
    with pytest.raises(error, match=words):
        run(made, part, **asked)


def test_masks_of_another_shape_are_refused(made, tmp_path):
    np.save(tmp_path / "few.npy", np.zeros((3, SIDE, SIDE), bool))
    np.save(tmp_path / "grey.npy", np.zeros((N_IMAGE, SIDE, SIDE)))
    for name, words in (("few", r"\[3, 12, 12\]"), ("grey", "float64")):
        with pytest.raises(InputError, match=words):
            run(made, "segment", **made.given, masks=str(tmp_path / f"{name}.npy"))


def test_images_in_place_of_texts_are_refused(made):
    with pytest.raises(StoreError, match="no vectors of texts"):
        run(made, "textspan", texts=str(made.store.path))


@pytest.fixture
def as_files(columns, tmp_path):
    """The images as files."""
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    for number, image in enumerate(columns["image"]):
        (folder / ("below" if number % 2 else ".") / f"{number:02}.png").write_bytes(image)
    return folder


def test_a_folder_of_images(model, made, as_files, tmp_path):
    store = residuum.capture(model, as_files, tmp_path / "run", sites=SITES, positions="first")
    given = {"texts": made.given["texts"], "classes": made.given["classes"]}
    without = residuum.analyses.run("clip_decomposition", store, **given)
    assert "name the folder" in without["skipped"].to_pylist()[-1]["reason"]
    given["images"] = str(as_files)
    found = residuum.analyses.run("clip_decomposition", store, **given)
    skipped = {row["experiment"] for row in found["skipped"].to_pylist()}
    assert skipped == {"ablation", "textspan_accuracy", "repair", "retrieval", "segment"}
    assert found["pictures"].num_rows
    # Of the same images in another order, TextSpan says the same.
    ours = run(made, "textspan", **made.given)["textspan"].to_pylist()
    assert_same_rows(ours, found["textspan"].to_pylist())


def test_lines_of_json_that_name_files(model, made, as_files, columns, tmp_path):
    files = sorted(as_files.rglob("*.png"), key=lambda path: path.name)
    lines = [
        {"image": {"bytes": None, "path": str(path)}, "kind": kind, "place": place}
        for path, kind, place in zip(files, columns["kind"], columns["place"], strict=True)
    ]
    path = tmp_path / "images.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    store = residuum.capture(model, path, tmp_path / "run", sites=SITES, positions="first")
    asked = {**made.given, **REPAIR, "properties": ("kind",)}
    found = residuum.analyses.run("clip_decomposition", store, **asked)
    assert {row["experiment"] for row in found["skipped"].to_pylist()} == {"segment"}
    ours = run(made, "repair", **made.given, **REPAIR)["repair"].to_pylist()
    theirs = found["repair"].to_pylist()
    assert_same_rows(ours, theirs)
    assert found["pictures"].num_rows


def test_a_store_of_few_sites(model, made, columns, tmp_path):
    """Without MLPs and patches: they are one rest, and maps are left out."""
    store = residuum.capture(
        model,
        pa.table(columns),
        tmp_path / "run",
        sites=["z", "resid_final"],
        positions="first",
        layers=[1, 2],
    )
    asked = {**made.given, **REPAIR, "masks": made.masks}
    found = residuum.analyses.run("clip_decomposition", store, **asked)
    skipped = {row["experiment"]: row["reason"] for row in found["skipped"].to_pylist()}
    assert set(skipped) == {"ablation", "heatmap", "segment", "retrieval"}
    assert "image_v" in skipped["heatmap"]
    reasons = [row["reason"] for row in found["skipped"].to_pylist()]
    assert any("attention of layers 0 to 0: `z` of layer 0 was not" in one for one in reasons)
    assert any(one.startswith("class token to itself: ") for one in reasons)
    whats = [row["what"] for row in found["ablation"].to_pylist()]
    assert whats == ["none", "all that was not captured by itself", "everything"]
    assert "mlps" not in found["repair"]["how"].to_pylist()
    kinds = {row["kind"] for row in found["effect"].to_pylist()}
    assert kinds == {"head", "attention bias", "rest"}
    plain = run(made, "ablation", **made.given)["ablation"].to_pylist()
    assert found["ablation"].to_pylist()[0]["accuracy"] == plain[0]["accuracy"]


def test_a_group_that_a_half_lacks(model, made, columns, tmp_path):
    """One image of its kind is in one half alone: there is no accuracy of it in the other."""
    rare = {**columns, "place": ["nowhere", *columns["place"][1:]]}
    store = residuum.capture(
        model, pa.table(rare), tmp_path / "run", sites=SITES, positions="first"
    )
    with pytest.raises(InputError, match="nowhere"):
        residuum.analyses.run(
            "clip_decomposition", store, **made.given, **REPAIR, greedy=1, experiments=("repair",)
        )


def test_one_image(model, made, columns, tmp_path):
    one = {name: values[:1] for name, values in columns.items()}
    store = residuum.capture(model, pa.table(one), tmp_path / "run", sites=SITES)
    asked = {**made.given, **REPAIR, "properties": ("kind",)}
    found = residuum.analyses.run("clip_decomposition", store, **asked)
    skipped = {row["experiment"]: row["reason"] for row in found["skipped"].to_pylist()}
    assert "cannot be halved" in skipped["repair"]
    assert "one distinct image" in skipped["retrieval"]
    assert found["effect"]["var_share"].null_count == found["effect"].num_rows


def test_a_query_is_asked_anew_when_its_answer_is_another(made):
    """The same words may name other heads, once other texts have been asked for."""
    query = "SELECT layer, head FROM clip_decomposition_textspan WHERE rank = 0 AND head = 1"
    run(made, "textspan", **made.given, n_text=1, layers=(0,))
    first = run(made, "repair", **made.given, **REPAIR, remove=query)["repair"]
    run(made, "textspan", **made.given, n_text=1, layers=(1, 2))
    second = run(made, "repair", **made.given, **REPAIR, remove=query)["repair"]
    named = [
        json.loads(row["removed"])["heads"]
        for table in (first, second)
        for row in table.to_pylist()
        if row["how"] == "sql"
    ]
    assert named == [[[0, 1]], [[1, 1], [2, 1]]]


def test_texts_are_read_as_stored(made):
    found = stored_texts(made.given["texts"])
    assert found.text == SAID
    np.testing.assert_allclose(found.vectors, made.pool, **CLOSE)


def test_views_keep_what_a_later_run_was_not_asked_for(made):
    run(made, "textspan", **made.given)
    texts = made.store.sql("FROM clip_decomposition_textspan").to_arrow_table().num_rows
    assert texts
    run(made)
    run(made, "effect", **made.given)
    assert made.store.sql("FROM clip_decomposition_textspan").to_arrow_table().num_rows == texts


@pytest.mark.parametrize("params", [{"unit": True}, {"convention": "even_split"}])
def test_effects_are_in_the_form_that_was_asked_for(made, params):
    found = run(made, "effect", **made.given, **params)["effect"].to_pylist()
    eye = np.eye(made.classes.shape[1], dtype=np.float32)
    some = effects(made.store, eye, **params)
    lengths = np.linalg.norm(some.shares, axis=2).mean(axis=0)
    variance = some.shares.var(axis=0).sum(axis=1) / some.total.var(axis=0).sum()
    assert [row["mean_norm"] for row in found] == pytest.approx(lengths.tolist(), rel=1e-4)
    assert [row["var_share"] for row in found] == pytest.approx(variance.tolist(), rel=1e-3)
    folded = run(made, "effect", **made.given)["effect"].to_pylist()
    plain = {row["component"]: row["mean_norm"] for row in folded}
    assert any(abs(plain[row["component"]] - row["mean_norm"]) > 1e-3 for row in found)


def test_texts_of_the_unit_vectors(made):
    found = run(made, "textspan", **made.given, unit=True)["textspan"].to_pylist()
    eye = np.eye(made.classes.shape[1], dtype=np.float32)
    some = effects(made.store, eye, unit=True)
    for row in found:
        if row["rank"] == 0:
            head = some.shares[:, some.heads([(row["layer"], row["head"])])[0]].astype(np.float64)
            _, lengths, basis = np.linalg.svd(head, full_matrices=False)
            basis = basis[lengths > 1e-5 * lengths[0]]
            along = (head - head.mean(axis=0)) @ (made.pool @ basis.T @ basis).T
            assert row["text_id"] == along.std(axis=0).argmax()


def test_masks_in_another_frame_are_refused(made, tmp_path):
    np.save(tmp_path / "masks.npy", np.zeros((N_IMAGE, SIDE + 1, SIDE), bool))
    with pytest.raises(InputError, match="of the frame that the model saw: resize and crop them"):
        run(made, "segment", **made.given, masks=str(tmp_path / "masks.npy"))
    (tmp_path / "odd.npy").write_bytes(b"no masks")
    with pytest.raises(InputError, match="is no array of masks"):
        run(made, "segment", **made.given, masks=str(tmp_path / "odd.npy"))


def test_of_many_classes_maps_are_kept_of_those_that_are_said(made, monkeypatch):
    monkeypatch.setattr(heatmap, "MOST_CLASSES", 2)
    found = run(made, "heatmap", classes=made.given["classes"], map_examples=2, top=3)["heatmap"]
    said = {(row["example"], row["text"]) for row in found.to_pylist() if row["head"] is None}
    total = effects(made.store, made.classes, examples=[0, 1]).total
    first = {CLASSES[at] for at in total.argmax(axis=1).tolist()}
    assert {text for _, text in said} == first


def test_a_cue_that_is_no_text_is_refused_before_anything_is_computed(made):
    with pytest.raises(InputError, match="the cue 'lava' is no text of"):
        run(made, **made.given, **{**REPAIR, "cues": ("lava", "w9")})
    with pytest.raises(ArgumentError, match="cues are two texts at least, not 'w9' alone"):
        run(made, **made.given, **{**REPAIR, "cues": ("w9",)})


def test_texts_of_another_checkpoint_are_refused(tmp_path):
    golden = Path(__file__).parents[2] / "golden" / "clip"
    pictures = write(repair(3, seed=0), tmp_path / "pictures")
    sites = ["z", "resid_final"]
    images = residuum.capture(golden / "repair_0", pictures, tmp_path / "run", sites=sites)
    said = ["a circle", "a cross"]
    for name, fits in (("repair_0", True), ("repair_0_fair", False)):
        texts = residuum.capture(golden / name, said, tmp_path / name, sites=["pooled"])
        query = f"SELECT count(value) FROM clip_contributions(directions := '{texts.path}')"
        if fits:
            assert images.sql(query).fetchall() == [(3 * 24 * 2,)]
            continue
        with pytest.raises(InputError, match="are of another model than the images"):
            residuum.analyses.run("clip_decomposition", images, texts=str(texts.path))
        with pytest.raises(duckdb.Error, match="are of another model than the images"):
            images.sql(query).fetchall()
    pooled = residuum.capture(golden / "repair_0", pictures, tmp_path / "p", sites=["pooled"])
    with pytest.raises(duckdb.Error, match="holds clip_vision, not texts"):
        images.sql(query.replace(str(texts.path), str(pooled.path))).fetchall()


def test_a_report_draws_the_answer_that_came_last(made, tmp_path, monkeypatch):
    """The defaults name no texts: their answer would leave out nearly all."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the command sets it
    asked = run(made, "textspan", **made.given)
    run(made, "effect")
    wanted = run(made, "textspan", **made.given, n_text=2)
    assert asked["textspan"].num_rows > wanted["textspan"].num_rows
    drawn = []
    monkeypatch.setattr("residuum.report.build", lambda _card, results: drawn.extend(results) or "")
    command = ["report", str(made.store.path), "clip_decomposition", "-o", str(tmp_path / "a.html")]
    assert run_command(command) == 0
    assert [dict(one.parameters)["n_text"] for one in drawn] == [2]
