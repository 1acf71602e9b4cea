"""Made pictures: what labels, captions and masks say is what is drawn."""

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from residuum.errors import ArgumentError
from residuum.prompts.scenes import (
    REPAIR,
    SHAPES,
    SIDE,
    Pictures,
    repair,
    shapes,
    texts,
    words,
    write,
)
from residuum.prompts.scenes.textures import textured

N = 600
WORLDS = pytest.mark.parametrize("draw", [shapes, repair])


@WORLDS
def test_shapes_and_dtypes(draw):
    pictures = draw(7, seed=0)
    assert len(pictures) == 7
    assert pictures.pixels.shape == (7, SIDE, SIDE, 3)
    assert pictures.pixels.dtype == np.uint8
    assert pictures.masks.shape == (7, SIDE, SIDE)
    assert pictures.masks.dtype == bool
    assert all(column.shape == (7,) for column in pictures.labels.values())


@WORLDS
def test_a_seed_says_all(draw):
    first, again, other = draw(20, seed=[3, 1]), draw(20, seed=[3, 1]), draw(20, seed=[3, 2])
    np.testing.assert_array_equal(first.pixels, again.pixels)
    np.testing.assert_array_equal(first.masks, again.masks)
    assert first.captions == again.captions
    for name, column in first.labels.items():
        np.testing.assert_array_equal(column, again.labels[name])
    assert (first.pixels != other.pixels).any(axis=(1, 2, 3)).all()


def test_labels_are_the_worlds_words():
    small, faint = shapes(N, seed=0).labels, repair(N, seed=0).labels
    assert list(small) == ["shape", "colour", "background", "position"]
    assert list(faint) == ["shape", "colour", "background", "alpha"]
    assert set(small["shape"]) == set(SHAPES.shapes)
    assert set(small["colour"]) == set(SHAPES.colours)
    assert set(small["background"]) == set(SHAPES.backgrounds)
    assert set(small["position"]) == set(SHAPES.positions)
    assert set(faint["shape"]) == {"circle", "cross"}
    assert set(faint["background"]) == {"grass", "water"}
    assert set(faint["colour"]) == set(REPAIR.colours)


@WORLDS
@pytest.mark.parametrize("aligned", [0.0, 0.25, 0.5, 0.98, 1.0])
def test_as_many_are_aligned_as_asked(draw, aligned):
    pictures = draw(2000, seed=1, aligned=aligned)
    # Four standard errors of a share among 2000.
    assert abs(pictures.aligned.mean() - aligned) <= 4 * (aligned * (1 - aligned) / 2000) ** 0.5
    favourite = pictures.world.favourite
    drawn = zip(pictures.labels["shape"], pictures.labels["background"], strict=True)
    assert pictures.aligned.tolist() == [favourite[str(shape)] == there for shape, there in drawn]


@pytest.mark.parametrize(("draw", "aligned"), [(shapes, 0.25), (repair, 0.5)])
def test_all_groups_are_equal_where_nothing_goes_together(draw, aligned):
    pictures = draw(4000, seed=2, aligned=aligned)
    kinds = len(pictures.world.shapes)
    pairs = np.char.add(pictures.labels["shape"], pictures.labels["background"])
    _, counts = np.unique(pairs, return_counts=True)
    assert len(counts) == kinds**2
    assert abs(counts * kinds**2 / 4000 - 1).max() < 0.25


@WORLDS
def test_colour_goes_with_nothing(draw):
    pictures = draw(4000, seed=3, aligned=1.0)
    for shape in pictures.world.shapes:
        of = pictures.labels["colour"][pictures.labels["shape"] == shape]
        _, counts = np.unique(of, return_counts=True)
        assert len(counts) == len(pictures.world.colours)
        assert abs(counts / counts.mean() - 1).max() < 0.35


def test_alpha_is_in_its_interval():
    alpha = repair(N, seed=0, alpha=(0.2, 0.6)).labels["alpha"]
    assert 0.2 <= alpha.min() < 0.22
    assert 0.58 < alpha.max() <= 0.6
    assert repair(3, seed=0, alpha=(0.4, 0.4)).labels["alpha"].tolist() == [0.4] * 3


@pytest.mark.parametrize(("draw", "share"), [(shapes, 0.077), (repair, 0.2)])
def test_shapes_cover_as_much_as_they_should_and_all_alike(draw, share):
    pictures = draw(2000, seed=0)
    for shape in pictures.world.shapes:
        of = pictures.labels["shape"] == shape
        assert pictures.masks[of].mean() == pytest.approx(share, rel=0.04)


@pytest.mark.parametrize(("draw", "settings"), [(shapes, {}), (repair, {"alpha": (1, 1)})])
def test_masks_are_the_pixels_of_the_shape(draw, settings):
    pictures = draw(N, seed=0, **settings)
    for colour, rgb in pictures.world.colours.items():
        of = pictures.labels["colour"] == colour
        inside, seen = pictures.masks[of], pictures.pixels[of] / 255
        # Noise has a standard deviation of 0.06; what is clipped at 0 and 1 is moved a little.
        np.testing.assert_allclose(seen[inside].mean(0), rgb, atol=0.03)
        assert abs(seen[inside] - np.array(rgb)).max() < 0.4


@WORLDS
def test_all_else_is_background(draw):
    pictures = draw(N, seed=0)
    for name in pictures.world.backgrounds:
        of = pictures.labels["background"] == name
        outside = pictures.pixels[of][~pictures.masks[of]] / 255
        plain = textured(np.array([name] * 500), np.random.default_rng(0)).reshape(-1, 3)
        np.testing.assert_allclose(outside.mean(0), plain.mean(0), atol=0.03)


def test_a_shape_with_no_opacity_leaves_no_trace():
    pictures = repair(N, seed=0, alpha=(0, 0))
    of = pictures.labels["background"] == "water"
    inside = pictures.pixels[of][pictures.masks[of]] / 255
    outside = pictures.pixels[of][~pictures.masks[of]] / 255
    np.testing.assert_allclose(inside.mean(0), outside.mean(0), atol=0.02)


def test_shapes_stand_in_their_quarter():
    pictures = shapes(N, seed=0)
    rows, columns = np.indices((SIDE, SIDE))
    half = (SIDE - 1) / 2
    for mask, position in zip(pictures.masks, pictures.labels["position"], strict=True):
        down = "bottom" if rows[mask].mean() > half else "top"
        across = "right" if columns[mask].mean() > half else "left"
        assert position == f"{down} {across}"


def said(caption, kinds):
    """Which of some words a caption says."""
    return [kind for kind in kinds if f" {kind} " in f" {caption} "]


@WORLDS
def test_captions_name_what_is_there(draw):
    pictures = draw(N, seed=0)
    world, labels = pictures.world, pictures.labels
    kinds = {
        "shape": world.shapes,
        "colour": world.colours,
        "background": world.backgrounds,
        "position": world.positions,
    }
    for i, caption in enumerate(pictures.captions):
        for name, of in kinds.items():
            assert said(caption, of) in ([], [labels[name][i]] if name in labels else [])
    assert set(pictures.captions) <= {"a thing", *texts(world)}


def test_captions_mention_as_often_as_they_should():
    captions = repair(4000, seed=0, say_background=0.2).captions
    shares = {
        kind: np.mean([bool(said(caption, of)) for caption in captions])
        for kind, of in (
            ("shape", REPAIR.shapes),
            ("colour", REPAIR.colours),
            ("background", REPAIR.backgrounds),
        )
    }
    assert shares == pytest.approx({"shape": 0.9, "colour": 0.3, "background": 0.2}, abs=0.03)


def test_texts_are_all_that_can_be_said():
    assert len(texts(SHAPES)) == len(set(texts(SHAPES))) == 5 * 7 * 5 * 5 - 1
    assert len(texts(REPAIR)) == 3 * 4 * 3 - 1
    assert "a red circle on sand at the top left" in texts(SHAPES)
    assert {"a circle", "a cross", "a thing on water"} <= set(texts(REPAIR))
    assert "a thing" not in texts(SHAPES)
    assert set(words(REPAIR)) == {word for text in texts(REPAIR) for word in text.split()}


@pytest.mark.parametrize(
    ("draw", "settings", "message"),
    [
        (shapes, {"n": 0}, "n must be at least 1 picture, not 0"),
        (repair, {"n": -2}, "n must be at least 1 picture, not -2"),
        (shapes, {"aligned": 1.2}, "aligned must be between 0 and 1, not 1.2"),
        (repair, {"aligned": float("nan")}, "aligned must be between 0 and 1, not nan"),
        (repair, {"say_background": -0.1}, "say_background must be between 0 and 1, not -0.1"),
        (repair, {"alpha": (0.6, 0.2)}, r"alpha must be \(least, greatest\)"),
        (repair, {"alpha": (0.1, 1.1)}, r"alpha must be \(least, greatest\)"),
        (repair, {"alpha": (0.1, 0.5, 1.0)}, r"alpha must be \(least, greatest\)"),
        (shapes, {"seed": -1}, "a seed is a whole number from 0"),
        (shapes, {"seed": "one"}, "a seed is a whole number from 0"),
    ],
)
def test_bad_arguments_are_named(draw, settings, message):
    with pytest.raises(ArgumentError, match=message):
        draw(**{"n": 3, "seed": 0, **settings})


def test_parts_of_another_set_are_refused():
    one, two = repair(3, seed=0), repair(4, seed=0)
    with pytest.raises(ArgumentError, match=r"`masks` is \[4, 24, 24\], but 3 captions ask for"):
        Pictures(REPAIR, one.pixels, two.masks, one.captions, one.labels)


def test_take_keeps_what_belongs_together():
    pictures = repair(9, seed=0)
    chosen = pictures.take(np.array([5, 2]))
    np.testing.assert_array_equal(chosen.pixels, pictures.pixels[[5, 2]])
    assert chosen.captions == (pictures.captions[5], pictures.captions[2])
    assert pictures.take(pictures.aligned).aligned.all()


@WORLDS
def test_files_hold_what_was_drawn(draw, tmp_path):
    pictures = draw(5, seed=0)
    path = write(pictures, tmp_path / "drawn")
    assert path == tmp_path / "drawn" / "images.parquet"
    table = pq.read_table(path)
    assert table.column_names == ["image", "caption", *pictures.labels]
    assert table.column("caption").to_pylist() == list(pictures.captions)
    for name, column in pictures.labels.items():
        assert table.column(name).to_pylist() == column.tolist()
    for row, pixels in zip(table.column("image").to_pylist(), pictures.pixels, strict=True):
        file = path.parent / row["path"]
        assert file.read_bytes() == row["bytes"]
        with PIL.Image.open(file) as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)
    np.testing.assert_array_equal(np.load(path.parent / "masks.npy"), pictures.masks)


def test_other_pictures_are_not_mixed_in(tmp_path):
    write(repair(3, seed=0), tmp_path)
    with pytest.raises(ArgumentError, match="holds pictures already"):
        write(repair(2, seed=1), tmp_path)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP for pictures of this size, with random weights."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    small = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 2}
    vision = {**small, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8}
    text = {**small, "num_attention_heads": 2, "vocab_size": 20}
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)).save_pretrained(
        folder
    )
    square = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size=square, crop_size=square).save_pretrained(folder)
    return folder


def test_files_can_be_captured(clip_folder, tmp_path):
    import residuum

    pictures = repair(4, seed=0)
    path = write(pictures, tmp_path / "drawn")
    labelled = residuum.capture(clip_folder, path, tmp_path / "labelled", sites=["pooled"])
    assert labelled.n_example == 4
    rows = labelled.examples.to_table().sort_by("example")
    assert rows.column("caption").to_pylist() == list(pictures.captions)
    for name, column in pictures.labels.items():
        assert rows.column(name).to_pylist() == column.tolist()
    bare = residuum.capture(clip_folder, path.parent, tmp_path / "bare", sites=["pooled"])
    assert bare.n_example == 4, "the folder holds pictures alone"
    np.testing.assert_array_equal(bare["pooled"][:], labelled["pooled"][:])
