"""What the analysis is asked for: settings, stores that hold less, what is refused or left out."""

import io
import json
import warnings
from pathlib import Path

import duckdb
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from analyses.clip_decomposition.written import (
    CLASSES,
    CLOSE,
    N_IMAGE,
    REPAIR,
    SAID,
    SIDE,
    SITES,
    assert_same_rows,
    run,
)

import residuum
from residuum.analyses.clip_decomposition import heatmap
from residuum.analyses.clip_decomposition.params import EXPERIMENTS
from residuum.cli import run_command
from residuum.clip import effects
from residuum.clip import texts as stored_texts
from residuum.errors import ArgumentError, InputError, SiteError, StoreError
from residuum.prompts.scenes import repair, write
from residuum.report import StoreCard, build


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
