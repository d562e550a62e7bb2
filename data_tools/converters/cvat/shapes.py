"""Parsers of the boxes, polygons, masks and ellipses in CVAT's XML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

import numpy as np

from data_tools.converters.cvat.images import CvatImage
from data_tools.shapes.labeled_objects import LabeledObject, PlacedMask
from data_tools.shapes.outlines import ellipse_to_polygon, rotate_points
from resnet_tasks.errors import DataError

NOT_CONVERTED = {
    "polyline": "a line has no area",
    "points": "points have no area",
    "skeleton": "points have no area",
    "cuboid": "cuboids are not converted",
    "tag": "image-level tags are not converted",
}
SHAPES = ("box", "polygon", "mask", "ellipse")
MAX_DIGITS = 12
"""Maximum number of digits of an integer; frame numbers and pixels need fewer."""


def add_shape(
    image: CvatImage, shape: Element, label: str | None, shape_name: str, location: str
) -> None:
    """Add a shape to the objects of its image, or to the skipped or invalid shapes.

    Args:
        image: Image that contains the shape.
        shape: XML element of the shape.
        label: Class of the shape.
        shape_name: Name of the shape in reports.
        location: Prefix of the error message.

    Raises:
        DataError: If the shape has no label or an unknown type.
    """
    if not label:
        raise DataError(f"{location}, {shape_name} has no label; every shape needs its class")
    if shape.tag in NOT_CONVERTED:
        image.skipped.append((f"{label} ({shape_name})", NOT_CONVERTED[shape.tag]))
        return
    if shape.tag not in SHAPES:
        known_tags = ", ".join((*SHAPES, *NOT_CONVERTED))
        raise DataError(
            f"{location}, {shape_name} is a {shape.tag!r}; supported shapes: {known_tags}"
        )
    try:
        parts = _parse_parts(shape, image.size, f"{location}, {shape_name} ({label})")
    except DataError as error:
        image.invalid.append((f"{label} ({shape_name})", error))
        return
    attributes = {"occluded": 1} if shape.get("occluded") == "1" else {}
    image.objects.append(LabeledObject(label, shape_name, *parts, attributes))


class _Parts(NamedTuple):
    """Boxes, polygons and masks of one shape; see `LabeledObject`."""

    boxes: tuple[Sequence[float], ...] = ()
    polygons: tuple[Sequence[float], ...] = ()
    masks: tuple[PlacedMask, ...] = ()


def _parse_parts(shape: Element, size: tuple[int, int], location: str) -> _Parts:
    """Return the parts of a shape.

    Args:
        shape: XML element of the shape.
        size: (height, width) of the image.
        location: Prefix of the error message.

    Raises:
        DataError: If coordinates are invalid.
    """
    angle = _parse_number(shape, "rotation", location) if shape.get("rotation") else 0.0
    radians = math.radians(angle)
    if shape.tag == "box":
        x1, y1, x2, y2 = (
            _parse_number(shape, key, location) for key in ("xtl", "ytl", "xbr", "ybr")
        )
        if angle:
            return _Parts(polygons=(rotate_points((x1, y1, x2, y1, x2, y2, x1, y2), radians),))
        return _Parts(boxes=((x1, y1, x2, y2),))
    if shape.tag == "ellipse":
        x, y, *radii = (_parse_number(shape, key, location) for key in ("cx", "cy", "rx", "ry"))
        return _Parts(polygons=(rotate_points(ellipse_to_polygon(x, y, *radii), radians),))
    if shape.tag == "polygon":
        return _Parts(polygons=(_parse_points(shape, location),))
    return _Parts(masks=(_parse_mask(shape, size, location),))


def _parse_number(element: Element, key: str, location: str) -> float:
    try:
        value = float(element.get(key, ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{location} has {key}={element.get(key)!r}; it must be a number")
    return value


def parse_integer(element: Element, key: str, location: str) -> int:
    """Return an attribute that must be an integer of 0 or more.

    Raises:
        DataError: If the attribute is missing or is not such an integer.
    """
    text = element.get(key, "")
    if not text.isdecimal() or len(text) > MAX_DIGITS:
        raise DataError(f"{location} has {key}={element.get(key)!r}; it must be a whole number")
    return int(text)


def _parse_points(shape: Element, location: str) -> list[float]:
    """Return `x0,y0;x1,y1;...` as a flat list."""
    text = shape.get("points", "")
    try:
        pairs = [tuple(map(float, pair.split(","))) for pair in text.strip(";").split(";")]
    except ValueError:
        pairs = []
    if len(pairs) < 3 or any(len(pair) != 2 or not all(map(math.isfinite, pair)) for pair in pairs):
        raise DataError(
            f"{location} has points={text[:40]!r}; a polygon has three or more points, as in "
            "x0,y0;x1,y1;x2,y2"
        )
    return [value for pair in pairs for value in pair]


def _parse_mask(shape: Element, size: tuple[int, int], location: str) -> PlacedMask:
    """Return the mask of a shape: run lengths along the rows of a window, background first."""
    left, top, width, height = (
        parse_integer(shape, key, location) for key in ("left", "top", "width", "height")
    )
    counts = [count.strip() for count in shape.get("rle", "").split(",")]
    runs = [int(count) for count in counts if count.isdecimal() and len(count) <= MAX_DIGITS]
    if height > size[0] or width > size[1]:
        raise DataError(
            f"{location} is {width} x {height} pixels (width x height), larger than its image of "
            f"{size[1]} x {size[0]}"
        )
    if len(runs) != len(counts) or sum(runs) != width * height:
        raise DataError(
            f"{location} has an rle that does not fill its {width} x {height} pixels; an rle is "
            "a list of whole numbers, separated by commas, whose sum is width times height"
        )
    return PlacedMask(left, top, (height, width), np.array(runs, dtype=np.int64))
