"""Boxes that are not [x, y, width, height] in pixels: how many of them a file needs."""

from __future__ import annotations

import pytest

from resnet_tasks.data.coco.box_formats import count_box_formats, scale_to_pixels

SIZE = (96, 128)
PIXELS = [10, 10, 30, 30]
RELATIVE = [0.1, 0.1, 0.2, 0.3]
# As [x, y, width, height], it would end at x = 160.
CORNERS = [60, 40, 100, 70]


@pytest.mark.parametrize(
    ("boxes", "are_relative", "are_corners"),
    [
        ([], False, False),
        ([PIXELS], False, False),
        ([RELATIVE], True, False),
        ([RELATIVE] * 30 + [PIXELS], True, False),
        ([RELATIVE] + [PIXELS] * 9, True, False),
        ([RELATIVE] + [PIXELS] * 10, False, False),
        ([CORNERS], False, True),
        ([CORNERS] * 30 + [[60, 40, 40, 30]] * 3, False, True),
        # Valid as corners in 3 of 4 boxes.
        ([CORNERS] * 3 + [[60, 40, 40, 30]], False, False),
        # All are valid as corners, but only 1 of 6 proves it.
        ([CORNERS] + [[10, 10, 50, 50]] * 5, False, False),
        ([CORNERS] + [[10, 10, 50, 50]] * 19, False, True),
        # A truncated object that exceeds its image by 5 pixels.
        ([[10, 10, 123, 60]], False, False),
    ],
)
def test_the_fraction_of_boxes_decides(
    boxes: list[list[float]], are_relative: bool, are_corners: bool
) -> None:
    counts = count_box_formats(boxes, [SIZE] * len(boxes))
    assert (counts.are_relative, counts.are_corners) == (are_relative, are_corners)


def test_counts_add_up() -> None:
    one = count_box_formats([RELATIVE, PIXELS], [SIZE] * 2)
    other = count_box_formats([CORNERS], [SIZE])
    total = one + other
    assert (total.boxes, total.relative, total.corners, total.beyond) == (3, 1, 3, 1)
    assert not total.are_mostly_relative
    assert one.are_mostly_relative


def test_boxes_in_tiny_images_may_be_small() -> None:
    assert not count_box_formats([[0, 0, 1, 1]], [(8, 8)]).are_relative


def test_scaling() -> None:
    assert scale_to_pixels([0.25, 0.5, 0.125, 0.75], (96, 128)) == [32, 48, 16, 72]
