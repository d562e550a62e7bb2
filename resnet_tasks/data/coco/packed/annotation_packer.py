"""Builder that packs annotations into columns."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.packed.annotations import JSON_TEXT, POLYGONS, PackedAnnotations
from resnet_tasks.data.coco.packed.images import PackedImages
from resnet_tasks.data.coco.packed.string_columns import encode_ids, join_texts
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
        self._positions = {image_id: i for i, image_id in enumerate(images.list_ids())}
        self._image_positions = array("q")
        self._ids: list[Id] = []
        self._categories = array("i")
        self._numbers = array("d")  # x, y, width, height, area, occluded, truncated
        self._flags = bytearray()  # crowd, kind
        self._polygons = array("q")  # number of polygons of each annotation
        self._lengths = array("q")  # number of coordinates of each polygon
        self._points = array("d")
        self._texts: list[bytes | memoryview] = []  # run lengths as JSON

    def append(self, annotation: Annotation) -> None:
        """Add an annotation.

        Raises:
            DataError: If its image is unknown.
        """
        position = self._positions.get(annotation.image_id)
        if position is None:
            raise DataError(
                f"annotation {annotation.id!r} belongs to image {annotation.image_id!r}, which is "
                "not among the images; add the image or remove the annotation"
            )
        self._image_positions.append(position)
        self._ids.append(annotation.id)
        self._categories.append(annotation.category)
        box = annotation.bbox or (math.nan,) * 4
        visibility = (annotation.occluded, annotation.truncated)
        self._numbers.extend(box)
        self._numbers.append(annotation.area)
        self._numbers.extend(math.nan if value is None else value for value in visibility)
        segmentation, kind, text, number = annotation.segmentation, 0, b"", 0
        if isinstance(segmentation, dict):
            kind = JSON_TEXT
            text = json.dumps(segmentation, default=_decode_bytes).encode()
        elif segmentation is not None:
            kind, number = POLYGONS, len(segmentation)
            for polygon in segmentation:
                self._lengths.append(len(polygon))
                self._points.extend(polygon)
        self._flags += bytes((annotation.is_crowd, kind))
        self._polygons.append(number)
        self._texts.append(text)

    def pack(self) -> PackedAnnotations:
        """Return all annotations, grouped by image and within an image in the order of addition."""
        numbers = np.frombuffer(self._numbers, np.float64).reshape(-1, 7)
        flags = np.frombuffer(bytes(self._flags), np.uint8).reshape(-1, 2)
        fields: dict[str, NDArray[Any]] = {
            "category": np.frombuffer(self._categories, np.int32),
            "bbox": numbers[:, :4],
            "area": numbers[:, 4],
            "occluded": numbers[:, 5],
            "truncated": numbers[:, 6],
            "crowd": flags[:, 0] > 0,
            "kind": flags[:, 1],
        }
        return pack_rows(
            self._images,
            np.frombuffer(self._image_positions, np.int64),
            self._ids,
            fields,
            self._texts,
            np.frombuffer(self._polygons, np.int64),
            np.frombuffer(self._lengths, np.int64),
            np.frombuffer(self._points, np.float64),
        )


def pack_rows(
    images: PackedImages,
    positions: NDArray[np.int64],
    ids: Sequence[Id],
    fields: Mapping[str, NDArray[Any]],
    texts: Sequence[bytes | memoryview],
    num_polygons: NDArray[np.int64],
    lengths: NDArray[np.int64],
    points: NDArray[np.float64],
) -> PackedAnnotations:
    """Group annotations in columns by image; the order within an image stays.

    Args:
        images: Images of the file.
        positions: `(N,)` position of the image of each annotation.
        ids: N ids.
        fields: Name -> column with N rows: category, bbox, area, occluded, truncated, crowd, kind.
        texts: N segmentations as JSON, empty unless the kind is `JSON_TEXT`.
        num_polygons: `(N,)` number of polygons of each annotation.
        lengths: `(R,)` number of coordinates of each polygon.
        points: Coordinates of all polygons.
    """
    order = np.argsort(positions, kind="stable")
    rows = order.tolist()
    # Polygons are in the order of their annotations, points in the order of their polygons.
    polygon_order = _expand_ranges(_compute_bounds(num_polygons), order)
    columns = {
        **encode_ids("annotation.id", [ids[row] for row in rows]),
        "annotation.starts": _compute_bounds(np.bincount(positions, minlength=len(images))),
        **{f"annotation.{name}": column[order] for name, column in fields.items()},
        **join_texts("annotation.runs", [texts[row] for row in rows]),
        "annotation.polygons": _compute_bounds(num_polygons[order]),
        "polygon.starts": _compute_bounds(lengths[polygon_order]),
        "polygon.points": points[_expand_ranges(_compute_bounds(lengths), polygon_order)],
    }
    return PackedAnnotations(columns, images)


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
