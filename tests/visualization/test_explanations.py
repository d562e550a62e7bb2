"""Drawings of explanations: caption, legend and color scale, at readable sizes."""

from __future__ import annotations

import numpy as np
import pytest

from resnet_tasks.visualization.explanations import (
    MIN_WIDTH,
    ExplanationCaption,
    draw_explanation,
    draw_heat,
)

CAPTION = ExplanationCaption("WBC", (1, 2, 255), ("score 0.93", "head cells"))


def test_heat_leaves_cold_places_as_they_are() -> None:
    image = np.full((40, 60, 3), 90, np.uint8)
    heat = np.zeros((40, 60), np.float32)
    heat[10:20, 10:20] = 1.0
    drawn = draw_heat(image, heat, (30.0, 5.0, 50.0, 35.0), (1, 2, 255))
    assert (drawn[0, 0] == 90).all()
    assert (drawn[15, 15] != 90).any()
    assert drawn[5, 40].tolist() == [1, 2, 255]
    assert (image == 90).all()


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((64, 64), (512, 512)),
        ((300, 2000), (300, 2000)),
        ((2000, 300), (2000, 300)),
        ((3, 1), (1536, 512)),
        ((700, 400), (1400, 800)),
    ],
)
def test_small_images_are_enlarged(size: tuple[int, int], shown: tuple[int, int]) -> None:
    image = np.full((*size, 3), (90, 20, 60), np.uint8)
    drawn = draw_explanation(image, np.zeros(size, np.float32), CAPTION)
    width = max(MIN_WIDTH, shown[1])
    assert drawn.shape[1] == width
    is_image = (drawn == (90, 20, 60)).all(axis=2)
    rows, columns = np.flatnonzero(is_image.any(axis=1)), np.flatnonzero(is_image.any(axis=0))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == shown
    assert columns[0] == (width - shown[1]) // 2  # centered
    assert rows[0] >= 40  # three lines above the image
    assert drawn.shape[0] - rows[-1] >= 40  # color scale below it


def test_legend_and_box_have_the_color_of_the_class() -> None:
    image = np.full((64, 64, 3), 90, np.uint8)
    plain = draw_explanation(image, np.zeros((64, 64), np.float32), CAPTION)
    is_class = (plain == (1, 2, 255)).all(axis=2)
    assert is_class[:20, :30].any()
    assert not is_class[25:].any()
    boxed = draw_explanation(image, np.zeros((64, 64), np.float32), CAPTION, (8.0, 8.0, 40.0, 40.0))
    ys, xs = np.nonzero((boxed == (1, 2, 255)).all(axis=2) & ~is_class)
    assert abs(np.ptp(xs) - 8 * 32) <= 4
    assert abs(np.ptp(ys) - 8 * 32) <= 4


def test_the_color_scale_shows_the_colors_of_the_heat_map() -> None:
    image = np.full((600, 600, 3), 128, np.uint8)
    heat = np.full((600, 600), 1.0, np.float32)
    drawn = draw_explanation(image, heat, CAPTION)
    hottest = drawn[300, 300]
    below = drawn[-60:]
    (columns,) = np.nonzero((below == hottest).all(axis=2).any(axis=0))
    assert columns.min() > 570  # at its right end
    assert ((below == 128).all(axis=2).any(axis=0)[:40]).any()  # 0 is no color, at its left end


def test_long_lines_are_shortened() -> None:
    image, heat = np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.float32)
    caption = ExplanationCaption("name " * 99, (1, 2, 255), ("line " * 99, "a\nb\x00"))
    assert (
        draw_explanation(image, heat, caption).shape
        == draw_explanation(
            image, heat, ExplanationCaption("name", (1, 2, 255), ("line", "a"))
        ).shape
    )
