"""Objects as labeling tools store them: boxes, polygons and masks, in one part or several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
from numpy.typing import NDArray

from data_tools.shapes.boxes import clip_corners, count_clipped
from data_tools.shapes.invalid_shape import InvalidShapeError
from data_tools.writing.coco_writer import CocoWriter
from resnet_tasks.data.coco.masks import decode_mask
from resnet_tasks.errors import DataError

Kind = Literal["box", "outline"]


class PlacedMask(NamedTuple):
    """Mask of an object in a window of its image.

    The mask is run-length encoded, because all masks of a file stay in memory until they are drawn.

    Attributes:
        left: Column of the first pixel of the window.
        top: Row of the first pixel of the window.
        size: (height, width) of the window.
        runs: (N,) run lengths along the rows, background first; their sum is the number of pixels
            of the window.
    """

    left: int
    top: int
    size: tuple[int, int]
    runs: NDArray[np.int64]

    @classmethod
    def from_pixels(cls, left: int, top: int, pixels: NDArray[np.bool_]) -> PlacedMask:
        """Create a mask from the pixels of its window.

        Args:
            left: Column of the first pixel of the window.
            top: Row of the first pixel of the window.
            pixels: (h, w) bool, pixels of the window.
        """
        flat = np.concatenate(([False], pixels.ravel()))
        starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]), [pixels.size]))
        return cls(left, top, (pixels.shape[0], pixels.shape[1]), np.diff(starts))

    def to_pixels(self) -> NDArray[np.bool_]:
        """Return the (h, w) bool pixels of the window."""
        return np.repeat(np.arange(len(self.runs)) % 2 == 1, self.runs).reshape(self.size)


@dataclass(frozen=True)
class LabeledObject:
    """One object; several shapes are its parts.

    Attributes:
        label: Class of the object.
        description: Position of the object in its file, for reports.
        boxes: Boxes (x1, y1, x2, y2) in pixels, with corners in any order.
        polygons: Flat `[x0, y0, x1, y1, ...]` lists in pixels.
        masks: Masks in windows of the image.
        attributes: Additional attributes of the object.
        iscrowd: Whether training and evaluation ignore the object.
    """

    label: str
    description: str
    boxes: tuple[Sequence[float], ...] = ()
    polygons: tuple[Sequence[float], ...] = ()
    masks: tuple[PlacedMask, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    iscrowd: bool = False

    @property
    def kind(self) -> Kind:
        """`outline` if the object has a polygon or mask, else `box`."""
        return "outline" if self.polygons or self.masks else "box"


class _Flags(TypedDict):
    iscrowd: bool
    attributes: Mapping[str, Any]


def add_labeled_object(
    writer: CocoWriter,
    image_id: int,
    labeled_object: LabeledObject,
    size: tuple[int, int],
    file: str,
) -> None:
    """Add an object in the finest form in which it was drawn.

    Boxes of an object that also has polygons or masks become rectangular polygons. An object that
    covers no pixel of the image is listed as skipped.

    Args:
        writer: Writer of the split.
        image_id: Id of the image of the object.
        labeled_object: Object to add.
        size: (height, width) of the image.
        file: Source file of the object, for the report.
    """
    polygons = [*labeled_object.polygons, *map(_rectangle_to_polygon, labeled_object.boxes)]
    label = labeled_object.label
    for part in (*labeled_object.boxes, *labeled_object.polygons):
        corners = (min(part[0::2]), min(part[1::2]), max(part[0::2]), max(part[1::2]))
        if (part_box := clip_corners(corners, size)) is not None:
            writer.count_box_format(image_id, part_box)
    flags: _Flags = {"iscrowd": labeled_object.iscrowd, "attributes": labeled_object.attributes}
    if labeled_object.kind == "box":
        points = np.reshape(labeled_object.boxes, (-1, 2))
        hull = [*points.min(axis=0).tolist(), *points.max(axis=0).tolist()]
        box = clip_corners(hull, size)
        count_clipped(writer, hull, box)
        is_visible = box is not None
        if box is not None:
            writer.add_box(image_id, label, box, **flags)
    elif labeled_object.masks:
        mask = _render_masks(labeled_object.masks, size)
        if polygons:
            mask |= decode_mask([list(map(float, polygon)) for polygon in polygons], *size)
        is_visible = bool(mask.any())
        if is_visible:
            writer.add_mask(image_id, label, mask, **flags)
    else:
        try:
            is_visible = writer.add_polygons(image_id, label, polygons, **flags)
        except InvalidShapeError as error:
            description = f"{label} ({labeled_object.description})"
            writer.report.skip_invalid(file, description, error)
            return
    if not is_visible:
        writer.report.skip(
            file,
            f"{label} ({labeled_object.description})",
            "it has no area inside the image",
        )


def add_labeled_image(
    writer: CocoWriter,
    image: Path,
    size: tuple[int, int],
    objects: Sequence[LabeledObject],
    skipped: Sequence[tuple[str, str]],
    file: str,
    *,
    group: str | None = None,
    invalid: Sequence[tuple[str, DataError]] = (),
) -> None:
    """Add an image with its objects.

    Args:
        writer: Writer of the split.
        image: Path of the image.
        size: (height, width) of the image.
        objects: Objects to add.
        skipped: (shape, reason) of the shapes that are not converted.
        file: Source file of the objects, for the report.
        group: Group that splits must keep together.
        invalid: (shape, error) of the invalid shapes, which are skipped if they are few.
    """
    image_id = writer.add_image(image, size=size, group=group)
    for description, reason in skipped:
        writer.report.skip(file, description, reason)
    for description, error in invalid:
        writer.report.skip_invalid(file, description, error)
    for labeled_object in objects:
        add_labeled_object(writer, image_id, labeled_object, size, file)


def _rectangle_to_polygon(corners: Sequence[float]) -> list[float]:
    x1, y1, x2, y2 = corners
    return [x1, y1, x2, y1, x2, y2, x1, y2]


def _render_masks(masks: Sequence[PlacedMask], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the union of all masks on the whole image; pixels outside the image are cut off."""
    height, width = size
    canvas = np.zeros(size, dtype=np.bool_)
    for mask in masks:
        y, x = max(mask.top, 0), max(mask.left, 0)
        visible = mask.to_pixels()[
            y - mask.top : max(height - mask.top, 0), x - mask.left : max(width - mask.left, 0)
        ]
        canvas[y : y + visible.shape[0], x : x + visible.shape[1]] |= visible
    return canvas
