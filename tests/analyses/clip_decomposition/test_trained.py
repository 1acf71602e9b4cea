"""What was claimed of CLIP's heads, on trained models, and the controls that must not show it."""

import json
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
import torch

import clip_decomposition_study as study
from clip_zero_shot import prompts
from residuum.clip import effects, patch_maps
from residuum.prompts.scenes import SHAPES
from train_clip_models import SEEDS, clip_model

# Models this small gain nothing from threads, and lose much on a busy machine.
torch.set_num_threads(1)

GOLDEN = Path(__file__).parents[2] / "golden" / "clip"
N_REPAIR, N_SHAPES = 2000, 1000


def by_way(result):
    """Rows of the table `repair`."""
    return {row["how"]: row for row in result["repair"].to_pylist()}


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    """How the committed models of faint shapes do, the biased one and the fair one."""
    root = tmp_path_factory.mktemp("repair")
    return {
        name: by_way(study.repaired(GOLDEN / name, root / name, N_REPAIR))
        for name in ("repair_0", "repair_0_fair")
    }


def test_heads_that_texts_point_at_are_what_misleads(ways):
    rows = ways["repair_0"]
    before, after, random = (rows[how] for how in ("none", "ranked", "random"))
    rise = after["worst_group"] - before["worst_group"]
    assert rise >= 0.08
    assert after["balanced"] >= before["balanced"] - 0.03
    assert after["worst_group"] - random["worst_group"] >= 0.08
    assert after["n_head"] == random["n_head"] == 8
    # Beside the heads, so that they are not flattered.
    assert rows["projection"]["worst_group"] > after["worst_group"]


def test_a_fair_model_has_nothing_to_repair(ways):
    rows = ways["repair_0_fair"]
    assert abs(rows["ranked"]["worst_group"] - rows["none"]["worst_group"]) < 0.08
    assert abs(rows["ranked"]["balanced"] - rows["none"]["balanced"]) < 0.03


def test_a_query_names_heads_too(ways):
    rows = ways["repair_0"]
    assert rows["sql"]["n_head"] == 8
    assert rows["sql"]["worst_group"] >= rows["none"]["worst_group"] + 0.05
    assert rows["sql"]["worst_group"] > rows["random"]["worst_group"]


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """The committed model of small shapes: its store, the pictures and what was asked."""
    root = tmp_path_factory.mktemp("shapes") / "out"
    model = GOLDEN / "shapes"
    store, pictures = study.shapes_seen(model, root, N_SHAPES)
    words = [text for name in study.PROPERTIES for text in prompts(SHAPES, name).values()]
    classes = study.read(model, study.prompted(SHAPES, "colour"), root / "classes")
    result = study.asked(
        store,
        texts=study.read(model, words, root / "words"),
        classes=classes,
        label="colour",
        n_text=4,
        properties=study.PROPERTIES,
        masks=str(root / "pictures" / "masks.npy"),
    )
    return model, store, pictures, classes, result


def test_parts_sum_to_what_the_model_said(seen):
    _, store, *_ = seen
    said = store["pooled"][:]
    found = effects(store, np.eye(said.shape[1], dtype=np.float32))
    summed = found.shares.sum(axis=1) + found.constant
    assert np.abs(summed - said[found.images.example_row]).max() < 1e-5
    maps = patch_maps(store, np.eye(said.shape[1], dtype=np.float32))
    heads = found.shares[:, found.numbers("head")].sum(axis=1)
    assert np.abs(maps.sum(axis=1) - heads).max() < 1e-5


def test_labels_and_texts_name_the_same_heads(seen):
    _, store, _, _, result = seen
    eta = study.explained(store).to_pylist()
    first = {
        (row["layer"], row["head"]): row["text"]
        for row in result["textspan"].filter(pc.field("rank") == 0).to_pylist()
    }
    said = {
        name: {
            (row["layer"], row["head"])
            for row in eta
            if first[row["layer"], row["head"]] in prompts(SHAPES, name).values()
        }
        for name in study.PROPERTIES
    }
    found = {
        name: {(row["layer"], row["head"]) for row in eta if row[name] > 0.8}
        for name in study.PROPERTIES
    }
    assert len(found["background"]) >= 3
    assert len(found["colour"]) >= 1
    assert found["background"] <= said["background"]
    assert found["colour"] <= said["colour"]
    assert not found["shape"], "which it never learnt"
    assert not found["position"]


def test_images_are_found_by_one_property(seen):
    rows = seen[-1]["retrieval"].to_pylist()
    best = {
        name: max(r["agreement"] for r in rows if r["property"] == name and r["head"] is not None)
        for name in study.PROPERTIES
    }
    assert best["background"] > 0.95
    assert best["colour"] > 0.9
    assert best["shape"] < 0.5


def test_small_shapes_are_found_in_pictures(seen):
    model, _, pictures, classes, result = seen
    miou = {row["method"]: row["miou"] for row in result["segment"].to_pylist()}
    assert miou["decomposition"] >= 2 * miou["raw attention, last layer"]
    assert miou["decomposition"] > miou["attention rollout"]
    assert miou["decomposition"] > miou["random"] + 0.3
    some = slice(0, 300)
    rivals = study.gradient_rivals(
        model, pictures.pixels[some], pictures.masks[some], classes, result["segment"]
    ).to_pylist()
    assert [row["method"] for row in rivals] == ["Grad-CAM", "transformer attribution"]
    assert all(row["miou"] > miou["random"] for row in rivals)


def test_photographs_go_the_same_way(tmp_path):
    pool = [text for name in study.PROPERTIES for text in prompts(SHAPES, name).values()]
    tiles = study.tiles().take(list(range(0, 396, 6)))
    result = study.real(GOLDEN / "shapes", tiles, pool, None, tmp_path / "photos")
    assert (tmp_path / "photos" / "report.html").stat().st_size > 10_000
    assert {row["experiment"] for row in result["skipped"].to_pylist()} == {
        "ablation",
        "textspan_accuracy",
        "repair",
        "heatmap",
        "segment",
    }
    assert result["pictures"].num_rows
    assert {row["property"] for row in result["retrieval"].to_pylist()} == {"photo"}


@pytest.mark.slow
def test_heads_are_the_remedy_for_every_seed(tmp_path):
    """Of those that come through their gate; docs/analyses.md has the numbers of all."""
    through = [seed for seed in SEEDS if passed(f"repair_{seed}") and passed(f"repair_{seed}_fair")]
    assert len(through) >= 3
    in_full = []
    for seed in through:
        name = f"repair_{seed}"
        biased = by_way(study.repaired(clip_model(name), tmp_path / name))
        assert moved(biased, "ranked") >= 0.10, name
        assert moved(biased, "ranked", "balanced") >= 0, name
        assert moved(biased, "sql") >= 0.05, name
        assert abs(moved(biased, "random")) <= 0.05, name
        fair = by_way(study.repaired(clip_model(f"{name}_fair"), tmp_path / f"{name}_fair"))
        assert abs(moved(fair, "ranked", "balanced")) <= 0.03, name
        if max(abs(moved(biased, "random")), abs(moved(fair, "ranked"))) <= 0.03:
            in_full.append(seed)
    # Where draws or a fair model's worst group move by more, it is said: seeds 3 and 5.
    assert len(in_full) >= 3, in_full


def moved(rows, how, what="worst_group"):
    """What a way adds to the worst group, or to the mean of groups."""
    return rows[how][what] - rows["none"][what]


def passed(name):
    return json.loads((clip_model(name) / "training.json").read_text())["passed"]
