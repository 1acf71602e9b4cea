"""The committed CLIPs are whole, read pictures and texts as in training, and know what they did."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

import residuum
from clip_towers import embed_texts, pixel_values
from clip_zero_shot import accuracies, by_group
from residuum.prompts.scenes import repair, shapes, texts, write

# Models this small gain nothing from threads, and lose much on a busy machine.
torch.set_num_threads(1)

HERE = Path(__file__).parent / "clip"
NAMES = ("repair_0_fair", "repair_0", "shapes")
N = 800


def opened(name):
    """The model and its tokenizer."""
    model = CLIPModel.from_pretrained(HERE / name).eval()
    return model, AutoTokenizer.from_pretrained(HERE / name)


def fresh(name, n=N):
    """Pictures as the record's were, and others."""
    if name == "shapes":
        return shapes(n, seed=5, aligned=0.25)
    return repair(n, seed=5, alpha=(0.0, 0.6))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_recorded_is_so(name):
    record = json.loads((HERE / name / "training.json").read_text())
    assert record["passed"]
    pictures = fresh(name)
    model, reader = opened(name)
    # Four standard errors of a share among so many, and for groups among a fourth of them.
    found, groups = accuracies(model, reader, pictures), by_group(model, reader, pictures)
    assert found == pytest.approx(record["zero_shot"], abs=0.07)
    assert groups == pytest.approx(record["groups"], abs=0.14)


def test_the_biased_one_leans_on_the_background():
    pictures = fresh("repair_0")
    fair, biased = (by_group(*opened(name), pictures) for name in ("repair_0_fair", "repair_0"))
    assert fair["worst"] > 0.8
    assert biased["aligned"] > 0.98
    assert 0.3 < biased["conflict"] < 0.6


def test_pictures_are_read_as_in_training():
    pixels = fresh("repair_0", 20).pixels
    processor = AutoImageProcessor.from_pretrained(HERE / "repair_0")
    read = processor([PIL.Image.fromarray(one) for one in pixels], return_tensors="pt")
    assert torch.equal(read["pixel_values"], pixel_values(pixels))


def test_texts_end_where_they_are_read():
    model, reader = opened("repair_0")
    assert reader.convert_ids_to_tokens(reader("a red cross")["input_ids"]) == [
        "<start>",
        "a",
        "red",
        "cross",
        "<end>",
    ]
    with torch.no_grad():
        alone = embed_texts(model, reader, ["a cross"])
        padded = embed_texts(model, reader, ["a cross", "a red cross on water"])[:1]
        other = embed_texts(model, reader, ["a circle"])
    torch.testing.assert_close(alone, padded, atol=1e-5, rtol=0)
    assert float((alone * other).sum()) < 0.9, "the end has seen the words before it"


@pytest.mark.parametrize("name", NAMES)
def test_both_towers_are_captured(name, tmp_path):
    pictures = fresh(name, 12)
    model, reader = opened(name)
    said = texts(pictures.world)[:9]
    path = write(pictures, tmp_path / "drawn")
    seen = residuum.capture(HERE / name, path, tmp_path / "seen", sites=["pooled"])
    read = residuum.capture(HERE / name, said, tmp_path / "read", sites=["pooled"])
    with torch.no_grad():
        tokens = reader(said, padding=True, return_tensors="pt")
        wanted_seen = model.get_image_features(pixel_values(pictures.pixels)).pooler_output
        wanted_read = model.get_text_features(**tokens).pooler_output
    np.testing.assert_allclose(seen["pooled"][:], wanted_seen, atol=1e-5)
    np.testing.assert_allclose(read["pooled"][:], wanted_read, atol=1e-5)
