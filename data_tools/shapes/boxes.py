"""Boxes as corners in pixels, clipped to their image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_tools.writing.coco_writer import CocoWriter

Box = tuple[float, float, float, float]


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


def order_corners(writer: CocoWriter, corners: Sequence[float]) -> Box:
    """Return the upper left corner first, and count the box as changed if it was not.

    Two opposite corners describe the same box in any order.
    """
    x1, y1, x2, y2 = corners
    if x1 > x2 or y1 > y2:
        writer.report.count_change("corners in the wrong order were exchanged")
        return sort_corners(corners)
    return x1, y1, x2, y2


def add_clipped_box(
    writer: CocoWriter,
    image_id: int,
    category: str,
    corners: Sequence[float],
    *,
    file: str,
    description: str,
    iscrowd: bool = False,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Add the part of a box that lies inside its image, or list the object as skipped.

    Args:
        writer: Writer of the split.
        image_id: Id of the image of the object.
        category: Name of the class.
        corners: (x1, y1, x2, y2) in pixels; corners in the wrong order are exchanged and counted.
        file: Source file of the object, for the report.
        description: Description of the object, for the report.
        iscrowd: Whether training and evaluation ignore the object.
        attributes: Additional attributes of the object.
    """
    x1, y1, x2, y2 = order_corners(writer, corners)
    writer.count_box_format(image_id, (x1, y1, x2 - x1, y2 - y1))
    box = clip_corners((x1, y1, x2, y2), writer.get_image_size(image_id))
    if box is None:
        writer.report.skip(file, description, "its box has no area inside the image")
    else:
        writer.add_box(image_id, category, box, iscrowd=iscrowd, attributes=attributes)
