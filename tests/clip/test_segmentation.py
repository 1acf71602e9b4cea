"""Segmentation scores beside pixels counted one by one; pictures beside torch; masks beside PIL."""

import numpy as np
import PIL.Image
import pytest
import torch
import transformers as tf
from sklearn.metrics import average_precision_score

from residuum.clip.masks import aligned, cropped
from residuum.clip.segmentation import Tally, foreground, scores, segmentation, upsampled
from residuum.errors import ArgumentError


@pytest.mark.parametrize("grid", [(3, 5), (1, 4), (7, 1), (1, 1), (14, 14)])
@pytest.mark.parametrize("size", [(12, 20), (13, 7), (1, 1), (56, 30), (3, 5)])
def test_pictures_are_those_of_torch(grid, size):
    maps = np.random.default_rng(0).normal(size=(4, grid[0] * grid[1])).astype(np.float32)
    tensor = torch.from_numpy(maps).view(4, 1, *grid)
    want = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear", align_corners=False)
    got = upsampled(maps, grid, size)
    assert got.dtype == np.float32
    # torch has positions in float32: at 14 they are off by 1e-6, and maps climb by 4 a patch.
    np.testing.assert_allclose(got, want[:, 0].numpy(), rtol=0, atol=1e-5)


def test_rows_of_patches_are_rows_of_pixels():
    picture = upsampled([[0, 1, 2, 3, 4, 5]], grid=(2, 3), size=(2, 3))
    np.testing.assert_array_equal(picture, [[[0, 1, 2], [3, 4, 5]]])
    assert upsampled(np.zeros((0, 6)), (2, 3), (4, 6)).shape == (0, 4, 6)


def test_scores_are_cut_and_spread_image_by_image():
    maps = np.array([[-4, -1, 1, 3], [2, 2, 2, 2], [-1, -2, -3, -4], [10, 20, 15, 10]])
    want = [[0, 0, 1 / 3, 1], [0] * 4, [0] * 4, [0, 1, 0.5, 0]]
    np.testing.assert_allclose(scores(maps), want, rtol=1e-6)
    pictures = scores(maps.reshape(4, 2, 2))
    np.testing.assert_array_equal(pictures.reshape(4, 4), scores(maps))
    assert pictures.dtype == np.float32


def test_foreground_is_above_the_images_own_mean():
    found = foreground([[0, 0, 0.3, 1], [0.7, 0.7, 0.7, 0.7], [0, 0.5, 1, 0.5]])
    want = [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 0]]
    np.testing.assert_array_equal(found, np.array(want, bool))


def test_equal_scores_are_never_above_their_mean():
    for value in np.random.default_rng(0).random(50):
        assert not foreground(np.full((1, 37, 41), value)).any()


def by_pixel(score, truth):
    """Accuracy, both IoUs and AP by the definitions, one pixel after the other."""
    right = total = 0
    inter, union, precisions = [0, 0], [0, 0], []
    for one, mask in zip(score, truth, strict=True):
        mean = sum(float(s) for s in one.ravel()) / one.size
        for s, t in zip(one.ravel(), mask.ravel(), strict=True):
            found = float(s) > mean
            right += found == t
            total += 1
            for number, (a, b) in enumerate([(found, t), (not found, not t)]):
                inter[number] += bool(a and b)
                union[number] += bool(a or b)
        of_classes = []
        for values, wanted in ((one.ravel(), mask.ravel()), (1 - one.ravel(), ~mask.ravel())):
            if wanted.any():
                of_classes.append(average_precision_score(wanted, values.astype(np.float64)))
        precisions.append(np.mean(of_classes))
    ious = [i / u for i, u in zip(inter, union, strict=True) if u]
    return right / total, np.mean(ious), inter[0] / union[0], np.mean(precisions)


@pytest.mark.parametrize("ties", [False, True])
def test_against_pixels_one_by_one(ties):
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.random((3, 5, 7)) < rng.uniform(0.05, 0.9)
        # Multiples of 1/8 are exact in float32, as is 1 less them, so that ties stay ties.
        score = rng.integers(0, 9, (3, 5, 7)) / 8 if ties else rng.random((3, 5, 7), np.float32)
        got = segmentation(score, truth)
        want = by_pixel(score, truth)
        made = got.pixel_accuracy, got.miou, got.foreground_iou, got.mean_ap
        np.testing.assert_allclose(made, want, rtol=1e-12)
        assert got.n == 3


@pytest.mark.parametrize("ties", [False, True])
def test_pooled_precision_ranks_both_classes_together(ties):
    rng = np.random.default_rng(1)
    truth = rng.random((6, 5, 7)) < 0.3
    truth[0], truth[1] = False, True
    score = rng.integers(0, 9, (6, 5, 7)) / 8 if ties else rng.random((6, 5, 7), np.float32)
    want = [
        average_precision_score(
            np.concatenate([mask.ravel(), ~mask.ravel()]),
            np.concatenate([one.ravel(), 1 - one.ravel().astype(np.float64)]),
        )
        for one, mask in zip(score, truth, strict=True)
    ]
    got = segmentation(score, truth, pooled=True)
    np.testing.assert_allclose(got.mean_ap, np.mean(want), rtol=1e-12)
    plain = segmentation(score, truth)
    assert (got.miou, got.pixel_accuracy) == (plain.miou, plain.pixel_accuracy)


def test_a_perfect_map_is_perfect():
    truth = np.random.default_rng(0).random((4, 6, 5)) < 0.3
    for pooled in (False, True):
        got = segmentation(truth.astype(float), truth, pooled=pooled)
        assert (got.pixel_accuracy, got.miou, got.foreground_iou, got.mean_ap) == (1, 1, 1, 1)


def test_images_without_foreground_or_without_background():
    score = np.random.default_rng(0).random((2, 4, 4))
    truth = np.stack([np.zeros((4, 4), bool), np.ones((4, 4), bool)])
    got = segmentation(score, truth)
    assert got.mean_ap == 1, "the one class that is there has every pixel"
    found = foreground(score)
    assert got.pixel_accuracy == pytest.approx((np.sum(~found[0]) + np.sum(found[1])) / 32)
    nothing = segmentation(np.zeros((1, 4, 4)), truth[:1])
    assert np.isnan(nothing.foreground_iou)
    assert (nothing.miou, nothing.pixel_accuracy) == (1, 1)


FLAT = np.zeros((2, 3, 3))
MASK = np.zeros((2, 3, 3), bool)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: upsampled(FLAT, (3, 3), (6, 6)), r"`maps` is \[2, 3, 3\]"),
        (lambda: upsampled(np.zeros((2, 10)), (3, 3), (6, 6)), "is the class token still there"),
        (lambda: upsampled(np.zeros((2, 8)), (3, 3), (6, 6)), "3 x 3 has 9"),
        (lambda: upsampled(np.zeros((2, 9)), (3, 3), (0, 6)), "`size` is two whole numbers"),
        (lambda: upsampled(np.zeros((2, 9)), (3, 3, 1), (6, 6)), "`grid` is two whole numbers"),
        (lambda: upsampled(np.full((2, 9), np.nan), (3, 3), (6, 6)), "not finite"),
        (lambda: scores(np.full((2, 9), 1e300)), "not finite in float32"),
        (lambda: scores(np.zeros(9)), r"`maps` is \[9\]"),
        (lambda: scores(np.zeros((0, 9))), "one image at least"),
        (lambda: scores("map"), "real numbers"),
        (lambda: foreground(np.zeros(9)), r"`scores` is \[9\]"),
        (lambda: segmentation(FLAT, MASK[:1]), r"`truth` is \[1, 3, 3\], but scores"),
        (lambda: segmentation(FLAT[0], MASK[0]), r"`scores` is \[3, 3\]"),
        (lambda: segmentation(FLAT[:0], MASK[:0]), "one image at least"),
        (lambda: segmentation(FLAT, MASK.astype(int)), "must be bool: write mask > 0"),
        (lambda: segmentation(FLAT - 1, MASK), "must be in 0..1"),
        (lambda: segmentation(FLAT + 2, MASK), "must be in 0..1"),
        (lambda: cropped(FLAT, 4), r"a mask is \[height, width\]"),
        (lambda: cropped(np.zeros((0, 3)), 4), r"not \[0, 3\]"),
        (lambda: cropped(FLAT[0], 0), "`size` is .height, width. in whole pixels"),
        (lambda: cropped(FLAT[0], (4, 0)), "`size` is .height, width. in whole pixels"),
        (lambda: cropped(FLAT[0], 4, (0, 4)), "`crop` is"),
        (lambda: cropped(FLAT[0], 4, {"height": 4, "width": 4}), "`crop` is"),
        (lambda: aligned(MASK, 3, image_sizes=[[5, 0.5]] * 2), "`image_sizes` is"),
        (lambda: aligned(MASK, 4), r"mask 0 is \[3, 3\].* \[4, 4\]: name image_sizes"),
        (lambda: aligned(MASK, 4, image_sizes=[[5, 3]] * 2), r"its image is \[5, 3\]"),
        (lambda: aligned(MASK, 3, image_sizes=[[5, 3]]), r"image_sizes are \[2, 2\]"),
        (lambda: aligned(FLAT, 3), "mask 0 is float64"),
    ],
)
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ArgumentError, match=words):
        call()


def processed(mask, size, crop, resample):
    """What a processor makes of a picture of a mask, 0 to 255 `[height, width]`."""
    picture = PIL.Image.fromarray(np.repeat(mask[:, :, None] * np.uint8(255), 3, 2))
    kept = {"height": crop[0], "width": crop[1]}
    processor = tf.CLIPImageProcessorPil(
        size={"shortest_edge": size}, crop_size=kept, resample=resample, do_normalize=False
    )
    pixels = processor(picture, return_tensors="np").pixel_values[0]
    return np.round(255 * pixels[0])


def disc(height, width):
    """An ellipse off the centre, so that a mask that is mirrored or moved cannot pass."""
    y, x = np.ogrid[:height, :width]
    return ((y / height - 0.4) / 0.3) ** 2 + ((x / width - 0.6) / 0.25) ** 2 < 1


SHAPES = [(40, 61), (61, 40), (31, 31), (20, 97), (12, 9), (224, 224), (37, 50)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("size", "crop"),
    [(24, (24, 24)), (28, (24, 24)), (25, (21, 18)), (16, (24, 24)), (31, (9, 40))],
)
def test_masks_are_cropped_as_images_are(shape, size, crop):
    mask = np.random.default_rng(0).random(shape) < 0.5
    want = processed(mask, size, crop, PIL.Image.Resampling.NEAREST)
    got = cropped(mask, size, crop)
    assert (got.shape, got.dtype) == (crop, bool)
    np.testing.assert_array_equal(255 * got, want)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_lies_on_what_the_model_sees(shape):
    mask = disc(*shape)
    seen = processed(mask, 56, (56, 56), PIL.Image.Resampling.BICUBIC) > 127
    got = cropped(mask, 56)
    assert np.mean(got != seen) < 0.02, "only pixels of the edge differ"
    if shape[0] != shape[1]:
        stretched = cropped(mask, (56, 56))
        assert np.mean(stretched != seen) > 0.03, "a mask that was stretched lies elsewhere"


def test_classes_of_a_mask_are_kept():
    mask = np.arange(12, dtype=np.int16).reshape(3, 4)
    np.testing.assert_array_equal(cropped(mask, 3), mask[:, :3])
    assert cropped(mask, 3).dtype == np.int16
    np.testing.assert_array_equal(cropped(mask, (6, 8)), mask.repeat(2, 0).repeat(2, 1))


def test_masks_are_brought_into_the_models_frame():
    first, second = disc(40, 61), disc(56, 56)
    got = aligned([first, second], 56, image_sizes=[(40, 61), (80, 90)])
    np.testing.assert_array_equal(got[0], cropped(first, 56))
    np.testing.assert_array_equal(got[1], second)
    np.testing.assert_array_equal(aligned([second], 56), second[None])


def test_images_that_come_in_blocks_are_judged_as_one_set():
    rng = np.random.default_rng(3)
    found, truth = rng.random((7, 5, 6), np.float32), rng.random((7, 5, 6)) < 0.4
    tally = Tally()
    for place in (slice(0, 1), slice(1, 5), slice(5, 7)):
        tally.add(found[place], truth[place])
    assert tally.result() == segmentation(found, truth)
    with pytest.raises(ArgumentError, match="there are no images"):
        Tally().result()
