"""Outlines of masks: the filled path covers the mask, and its length is bounded."""

from __future__ import annotations

import re

import cv2
import numpy as np
import pytest

from resnet_tasks.report.mask_outlines import trace_mask
from resnet_tasks.structures.run_lengths import encode_bitmap

SIZE = (60, 80)


def fill(path: str, size: tuple[int, int], scale: int = 8) -> np.ndarray:
    """Rasterize a path by the even-odd rule: the share of each pixel inside it."""
    polygons = [
        np.asarray([pair.split(",") for pair in part.split()], np.float64) * scale
        for part in re.findall(r"M([^Z]+)Z", path)
    ]
    canvas = np.zeros((size[0] * scale, size[1] * scale), np.uint8)
    cv2.fillPoly(canvas, [np.round(p - 0.5).astype(np.int32) for p in polygons], 1)
    return canvas.reshape(size[0], scale, size[1], scale).mean(axis=(1, 3))


def ellipse(radius: float = 20) -> np.ndarray:
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    return ((y - 28) / radius) ** 2 + ((x - 40) / (1.4 * radius)) ** 2 < 1


@pytest.mark.parametrize("radius", [2, 8, 20])
def test_path_covers_the_pixels_of_the_mask(radius: float) -> None:
    mask = ellipse(radius)
    covered = fill(trace_mask(encode_bitmap(mask, SIZE)), SIZE) > 0.5
    assert (covered != mask).sum() <= 0.06 * mask.sum() + 2


def test_holes_and_parts_are_kept() -> None:
    mask = ellipse()
    mask[20:30, 30:45] = False
    mask[2:8, 2:12] = True
    covered = fill(trace_mask(encode_bitmap(mask, SIZE)), SIZE) > 0.5
    assert not covered[24, 37]
    assert covered[5, 6]
    assert (covered != mask).mean() < 0.01


def test_masks_without_pixels_have_no_path() -> None:
    assert trace_mask(encode_bitmap(np.zeros((0, 0), np.bool_), SIZE)) == ""
    assert trace_mask(encode_bitmap(np.ones((1, 1), np.bool_), SIZE, left=5, top=7)) != ""


def test_length_does_not_grow_with_noise() -> None:
    noise = np.random.default_rng(0).random((1500, 1500)) < 0.5
    path = trace_mask(encode_bitmap(noise, (1500, 1500)))
    assert 0 < len(path) <= 20_000
