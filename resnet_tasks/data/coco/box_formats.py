"""Detection of boxes that are not [x, y, width, height] in pixels, from the fraction of such boxes.

A single box rarely proves its format, and a few boxes of a correct file may look like another one.
The same limits apply to COCO files and to the sources that `data_tools` converts.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from resnet_tasks.number_formats import Count

SMALLEST_SIDE = 8
"""Side of an image in pixels up to which boxes within 0..1 are not suspicious."""
RELATIVE_FRACTION = 0.1
"""Fraction of boxes within 0..1 from which the file is reported. In pixels, such a box lies inside
the first pixel of its image."""
CORNER_FRACTION = 0.8
"""Fraction of boxes that are valid as corners from which a file may contain corners."""
BEYOND_FRACTION = 0.2
"""Fraction of boxes that only fit into their images as corners from which a file is reported."""
BEYOND_TOLERANCE = 0.05
"""Fraction of the side of the image by which correct boxes of truncated objects may exceed it."""
ENOUGH_BOXES = 20
"""Number of boxes from which a single box is sufficient, if all are valid as corners."""
_BOXES_AT_A_TIME = 10_000
"""Number of boxes that are collected before they are counted, which bounds the memory."""


@dataclass(frozen=True)
class BoxFormatCounts:
    """Numbers of boxes of a file that look like another format.

    Attributes:
        boxes: Number of all boxes.
        relative: Number of boxes whose coordinates are all within 0..1.
        corners: Number of boxes that are valid as corners (x1, y1, x2, y2) in pixels.
        beyond: Number of them that exceed their image as (x, y, width, height).
    """

    boxes: int = 0
    relative: int = 0
    corners: int = 0
    beyond: int = 0

    @property
    def are_relative(self) -> bool:
        """True if so many boxes are within 0..1 that they must be fractions of the image size."""
        return self.relative > 0 and self.relative >= RELATIVE_FRACTION * self.boxes

    @property
    def are_mostly_relative(self) -> bool:
        """True if at least half of the boxes are within 0..1."""
        return self.relative > 0 and 2 * self.relative >= self.boxes

    @property
    def are_corners(self) -> bool:
        """True if the boxes are probably corners."""
        if self.boxes >= ENOUGH_BOXES and self.corners == self.boxes and self.beyond:
            return True
        return (
            self.beyond > 0
            and self.corners >= CORNER_FRACTION * self.boxes
            and self.beyond >= BEYOND_FRACTION * self.boxes
        )

    def describe_relative(self) -> str:
        """Return a description of the boxes within 0..1."""
        return (
            f"{self.relative} of {Count(self.boxes):box has} no coordinate outside 0..1, so in "
            "pixels each would lie inside the first pixel of its image"
        )

    def describe_corners(self) -> str:
        """Return a description of the boxes that look like corners."""
        return (
            f"{self.beyond} of {Count(self.boxes):box} would end outside the image as "
            f"[x, y, width, height], but not as corners; valid as corners: {self.corners}"
        )

    def __add__(self, other: BoxFormatCounts) -> BoxFormatCounts:
        """Return the numbers of both together."""
        return BoxFormatCounts(
            self.boxes + other.boxes,
            self.relative + other.relative,
            self.corners + other.corners,
            self.beyond + other.beyond,
        )


class BoxFormatCounter:
    """Counter of the boxes of a file that are added one at a time."""

    def __init__(self) -> None:
        self._counts = BoxFormatCounts()
        self._boxes = array("d")
        self._sizes = array("d")

    def add(self, box: Sequence[float], size: tuple[int, int]) -> None:
        """Add one box.

        Args:
            box: (x, y, width, height).
            size: (height, width) of the image.
        """
        self._boxes.extend(box)
        self._sizes.extend(size)
        if len(self._boxes) >= 4 * _BOXES_AT_A_TIME:
            self.count()

    def count(self) -> BoxFormatCounts:
        """Return the numbers of all boxes so far."""
        self._counts += count_box_formats(self._boxes, self._sizes)
        self._boxes, self._sizes = array("d"), array("d")
        return self._counts


def count_box_formats(boxes: ArrayLike, sizes: ArrayLike) -> BoxFormatCounts:
    """Count the boxes that look like another format.

    Args:
        boxes: (N, 4) as (x, y, width, height).
        sizes: (N, 2) heights and widths of their images in pixels.
    """
    box_array = np.asarray(boxes, np.float64).reshape(-1, 4)
    size_array = np.asarray(sizes, np.float64).reshape(-1, 2)
    relative = are_relative_boxes(box_array, size_array)
    corners = are_corner_boxes(box_array, size_array)
    sides = size_array[:, ::-1]
    excess = box_array[:, :2] + box_array[:, 2:] - sides
    is_beyond = (excess > np.maximum(1, BEYOND_TOLERANCE * sides)).any(axis=1)
    return BoxFormatCounts(
        len(box_array), int(relative.sum()), int(corners.sum()), int((corners & is_beyond).sum())
    )


def are_relative_boxes(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return `(N,)` bool, whether all coordinates are within 0..1; see `count_box_formats`."""
    is_within = ((boxes >= 0) & (boxes <= 1)).all(axis=1)
    return np.asarray(is_within & (sizes.min(axis=1, initial=np.inf) > SMALLEST_SIDE))


def are_corner_boxes(boxes: NDArray[np.float64], sizes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return `(N,)` bool, whether boxes are valid as corners; see `count_box_formats`."""
    is_ordered = boxes[:, :2] < boxes[:, 2:]
    is_inside = boxes[:, 2:] <= sizes[:, ::-1] + 1
    return np.asarray((is_ordered & is_inside).all(axis=1))


def scale_to_pixels(coordinates: Sequence[float], size: tuple[int, int]) -> list[float]:
    """Return coordinates x, y, x, y, ... that are fractions of the image size in pixels.

    Args:
        coordinates: Fractions of the width and height in turn, such as a box or a polygon.
        size: (height, width) of the image.
    """
    height, width = size
    return [value * (height if i % 2 else width) for i, value in enumerate(coordinates)]
