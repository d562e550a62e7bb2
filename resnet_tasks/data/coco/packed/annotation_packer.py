"""Builder that packs annotations into columns."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.packed.annotations import POLYGONS, RUN_LENGTHS, PackedAnnotations
from resnet_tasks.data.coco.packed.images import PackedImages
from resnet_tasks.data.coco.packed.string_columns import compute_starts, encode_ids, encode_texts
from resnet_tasks.data.coco.problems import Id
from resnet_tasks.data.coco.records import Annotation
from resnet_tasks.errors import DataError


class AnnotationPacker:
    """Builder that takes the annotations of a file one at a time and packs them into columns.

    The annotations may arrive in any order of images.

    Args:
        images: Images of the file.
    """

    def __init__(self, images: PackedImages) -> None:
        self._images = images
        self._image_positions = array("q")
        self._ids: list[Id] = []
        self._categories = array("i")
        self._numbers = array("d")  # x, y, width, height, area, occluded, truncated
        self._flags = bytearray()  # crowd, kind
        self._polygons = array("q")  # number of polygons of each annotation
        self._lengths = array("q")  # number of coordinates of each polygon
        self._points = array("d")
        self._runs: list[str] = []

    def append(self, annotation: Annotation) -> None:
        """Add an annotation.

        Raises:
            DataError: If its image is unknown.
        """
        position = self._images.find_position(annotation.image_id)
        if position is None:
            raise DataError(
                f"annotation {annotation.id!r} belongs to image {annotation.image_id!r}, which is "
                "not among the images; add the image or remove the annotation"
            )
        self.append_at(position, annotation)

    def append_at(self, position: int, annotation: Annotation) -> None:
        """Add an annotation of the image at `position`."""
        self._image_positions.append(position)
        self._ids.append(annotation.id)
        self._categories.append(annotation.category)
        box = annotation.bbox or (math.nan,) * 4
        visibility = (annotation.occluded, annotation.truncated)
        self._numbers.extend(box)
        self._numbers.append(annotation.area)
        self._numbers.extend(math.nan if value is None else value for value in visibility)
        segmentation, kind, runs, number = annotation.segmentation, 0, "", 0
        if isinstance(segmentation, dict):
            kind, runs = RUN_LENGTHS, json.dumps(segmentation, default=_decode_bytes)
        elif segmentation is not None:
            kind, number = POLYGONS, len(segmentation)
            for polygon in segmentation:
                self._lengths.append(len(polygon))
                self._points.extend(polygon)
        self._flags += bytes((annotation.is_crowd, kind))
        self._polygons.append(number)
        self._runs.append(runs)

    def pack(self) -> PackedAnnotations:
        """Return all annotations, grouped by image and within an image in the order of addition."""
        images = np.frombuffer(self._image_positions, np.int64)
        order = np.argsort(images, kind="stable")
        per_image = np.bincount(images, minlength=len(self._images))
        numbers = np.frombuffer(self._numbers, np.float64).reshape(-1, 7)[order]
        flags = np.frombuffer(bytes(self._flags), np.uint8).reshape(-1, 2)[order]
        polygons = np.frombuffer(self._polygons, np.int64)
        lengths = np.frombuffer(self._lengths, np.int64)
        rows = order.tolist()
        columns = {
            **encode_ids("annotation.id", [self._ids[row] for row in rows]),
            "annotation.starts": compute_starts(per_image.tolist()),
            "annotation.category": np.frombuffer(self._categories, np.int32)[order],
            "annotation.bbox": np.ascontiguousarray(numbers[:, :4]),
            "annotation.area": np.ascontiguousarray(numbers[:, 4]),
            "annotation.occluded": np.ascontiguousarray(numbers[:, 5]),
            "annotation.truncated": np.ascontiguousarray(numbers[:, 6]),
            "annotation.crowd": np.ascontiguousarray(flags[:, 0]) > 0,
            "annotation.kind": np.ascontiguousarray(flags[:, 1]),
            **encode_texts("annotation.runs", (self._runs[row] for row in rows)),
            "annotation.polygons": _compute_bounds(polygons[order]),
        }
        # Polygons are in the order of their annotations, points in the order of their polygons.
        polygon_order = _expand_ranges(_compute_bounds(polygons), order)
        columns["polygon.starts"] = _compute_bounds(lengths[polygon_order])
        points = np.frombuffer(self._points, np.float64)
        columns["polygon.points"] = points[_expand_ranges(_compute_bounds(lengths), polygon_order)]
        return PackedAnnotations(columns, self._images)


def pack_annotations(
    annotations: Mapping[Id, Sequence[Annotation]], images: PackedImages
) -> PackedAnnotations:
    """Return the annotations in packed form, packing them if they are not.

    Args:
        annotations: Image id -> annotations.
        images: Images of the file.

    Raises:
        DataError: If an image is unknown.
    """
    if isinstance(annotations, PackedAnnotations) and annotations.images is images:
        return annotations
    packer = AnnotationPacker(images)
    for image_annotations in annotations.values():
        for annotation in image_annotations:
            packer.append(annotation)
    return packer.pack()


def _compute_bounds(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)))


def _expand_ranges(bounds: NDArray[np.int64], indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return all positions of the selected ranges, concatenated."""
    lengths = (bounds[1:] - bounds[:-1])[indices]
    starts = bounds[:-1][indices]
    ends = np.cumsum(lengths)
    # Offset of each range in the source minus its offset in the output; arange adds the rest.
    positions: NDArray[np.int64] = np.repeat(starts - (ends - lengths), lengths)
    positions += np.arange(len(positions))
    return positions


def _decode_bytes(value: object) -> str:
    """Return compressed run lengths as a string."""
    if isinstance(value, bytes):
        return value.decode("ascii")
    raise TypeError(f"{type(value).__name__} is not allowed in an RLE")
