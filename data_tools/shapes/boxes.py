"""Boxes as corners in pixels, clipped to their image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_tools.writing.coco_writer import CocoWriter

Box = tuple[float, float, float, float]

CLIP_TOLERANCE = 0.05
"""Distance in pixels by which rounded coordinates may leave the image without being counted."""


def clip_corners(corners: Sequence[float], size: tuple[int, int]) -> Box | None:
    """Convert the upper left and the lower right corner to a box inside the image.

    Args:
        corners: (x1, y1, x2, y2) in pixels.
        size: (height, width) of the image.

    Returns:
        (x, y, width, height) in pixels; None if the box has no area inside the image, or the
        corners are in the wrong order or not numbers.
    """
    height, width = map(float, size)
    x1, y1, x2, y2 = corners
    x1, x2 = min(max(x1, 0.0), width), min(max(x2, 0.0), width)
    y1, y2 = min(max(y1, 0.0), height), min(max(y2, 0.0), height)
    return (x1, y1, x2 - x1, y2 - y1) if x1 < x2 and y1 < y2 else None


def sort_corners(corners: Sequence[float]) -> Box:
    """Return opposite corners in any order as (x1, y1, x2, y2), the upper left one first."""
    x1, x2 = sorted(corners[::2])
    y1, y2 = sorted(corners[1::2])
    return x1, y1, x2, y2


def count_clipped(writer: CocoWriter, corners: Sequence[float], clipped: Box | None) -> None:
    """Count a box as changed if a visible part of it lies outside its image.

    Args:
        writer: Writer of the split.
        corners: (x1, y1, x2, y2) before clipping.
        clipped: (x, y, width, height) inside the image; None if nothing is inside.
    """
    if clipped is None:
        return
    x, y, width, height = clipped
    inside = (x, y, x + width, y + height)
    if any(abs(a - b) > CLIP_TOLERANCE for a, b in zip(corners, inside, strict=True)):
        writer.report.count_change("boxes that end outside the image were clipped")


@dataclass(frozen=True)
class SourceBox:
    """Box of an object as its source states it.

    Attributes:
        category: Name of the class.
        corners: (x1, y1, x2, y2) in pixels; corners in the wrong order are exchanged and counted.
        description: Description of the object, for the report.
        iscrowd: Whether training and evaluation ignore the object.
        attributes: Additional attributes of the object.
    """

    category: str
    corners: Sequence[float]
    description: str
    iscrowd: bool = False
    attributes: Mapping[str, Any] | None = None


def add_clipped_box(
    writer: CocoWriter,
    image_id: int,
    box: SourceBox,
    file: str,
    *,
    first_pixel: int | None = None,
) -> None:
    """Add the part of a box that lies inside its image, or list the object as skipped.

    Args:
        writer: Writer of the split.
        image_id: Id of the image of the object.
        box: Box of the object.
        file: Source file of the object, for the report.
        first_pixel: Number of the first pixel of a row or column, if the corners are pixels that
            both belong to the box; None: the corners are edges of pixels, counted from 0.
    """
    x1, y1, x2, y2 = sort_corners(box.corners)
    if (x1, y1, x2, y2) != tuple(box.corners):
        writer.report.count_change("corners in the wrong order were exchanged")
    if first_pixel is not None:  # the second edge of a pixel is one after its first edge
        start, end = first_pixel, 1 - first_pixel
        x1, y1, x2, y2 = x1 - start, y1 - start, x2 + end, y2 + end
    writer.count_box_format(image_id, (x1, y1, x2 - x1, y2 - y1))
    clipped = clip_corners((x1, y1, x2, y2), writer.get_image_size(image_id))
    count_clipped(writer, (x1, y1, x2, y2), clipped)
    if clipped is None:
        writer.report.skip(file, box.description, "its box has no area inside the image")
    else:
        writer.add_box(
            image_id, box.category, clipped, iscrowd=box.iscrowd, attributes=box.attributes
        )
