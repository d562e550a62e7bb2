"""Run lengths without full bitmaps: the bytes of pycocotools, and set operations on masks."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.structures.run_lengths import (
    compute_area,
    compute_areas,
    compute_mask_iou,
    compute_pixel_range,
    compute_tight_boxes,
    decode_bitmap,
    decode_counts,
    decode_runs,
    encode_bitmap,
    encode_rectangle,
    have_sum,
    intersect_masks,
    unite_masks,
    vote_pixels,
)


def row(*columns: int, width: int = 6) -> np.ndarray:
    """One row of an image with object pixels in some columns."""
    bitmap = np.zeros((1, width), np.bool_)
    bitmap[0, list(columns)] = True
    return bitmap


@pytest.mark.parametrize("seed", range(5))
def test_bytes_equal_pycocotools_and_bitmaps_come_back(seed: int) -> None:
    """Random windows, among them full, empty, and of the height of the image."""
    rng = np.random.default_rng(seed)
    for _ in range(200):
        h, w = rng.integers(1, 30, 2)
        top, left, below, right = rng.integers(0, 4, 4) * rng.integers(0, 2, 4)
        window = rng.random((h, w)) < rng.choice([0, 0.1, 0.5, 0.9, 1])
        image = np.pad(window, ((top, below), (left, right)))
        size = (image.shape[0], image.shape[1])
        rle = encode_bitmap(window, size, left=int(left), top=int(top))
        assert rle == coco_mask.encode(np.asfortranarray(image.astype(np.uint8)))
        assert (decode_mask(dict(rle), *size) == image).all()
        assert compute_area(rle) == image.sum()
        bitmap, x, y = decode_bitmap(rle)
        assert bitmap.sum() == image.sum()
        assert (image[y : y + bitmap.shape[0], x : x + bitmap.shape[1]] == bitmap).all()
        if image.any():  # The box is tight.
            assert bitmap[0].any()
            assert bitmap[-1].any()
            assert bitmap[:, 0].any()
            assert bitmap[:, -1].any()


def test_runs_over_the_end_of_a_column_are_one_run() -> None:
    starts, ends = decode_runs(encode_bitmap(np.ones((3, 2), np.bool_), (3, 4), left=1))
    assert (starts.tolist(), ends.tolist()) == ([3], [9])


def test_rectangle_has_the_pixels_with_their_center_inside() -> None:
    """Centers 1.5 and 2.5 lie in 1.5..2.6; rows 0 and 1 in -3..2."""
    rle = encode_rectangle([1.5, -3.0, 2.6, 2.0], (4, 5))
    expected = np.zeros((4, 5), np.bool_)
    expected[:2, 1:3] = True
    assert rle == encode_bitmap(expected, (4, 5))
    assert compute_area(encode_rectangle([1.6, 0, 2.4, 4], (4, 5))) == 0
    assert compute_pixel_range(7.0, 9.0, 5) == range(5, 5)


def test_union_intersection_and_overlap_by_hand() -> None:
    a, b = (encode_bitmap(row(*columns), (1, 6)) for columns in ((0, 1, 2), (2, 3)))
    assert unite_masks([a, b]) == encode_bitmap(row(0, 1, 2, 3), (1, 6))
    assert intersect_masks([a, b]) == encode_bitmap(row(2), (1, 6))
    assert compute_mask_iou([a], [b, a]).tolist() == [[0.25, 1.0]]
    assert compute_mask_iou([], [a]).shape == (0, 1)


def test_many_masks_are_measured_at_once() -> None:
    """pycocotools counts the masks in 8 bits with NumPy 2."""
    masks = [encode_bitmap(row(1, 2, 4), (1, 6)), encode_bitmap(row(), (1, 6))] * 200
    assert compute_areas(masks).tolist() == [3, 0] * 200
    assert compute_tight_boxes(masks).tolist() == [[1, 0, 5, 1], [0, 0, 0, 0]] * 200
    assert compute_areas([]).shape == (0,)


def test_votes_by_hand() -> None:
    """Weights 3, 2 and 1: a pixel needs 3 of 6."""
    masks = [encode_bitmap(row(*c), (1, 6)) for c in ((0, 1), (1, 2, 3), (2, 4))]
    assert vote_pixels(masks, [3, 2, 1]) == encode_bitmap(row(0, 1, 2), (1, 6))
    # Without any weight all masks count the same, and two of three are needed.
    assert vote_pixels(masks, [0, 0, 0]) == encode_bitmap(row(1, 2), (1, 6))
    assert vote_pixels(masks[:1], [0.2]) == masks[0]
    # Half of the weight is enough.
    assert vote_pixels(masks[:2], [0.7, 0.7]) == encode_bitmap(row(0, 1, 2, 3), (1, 6))


def test_sum_of_counts_equals_that_of_the_decoder_also_for_damaged_counts() -> None:
    rng = np.random.default_rng(0)
    texts = ["", "0", "P", "OOO", "o" * 30, "oooooo0", "ooooooO", "\u00e9", "hb0", "PPPPPPP0"]
    for _ in range(60):
        bitmap = np.asfortranarray(rng.random((20, 30)) < 0.3, np.uint8)
        text = coco_mask.encode(bitmap)["counts"].decode()
        place, letter = int(rng.integers(len(text))), chr(rng.integers(40, 115))
        texts += [text, text[:place], text[:place] + letter + text[place + 1 :], text + letter]
    num_sums = 0
    for text in texts:
        for counts in (text, text.encode()):
            runs = decode_counts(counts)
            total = -1 if runs is None else sum(runs)
            for candidate in (600, 0, 1, total - 1, total, total + 1, total % 2**32):
                assert have_sum(counts, candidate) == (candidate == total != -1), (text, candidate)
            num_sums += total >= 0
    assert 120 < num_sums < 2 * len(texts)


def test_counts_beyond_64_bits_are_malformed() -> None:
    """Their decoding would take a time that grows with the square of their length."""
    assert decode_counts("o" * 12 + "0") == [2**60 - 1]
    for text in ("o" * 13 + "0", "o" * 5_000_000):
        assert decode_counts(text) is None
        assert not have_sum(text, 1200)
