"""Boxes, masks and outlines of objects as COCO stores them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from data_tools.shapes.invalid_shape import InvalidShapeError

MAX_REACH = 100
"""Maximum distance of a polygon point from the origin, in multiples of the longer side of the
image."""

BOX_DECIMALS = 9
"""Decimals of boxes: far below the precision of any source, above the error of float64."""


@dataclass(frozen=True)
class Shape:
    """Position and extent of an object in its image.

    Attributes:
        box: (x, y, width, height) in pixels of the image.
        area: Area in square pixels.
        segmentation: Run lengths or polygons in COCO form; None for an object that has only a box.
    """

    box: Sequence[float]
    area: float
    segmentation: Any = None

    @property
    def is_empty(self) -> bool:
        """True if the box or the area is empty."""
        return not (self.box[2] > 0 and self.box[3] > 0 and self.area > 0)

    def to_fields(self) -> dict[str, Any]:
        """Return the fields `bbox` and `area`.

        Boxes keep their precision; only the error of computing with floats is removed.
        """
        rounded = [round_coordinate(value, BOX_DECIMALS) for value in self.box]
        box = rounded if min(rounded[2:]) > 0 else [float(value) for value in self.box]
        return {"bbox": box, "area": round_coordinate(self.area, BOX_DECIMALS) or float(self.area)}


def shape_from_box(box: Sequence[float]) -> Shape:
    """Create the shape of an object that has a box but no outline.

    Args:
        box: (x, y, width, height) in pixels of the image.
    """
    return Shape(box, float(box[2]) * float(box[3]))


def shape_from_mask(
    mask: NDArray[np.bool_],
    *,
    polygons: Sequence[Sequence[float]] | None = None,
    box: Sequence[float] | None = None,
) -> Shape:
    """Create the shape of an object from its pixels.

    Args:
        mask: (height, width) bool, visible pixels of the object.
        polygons: Flat `[x0, y0, x1, y1, ...]` lists to store instead of run lengths.
        box: (x, y, width, height) as annotated; default: the tight box around the pixels.
    """
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    if box is None:
        box = [float(value) for value in coco_mask.toBbox(rle)]
    segmentation: Any = {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}
    if polygons:
        segmentation = [list(polygon) for polygon in polygons]
    return Shape(box, float(coco_mask.area(rle)), segmentation)


def shape_from_polygons(
    polygons: Sequence[Sequence[float]], size: tuple[int, int], description: str
) -> Shape | None:
    """Create the shape of an object from its outlines; the box is tight around the visible part.

    Args:
        polygons: Flat `[x0, y0, x1, y1, ...]` lists in pixels of the image; several are parts of
            one object.
        size: (height, width) of the image.
        description: Name of the object in error messages.

    Returns:
        Shape of the object; None if the polygons cover no pixel.

    Raises:
        InvalidShapeError: If a polygon has fewer than three points or a point far outside the
            image.
    """
    height, width = size
    reach = MAX_REACH * max(size)
    for polygon in polygons:
        # Rasterizing takes memory along the outline: one stray point far away would exhaust it.
        if len(polygon) < 6 or len(polygon) % 2 or not all(abs(v) <= reach for v in polygon):
            raise InvalidShapeError(
                f"{description} (height {height}, width {width}) has the polygon "
                f"{_abbreviate(polygon)}; a polygon needs three or more points x, y, none farther "
                f"from the origin than {MAX_REACH} times the image's longer side"
            )
    rounded_polygons = [[round_coordinate(value) for value in polygon] for polygon in polygons]
    rle = coco_mask.merge(coco_mask.frPyObjects(rounded_polygons, height, width))
    area = float(coco_mask.area(rle))
    if not area:
        return None
    points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in rounded_polygons])
    low, high = points.min(axis=0), points.max(axis=0)
    box = [*map(float, low), *map(float, high - low)]
    if low.min() < 0 or high[0] > width or high[1] > height:
        box = [float(value) for value in coco_mask.toBbox(rle)]
    return Shape(box, area, rounded_polygons)


def round_coordinate(value: float, decimals: int = 2) -> float | int:
    """Round to some decimals, and to an integer if the result is integral, to keep files short."""
    number = round(float(value), decimals)
    return int(number) if number.is_integer() else number


def _abbreviate(numbers: Sequence[float]) -> str:
    text = ", ".join(f"{value:g}" for value in numbers[:8])
    return f"[{text}, ...]" if len(numbers) > 8 else f"[{text}]"
