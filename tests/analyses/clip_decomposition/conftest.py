"""Stores of a tiny CLIP of random weights: of images, of texts, of classes."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import tiny_models
from analyses.clip_decomposition.written import (
    CLASSES,
    N_IMAGE,
    PLACES,
    PROMPTS,
    SAID,
    SIDE,
    SITES,
    TWINS,
    directions,
    png,
    written_out,
)

import residuum


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


@pytest.fixture
def as_files(columns, tmp_path):
    """The images as files."""
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    for number, image in enumerate(columns["image"]):
        (folder / ("below" if number % 2 else ".") / f"{number:02}.png").write_bytes(image)
    return folder
