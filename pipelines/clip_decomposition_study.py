"""CLIP taken apart: what do its heads and image patches say, and what if some of them are silent?

Small models of made pictures (train_clip_models.py, a minute or two each on one core), captured
once, with texts by the same model; everything stays under demo/clip_decomposition/:

    shapes    is the decomposition exact; which heads say colour, which background, by labels and
              by texts; images found by one property; shapes found in pictures, beside rivals
    repair    models that lean on the background: heads ablated that texts point at, heads that a
              query names, random ones, the whole direction; and the same on fair models

    python pipelines/clip_decomposition_study.py
    python pipelines/clip_decomposition_study.py --model NAME_OR_FOLDER --images FOLDER
        [--texts FILE] [--classes FILE]
    python pipelines/clip_decomposition_study.py --photos [--model NAME_OR_FOLDER]

With a model of yours, heads are named by residuum's general descriptions, or by your texts, one a
line; `--classes` are prompts, one a line, for heat maps. `--photos` cuts scikit-learn's two sample
photographs into tiles, by the small model where there is no other.
"""

import argparse
import io
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from transformers import CLIPModel

import residuum
from clip_towers import pixel_values
from clip_zero_shot import prompts
from residuum.analyses.result import Result
from residuum.clip import general_descriptions, head_vectors
from residuum.clip.gradient_maps import grad_cam, transformer_attribution
from residuum.clip.segmentation import scores, segmentation, upsampled
from residuum.clip.texts import classes as class_directions
from residuum.prompts.scenes import SHAPES, Pictures, World, repair, shapes, texts, write
from residuum.store import Store
from telling import heading, report, show, show_table
from train_clip_models import RECIPES, clip_model

FOLDER = Path("demo/clip_decomposition")
STREAM = ["embed", "z", "mlp_out", "resid_final", "pooled"]
PATCHES = ["pattern", "image_v"]
# Pictures that no training has drawn, each shape as often on each background.
N_SHAPES, N_REPAIR, SEED = 1400, 4000, 99
FAINT = (0.0, 0.6)
# Texts of a head, and heads that are ablated: a third of the 24.
N_TEXT, N_REMOVE = 8, 8
REPAIR_WORDS = ("shape", "colour", "background")
PROPERTIES = ("shape", "colour", "background", "position")
# Of a large model, patches are told apart in the last layers alone, where most is said.
LAST = 4
# Pixels of a tile of a photograph, and from one tile to the next.
TILE, STEP = 96, 32
PHOTOS = {"china.jpg": ("china", "a building"), "flower.jpg": ("flower", "a flower")}

SHOW_REPAIR = """
    SELECT how, n_head, round(r.worst_group, 3) AS worst_group, round(r.worst_lo, 3) AS lo,
           round(r.worst_hi, 3) AS hi, round(r.balanced, 3) AS balanced,
           round(r.worst_group - before.worst_group, 3) AS worst_rise,
           round(r.balanced - before.balanced, 3) AS balanced_rise
    FROM clip_decomposition_repair r, (
        SELECT worst_group, balanced FROM clip_decomposition_repair WHERE how = 'none'
    ) AS before
"""


def captured(
    model: Path | str, inputs: Path | pa.Table, out: Path, positions: str = "first"
) -> Store:
    """The store of a small model's images; made anew."""
    shutil.rmtree(out, ignore_errors=True)
    store = residuum.capture(
        str(model), inputs, out, sites=[*STREAM, *PATCHES], positions=positions, dtype="float32"
    )
    print(store, flush=True)
    return store


def read(model: Path | str, said: Sequence[str] | pa.Table, out: Path) -> str:
    """Where the store of texts is, read by the text tower of the same model; made anew."""
    shutil.rmtree(out, ignore_errors=True)
    given = said if isinstance(said, pa.Table) else list(said)
    return str(residuum.capture(str(model), given, out, sites=["pooled"], truncate=True).path)


def prompted(world: World, label: str) -> pa.Table:
    """A prompt for each value of a label, and the class that it stands for."""
    said = prompts(world, label)
    return pa.table({"text": list(said.values()), "class": list(said)})


def asked(store: Store, **params: object) -> Result:
    """The analysis' answer, kept in the store."""
    started = time.perf_counter()
    result = residuum.analyses.run("clip_decomposition", store, **params)
    print(f"  asked in {time.perf_counter() - started:.1f} s", flush=True)
    for row in result["skipped"].to_pylist():
        print(f"  left out: {row['experiment']}: {row['reason']}")
    return result


def show_exactness(store: Store) -> None:
    """How far sums of components are off."""
    show(
        store,
        "Do the parts add up? Components to the whole, the whole to what the model said",
        "SELECT what, max_abs, relative, n FROM clip_decomposition_exactness",
    )


def explained(store: Store, properties: Sequence[str] = PROPERTIES) -> pa.Table:
    """Share of each head's variance that labels of the images explain (eta squared)."""
    labels = store.examples.to_table(columns=["example", *properties]).sort_by("example")
    n_layer, n_head = store.weights["W_O"].shape[:2]
    rows = []
    for layer in range(n_layer):
        for head in range(n_head):
            said = head_vectors(store, [(layer, head)]).astype(np.float64)
            row: dict[str, Any] = {"layer": layer, "head": head}
            for name in properties:
                _, of = np.unique(labels[name].to_numpy(), return_inverse=True)
                n = np.bincount(of)
                sums = np.zeros((len(n), said.shape[1]))
                np.add.at(sums, of, said)
                row[name] = float((sums**2 / n[:, None]).sum() / (said**2).sum())
            rows.append(row)
    return pa.Table.from_pylist(rows)


def show_explained(eta: pa.Table) -> None:
    """What labels say of heads."""
    names = [name for name in eta.column_names if name not in ("layer", "head")]
    rounded = [pa.array(np.round(eta[name].to_numpy(), 2)) for name in names]
    shown = pa.table([eta["layer"], eta["head"], *rounded], eta.column_names)
    show_table("Share of a head's variance that labels explain (eta squared)", shown)


def show_texts(store: Store) -> None:
    """The first texts of heads that vary most."""
    show(
        store,
        "Heads by their first texts (TextSpan), and share of the image vector's variance",
        """
        SELECT t.layer, t.head, round(any_value(e.var_share), 3) AS var_share,
               string_agg(text || ' ' || round(var_explained, 2), '; ' ORDER BY rank) AS texts
        FROM clip_decomposition_textspan t JOIN clip_decomposition_effect e USING (layer, head)
        WHERE e.kind = 'head' AND rank < 3 GROUP BY ALL ORDER BY var_share DESC LIMIT 24
        """,
    )


def show_effects(store: Store) -> None:
    """Direct effects by kind and layer, and what accuracy needs."""
    show(
        store,
        "Direct effects: variance over that of the whole vector",
        """
        SELECT kind, layer, round(sum(var_share), 3) AS var_share,
               round(max(var_share), 3) AS largest, round(sum(class_margin), 3) AS margin
        FROM clip_decomposition_effect GROUP BY ALL ORDER BY kind, layer
        """,
    )
    show(
        store,
        "Accuracy where components are replaced by their means over the images",
        """
        SELECT what, upto_layer, round(accuracy, 3) AS accuracy, round(worst_group, 3) AS worst,
        FROM clip_decomposition_ablation
        """,
    )
    show(
        store,
        "Accuracy where heads say their mean and m texts alone",
        """
        PIVOT (
            SELECT pool, m, round(accuracy, 3) AS accuracy FROM clip_decomposition_textspan_accuracy
        ) ON pool USING first(accuracy) ORDER BY m
        """,
    )


def show_retrieval(store: Store) -> None:
    """Which heads find images that agree in a property."""
    show(
        store,
        "How often the nearest 5 images agree: the three best heads of each property (null: whole)",
        """
        SELECT property, layer, head, round(agreement, 3) AS agreement, round(chance, 3) AS chance
        FROM clip_decomposition_retrieval
        QUALIFY head IS NULL OR 3 >= row_number() OVER (
            PARTITION BY property, head IS NULL ORDER BY agreement DESC
        )
        ORDER BY property, head IS NULL, agreement DESC
        """,
    )


def show_segmentation(result: Result, rivals: pa.Table) -> None:
    """Maps of all methods against the masks."""
    every = pa.concat_tables([result["segment"].drop_columns("model"), rivals]).to_pylist()
    every.sort(key=lambda row: -float(row["miou"]))
    names = ["method", "pixel_acc", "miou", "foreground_iou", "map", "n"]
    rows = [
        {name: round(row[name], 3) if isinstance(row[name], float) else row[name] for name in names}
        for row in every
    ]
    show_table("Segmentation by maps of the class that the model says", pa.Table.from_pylist(rows))


def gradient_rivals(
    model: Path, pixels: NDArray[np.uint8], masks: NDArray[np.bool_], classes: str, like: pa.Table
) -> pa.Table:
    """Rows as the analysis' `segment`, of maps that take gradients of a loaded model."""
    clip = CLIPModel.from_pretrained(model).eval()
    shown, directions = pixel_values(pixels), class_directions(classes).vectors
    with torch.no_grad():
        vectors = clip.get_image_features(shown).pooler_output.numpy()
    said = directions[(vectors @ directions.T).argmax(axis=1)]
    side = round(clip.vision_model.embeddings.num_patches**0.5)
    rows = []
    for method, maps in (
        ("Grad-CAM", grad_cam(clip, shown, said, batch=100)),
        (
            "transformer attribution",
            transformer_attribution(
                clip, shown, said, batch=100, scale=float(clip.logit_scale.detach().exp())
            ),
        ),
    ):
        found = segmentation(scores(upsampled(maps, (side, side), masks.shape[1:])), masks)
        rows.append(
            {
                "method": method,
                "pixel_acc": found.pixel_accuracy,
                "miou": found.miou,
                "foreground_iou": found.foreground_iou,
                "map": found.mean_ap,
                "n": found.n,
            }
        )
    return pa.Table.from_pylist(rows, like.drop_columns("model").schema)


def shapes_world() -> None:
    """Exactness, named heads, retrieval, segmentation."""
    heading("Small shapes on four backgrounds")
    model, out = clip_model("shapes"), FOLDER / "shapes"
    store, pictures = shapes_seen(model, out)
    classes = read(model, prompted(SHAPES, "colour"), out / "classes.residuum")
    given = {"classes": classes, "label": "colour", "n_text": N_TEXT}
    heading("Heads by labels, and by one text for each word")
    show_explained(explained(store))
    words = [text for name in PROPERTIES for text in prompts(SHAPES, name).values()]
    asked(
        store,
        **given,
        texts=read(model, words, out / "words.residuum"),
        experiments=["effect", "textspan"],
    )
    show_texts(store)
    heading("By all that can be said of a picture")
    result = asked(
        store,
        **given,
        texts=read(model, texts(SHAPES), out / "texts.residuum"),
        properties=PROPERTIES,
        masks=str(out / "pictures" / "masks.npy"),
    )
    show_exactness(store)
    show_texts(store)
    show_effects(store)
    show_retrieval(store)
    rivals = gradient_rivals(model, pictures.pixels, pictures.masks, classes, result["segment"])
    show_segmentation(result, rivals)
    report(store, [result], out / "report.html")


def shapes_seen(model: Path, out: Path, n: int = N_SHAPES) -> tuple[Store, Pictures]:
    """The store of small shapes, whose backgrounds go with none, and the pictures."""
    pictures = shapes(n, seed=SEED, aligned=1 / len(SHAPES.shapes))
    # Of all tokens, for rollout alone; the rest needs the class token's.
    return captured(model, drawn(pictures, out), out / "run.residuum", "all"), pictures


def drawn(pictures: Pictures, out: Path) -> Path:
    """Pictures in a folder, which is made anew."""
    shutil.rmtree(out, ignore_errors=True)
    return write(pictures, out / "pictures")


def of_backgrounds(world: World) -> str:
    """Whether a text names a background, in SQL."""
    return " OR ".join(f"text ILIKE '%{name}%'" for name in world.backgrounds)


def of_shapes(world: World) -> str:
    """Whether it names a shape."""
    return " OR ".join(f"text ILIKE '%{name}%'" for name in world.shapes)


def by_first_text(world: World) -> str:
    """A query for heads whose first text names a background."""
    return f"""
        SELECT layer, head FROM clip_decomposition_textspan
        WHERE rank = 0 AND ({of_backgrounds(world)})
    """


def by_variance(world: World) -> str:
    """A query for heads that vary along texts of backgrounds, and little along those of shapes.

    Each text counts by what it explains of the variance of the image's vector.
    """
    return f"""
        SELECT layer, head
        FROM clip_decomposition_textspan JOIN clip_decomposition_effect USING (layer, head)
        GROUP BY ALL
        ORDER BY sum(var_explained * var_share * CASE
            WHEN {of_backgrounds(world)} THEN 1 WHEN {of_shapes(world)} THEN -1 ELSE 0
        END) DESC
        LIMIT {N_REMOVE}
    """


def repair_world() -> None:
    """What is gained by silence, for each seed, and what a fair model loses."""
    rows = []
    for name, recipe in RECIPES.items():
        if recipe.world == "shapes":
            continue
        folder = clip_model(name)
        heading(f"Faint shapes: {name}")
        passed = json.loads((folder / "training.json").read_text())["passed"]
        if not passed:
            print("It did not come through its gate: its numbers count for nothing.")
        result = repaired(folder, FOLDER / name)
        say_what_holds(result, biased=recipe.world == "biased")
        ways = {row["how"]: round(row["worst_group"], 3) for row in result["repair"].to_pylist()}
        rows.append({"model": name, "gate": passed, **ways})
    heading("All models")
    show_table("Worst group by what is ablated", pa.Table.from_pylist(rows))


def repaired(model: Path, out: Path, n: int = N_REPAIR) -> Result:
    """Ways to repair a model, judged on the half of the images that chose nothing."""
    pictures = repair(n, seed=SEED, aligned=0.5, alpha=FAINT)
    world = pictures.world
    store = captured(model, drawn(pictures, out), out / "run.residuum")
    # One text for each word: of all sentences nearly every head's first names a background.
    words = [text for name in REPAIR_WORDS for text in prompts(world, name).values()]
    given = {
        "texts": read(model, words, out / "texts.residuum"),
        "classes": read(model, prompted(world, "shape"), out / "classes.residuum"),
        "label": "shape",
        "n_text": N_TEXT,
    }
    ways = {"group": "background", "cues": tuple(prompts(world, "background").values())}
    asked(store, **given, experiments=["effect", "textspan"])  # what the queries read
    first = asked(store, **given, **ways, remove=by_first_text(world), experiments=["repair"])
    asked(store, **given, experiments=["effect", "textspan"], seed=1)  # the views show the last
    result = asked(
        store,
        **given,
        **ways,
        n_remove=N_REMOVE,
        greedy=N_REMOVE,
        remove=by_variance(world),
        properties=("shape", "background"),
    )
    show_texts(store)
    show(store, "Worst group and mean of groups, by what is ablated", SHOW_REPAIR)
    (named,) = first["repair"].filter(pc.field("how") == "sql").to_pylist()
    print(
        f"\nThe {named['n_head']} heads whose first text names a background: worst group "
        f"{named['worst_group']:.3f}, mean of groups {named['balanced']:.3f}"
    )
    report(store, [result], out / "report.html")
    return result


def say_what_holds(result: Result, *, biased: bool) -> None:
    """What was claimed of the heads that texts rank, and whether it is so."""
    rows = {row["how"]: row for row in result["repair"].to_pylist()}
    before, after, random = rows["none"], rows["ranked"], rows["random"]
    worst, balanced, drawn_at_random = (
        100 * (after["worst_group"] - before["worst_group"]),
        100 * (after["balanced"] - before["balanced"]),
        100 * (random["worst_group"] - before["worst_group"]),
    )
    claims = {
        f"random heads change the worst group by less than 3 points ({drawn_at_random:+.1f})": abs(
            drawn_at_random
        )
        < 3
    }
    if biased:
        claims[f"the worst group rises by 10 points or more ({worst:+.1f})"] = worst >= 10
        claims[f"the mean of groups does not fall ({balanced:+.1f})"] = balanced >= 0
    else:
        claims[f"the worst group moves by less than 3 points ({worst:+.1f})"] = abs(worst) < 3
        claims[f"the mean of groups too ({balanced:+.1f})"] = abs(balanced) < 3
    print()
    for claim, holds in claims.items():
        print(f"  {'holds' if holds else 'DOES NOT HOLD'}: {claim}")


def tiles() -> pa.Table:
    """Squares of scikit-learn's two sample photographs, and which of them each is of."""
    from sklearn.datasets import load_sample_images

    found = load_sample_images()
    rows = []
    for path, pixels in zip(found.filenames, found.images, strict=True):
        photo, _ = PHOTOS[Path(path).name]
        height, width = pixels.shape[:2]
        for down in range(0, height - TILE + 1, STEP):
            for across in range(0, width - TILE + 1, STEP):
                kept = io.BytesIO()
                square = pixels[down : down + TILE, across : across + TILE]
                PIL.Image.fromarray(square).save(kept, "PNG")
                rows.append(
                    {"image": kept.getvalue(), "photo": photo, "down": down, "across": across}
                )
    return pa.Table.from_pylist(rows)


def real(
    model: Path | str,
    images: Path | pa.Table,
    pool: Sequence[str],
    classes: pa.Table | None,
    out: Path,
) -> Result:
    """Any checkpoint, and any photographs."""
    heading(f"{model}, {images if isinstance(images, Path) else 'photographs'}")
    shutil.rmtree(out / "run.residuum", ignore_errors=True)

    def capture(sites: list[str], **more: Any) -> Store:  # noqa: ANN401 - as residuum.capture
        """Of class tokens."""
        path = out / "run.residuum"
        return residuum.capture(str(model), images, path, sites=sites, positions="first", **more)

    n_layer = len(capture(STREAM).weights["W_O"])
    store = capture(PATCHES, layers=range(max(0, n_layer - LAST), n_layer), append=True)
    print(store, flush=True)
    given: dict[str, Any] = {"texts": read(model, pool, out / "texts.residuum")}
    if classes is not None:
        given["classes"] = read(model, classes, out / "classes.residuum")
    if isinstance(images, Path):
        given["images"] = str(images)
    else:
        given["properties"] = ("photo",)
        if classes is not None and "class" in classes.column_names:
            given["label"] = "photo"
    result = asked(store, **given)
    show_exactness(store)
    show_texts(store)
    if "label" in given:
        show_effects(store)
    if "properties" in given:
        show_retrieval(store)
    report(store, [result], out / "report.html")
    return result


def main() -> None:
    """The small models, or a real one."""
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--model", help="a folder or a name on the hub; trains small ones without")
    options.add_argument("--images", type=Path, help="a folder of images")
    options.add_argument("--photos", action="store_true", help="scikit-learn's two, in tiles")
    options.add_argument("--texts", type=Path, help="a file of one text a line")
    options.add_argument("--classes", type=Path, help="a file of one prompt a line")
    options.add_argument(
        "--out", type=Path, default=FOLDER / "real", help="folder of stores and report"
    )
    chosen = options.parse_args()
    if chosen.images is not None and (chosen.photos or chosen.model is None):
        options.error("--images goes with --model, and not with --photos")
    if chosen.model is not None and chosen.images is None and not chosen.photos:
        options.error("--model goes with --images or --photos")
    if chosen.model is None and not chosen.photos:
        shapes_world()
        repair_world()
        return
    pool = general_descriptions() if chosen.model is not None else texts(SHAPES)
    if chosen.texts is not None:
        pool = chosen.texts.read_text(encoding="utf-8").splitlines()
    classes = None
    if chosen.classes is not None:
        classes = pa.table({"text": chosen.classes.read_text(encoding="utf-8").splitlines()})
    elif chosen.photos and chosen.model is not None:  # the small one does not know these words
        said = list(PHOTOS.values())
        classes = pa.table(
            {"text": [text for _, text in said], "class": [name for name, _ in said]}
        )
    model = clip_model("shapes") if chosen.model is None else chosen.model
    real(model, tiles() if chosen.photos else chosen.images, pool, classes, chosen.out)


if __name__ == "__main__":
    main()
