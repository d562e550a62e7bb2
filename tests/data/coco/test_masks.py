"""Masks in windows have exactly the pixels of the mask of the full image."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from resnet_tasks.data.coco.masks import (
    compute_bounding_box,
    decode_mask,
    decode_mask_in_tile,
    decode_mask_window,
    is_rle,
    measure_rles,
)
from resnet_tasks.data.images.windows import Tile
from resnet_tasks.errors import DataError


def random_segmentations(seed: int, height: int, width: int) -> list[Any]:
    """Return polygons with rounded coordinates, compressed and uncompressed run lengths."""
    rng = np.random.default_rng(seed)
    polygons = [
        rng.uniform(-15, width + 15, 2 * int(rng.integers(3, 9))).round(seed % 3).tolist()
        for _ in range(int(rng.integers(1, 4)))
    ]
    pixels = rng.random((height, width)) < rng.choice([0.01, 0.5, 0.99])
    compressed = coco_mask.encode(np.asfortranarray(pixels.astype(np.uint8)))
    runs = rng.integers(0, 60, 600)  # runs of length 0 included
    runs = runs[np.cumsum(runs) < height * width].tolist()
    counts = [*runs, height * width - sum(runs)]
    return [polygons, compressed, {"size": [height, width], "counts": counts}]


@pytest.mark.parametrize("seed", range(60))
def test_window_equals_the_full_mask(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(5, 90, 2).tolist()
    for segmentation in random_segmentations(seed, height, width):
        full = decode_mask(segmentation, height, width)
        rows, columns = np.flatnonzero(full.any(1)), np.flatnonzero(full.any(0))
        window, (x, y) = decode_mask_window(segmentation, height, width)
        assert window.dtype == np.bool_
        if len(rows):
            assert (x, y) == (columns[0], rows[0])
            assert np.array_equal(window, full[y : rows[-1] + 1, x : columns[-1] + 1])
        else:
            assert window.shape == (0, 0)
        top, left = int(rng.integers(height)), int(rng.integers(width))
        rows, columns = int(rng.integers(height - top)) + 1, int(rng.integers(width - left)) + 1
        tile = Tile(top, left, rows, columns)
        part = decode_mask_in_tile(segmentation, height, width, tile)
        assert np.array_equal(part, full[tile.rows, tile.columns])
        cut, (x, y) = decode_mask_window(segmentation, height, width, tile)
        assert cut.sum() == part.sum()
        assert np.array_equal(cut, full[y : y + cut.shape[0], x : x + cut.shape[1]])


def test_window_by_hand() -> None:
    window, corner = decode_mask_window([[2, 1, 5, 1, 5, 3, 2, 3]], 6, 8)
    assert corner == (2, 1)
    assert window.tolist() == [[True] * 3] * 2
    # Column-major runs: rows 4 and 5 of column 0, row 0 of column 1.
    window, corner = decode_mask_window({"size": [6, 8], "counts": [4, 3, 41]}, 6, 8)
    assert corner == (0, 0)
    assert window.tolist() == [[False, True], *[[False] * 2] * 3, *[[True, False]] * 2]


def test_object_outside_the_image_or_tile_has_no_pixels() -> None:
    outside = [[20, 20, 25, 20, 25, 25, 20, 25]]
    assert decode_mask_window(outside, 10, 10)[0].shape == (0, 0)
    square = [[1, 1, 3, 1, 3, 3, 1, 3]]
    assert decode_mask_window(square, 10, 10, Tile(5, 5, 5, 5))[0].shape == (0, 0)
    assert not decode_mask_in_tile(square, 10, 10, Tile(5, 5, 5, 5)).any()


def test_invalid_segmentations_are_rejected() -> None:
    with pytest.raises(DataError, match="contains no polygon"):
        decode_mask_window([[1, 2]], 10, 10)
    with pytest.raises(DataError, match="does not fit its image of height 10 and width 11"):
        decode_mask_window({"size": [10, 10], "counts": [100]}, 10, 11)


def test_memory_of_a_small_object_on_a_large_image() -> None:
    """The full mask has 1e10 pixels."""
    square = [[50_000.0, 70_000, 50_010, 70_000, 50_010, 70_010, 50_000, 70_010]]
    tracemalloc.start()
    try:
        window, corner = decode_mask_window(square, 100_000, 100_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert corner == (50_000, 70_000)
    assert window.shape == (10, 10)
    assert window.all()
    assert peak < 1e6


@pytest.mark.parametrize("seed", range(20))
def test_large_images_with_a_tile(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole coordinates, which a shift does not round."""
    monkeypatch.setattr("resnet_tasks.data.coco.masks.MAX_ENCODED_PIXELS", 0)
    rng = np.random.default_rng(seed)
    for _ in range(20):
        height, width = rng.integers(5, 90, 2).tolist()
        polygons = [rng.integers(-15, 105, 10).tolist() for _ in range(int(rng.integers(1, 4)))]
        full = decode_mask(polygons, height, width)
        top, left = int(rng.integers(height)), int(rng.integers(width))
        rows, columns = int(rng.integers(height - top)) + 1, int(rng.integers(width - left)) + 1
        tile = Tile(top, left, rows, columns)
        part = decode_mask_in_tile(polygons, height, width, tile)
        assert np.array_equal(part, full[tile.rows, tile.columns])


@pytest.mark.parametrize(
    "polygon",
    [[36.9, 23.5, 21.7, 37.2, 20.4, 30.8], [20.9, 21.6, 27.5, 36.6, 28.0, 35.7]],
)
def test_coordinates_are_rounded_as_in_the_full_image(polygon: list[float]) -> None:
    """A shift by whole pixels before COCO rounds to fifths of a pixel moved 1 to 3 pixels."""
    full, tile = decode_mask([polygon], 50, 50), Tile(20, 20, 25, 25)
    part = decode_mask_in_tile([polygon], 50, 50, tile)
    assert np.array_equal(part, full[tile.rows, tile.columns])


def test_run_lengths_beyond_32_bits_are_rejected() -> None:
    side = 2**17
    for counts in ([0, side**2], encode_counts(0, side**2)):
        rle = {"size": [side, side], "counts": counts}
        assert not is_rle(rle, side, side)
        with pytest.raises(DataError, match="does not fit its image"):
            compute_bounding_box(rle, side, side)
    side = 2**15
    rle = {"size": [side, side], "counts": [0, side**2]}
    assert compute_bounding_box(rle, side, side) == [0, 0, side, side]
    sizes = np.array([[2**17, 2**17]])
    text = {"size": [2**17, 2**17], "counts": encode_counts(0, 2**24, 2**24) + "0" * 1022}
    assert measure_rles([text], sizes, np.zeros(1, np.int64)) is None


def encode_counts(*counts: int) -> str:
    """Compressed run lengths of up to three runs."""
    groups = []
    for count in counts:
        remaining = count
        while remaining >= 16:
            groups.append(chr(48 + (remaining & 31 | 32)))
            remaining >>= 5
        groups.append(chr(48 + remaining))
    return "".join(groups)
