"""Coordinates as fractions of the image size: their detection in a source, and their conversion."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from data_tools.shapes.labeled_objects import LabeledObject
from resnet_tasks.data.coco.box_formats import BoxFormatCounts, scale_to_pixels
from resnet_tasks.errors import DataError


def require_coordinate_unit(
    boxes: Iterable[Sequence[float]], source: object, *, relative: bool
) -> None:
    """Require that the coordinates of a source have the unit that its options state.

    The fraction of boxes within 0..1 decides, since single coordinates may exceed their image.

    Args:
        boxes: (x1, y1, x2, y2) of every object, with corners in any order.
        source: Source of the boxes, for the message.
        relative: Whether the options state that coordinates are fractions of the image size.

    Raises:
        DataError: If the coordinates have the other unit.
    """
    corners = np.asarray([tuple(box) for box in boxes], np.float64).reshape(-1, 2, 2)
    low, high = corners.min(axis=1), corners.max(axis=1)
    counts = BoxFormatCounts(
        len(corners), relative=int(((low >= 0) & (high <= 1)).all(axis=1).sum())
    )
    if counts.are_mostly_relative and not relative:
        raise DataError(
            f"{source}: {counts.describe_relative()}; if the coordinates are fractions of the "
            "image size, set the option relative=true; if they are pixels, remove these objects"
        )
    if relative and counts.boxes and not counts.are_mostly_relative:
        raise DataError(
            f"{source}: the option relative states fractions of the image size, but only "
            f"{counts.relative} of {counts.boxes} boxes are within 0..1; remove the option if the "
            "coordinates are pixels"
        )


def get_bounding_boxes(labeled_objects: Iterable[LabeledObject]) -> list[tuple[float, ...]]:
    """Return the (x1, y1, x2, y2) of all boxes and polygons of objects; masks are in pixels."""
    return [
        (min(part[0::2]), min(part[1::2]), max(part[0::2]), max(part[1::2]))
        for labeled_object in labeled_objects
        for part in (*labeled_object.boxes, *labeled_object.polygons)
    ]


def scale_object(labeled_object: LabeledObject, size: tuple[int, int]) -> LabeledObject:
    """Return an object with boxes and polygons in pixels instead of fractions of the image size.

    Args:
        labeled_object: Object whose boxes and polygons are fractions.
        size: (height, width) of the image.
    """
    return replace(
        labeled_object,
        boxes=tuple(scale_to_pixels(box, size) for box in labeled_object.boxes),
        polygons=tuple(scale_to_pixels(polygon, size) for polygon in labeled_object.polygons),
    )
