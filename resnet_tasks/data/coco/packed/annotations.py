"""Annotations of a COCO file in columns, grouped by image."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.json_records import decode_record
from resnet_tasks.data.coco.packed.images import PackedImages
from resnet_tasks.data.coco.packed.string_columns import Columns, IdColumn, TextColumn
from resnet_tasks.data.coco.problems import Id
from resnet_tasks.data.coco.records import Annotation

POLYGONS, JSON_TEXT = 1, 2
"""Kinds of segmentations; 0 is none. Run lengths are stored as JSON, as are all segmentations of a
file that is decoded in bulk."""


class PackedAnnotations(Mapping[Id, tuple[Annotation, ...]]):
    """Mapping from image id to annotations in file order, which are created on request.

    Args:
        columns: Columns in the layout of `AnnotationPacker.pack`.
        images: Images of the file.

    Attributes:
        columns: Columns in the layout of `AnnotationPacker.pack`.
        images: Images of the file.
    """

    def __init__(self, columns: Columns, images: PackedImages) -> None:
        self.columns = columns
        self.images = images
        self._ids = IdColumn(columns, "annotation.id")
        self._runs = TextColumn(columns, "annotation.runs")

    @property
    def image_positions(self) -> NDArray[np.int64]:
        """`(N,)` int64 positions of the images of the annotations, ascending."""
        return np.repeat(np.arange(len(self)), np.diff(self.columns["annotation.starts"]))

    @property
    def labels(self) -> NDArray[np.int64]:
        """`(N,)` int64 category indices."""
        return self.columns["annotation.category"].astype(np.int64)

    @property
    def boxes(self) -> NDArray[np.float64]:
        """`(N, 4)` float64 xywh in pixels as in the file, NaN for image-level labels."""
        return self.columns["annotation.bbox"]

    @property
    def has_box(self) -> NDArray[np.bool_]:
        """`(N,)` bool, whether the annotation is an object and not an image-level label."""
        return ~np.isnan(self.boxes[:, 0])

    @property
    def areas(self) -> NDArray[np.float64]:
        """`(N,)` float64 areas in pixels²."""
        return self.columns["annotation.area"]

    @property
    def crowd(self) -> NDArray[np.bool_]:
        """`(N,)` bool, whether the annotation is a crowd."""
        return self.columns["annotation.crowd"]

    def remap_categories(self, table: Sequence[int]) -> PackedAnnotations:
        """Return the same annotations with category k replaced by `table[k]`."""
        categories = np.asarray(table, np.int32)[self.columns["annotation.category"]]
        return PackedAnnotations({**self.columns, "annotation.category": categories}, self.images)

    def count_objects(self, number: int) -> NDArray[np.int64]:
        """Return the `(number,)` count of annotations of each category, without crowds."""
        return np.bincount(self.labels[~self.crowd], minlength=number)

    def count_crowds(self, number: int) -> NDArray[np.int64]:
        """Return the `(number,)` count of crowd regions of each category."""
        return np.bincount(self.labels[self.crowd], minlength=number)

    def list_image_categories(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return all distinct pairs of an image and a category of its objects, without crowds.

        Returns:
            Positions of the images and category indices, both `(M,)` int64.
        """
        single = ~self.crowd
        categories = self.labels[single]
        number = int(categories.max(initial=0)) + 1
        # One integer per pair, since sorting integers is faster than sorting rows.
        pairs = np.unique(self.image_positions[single] * number + categories)
        return pairs // number, pairs % number

    def get_rows(self, position: int) -> slice:
        """Return the rows of the columns with the annotations of the image at a position."""
        return slice(*self.columns["annotation.starts"][position : position + 2].tolist())

    def __getitem__(self, image_id: Id) -> tuple[Annotation, ...]:
        position = self.images.find_position(image_id)
        if position is None:
            raise KeyError(image_id)
        rows = self.get_rows(position)
        part = {
            name: self.columns[f"annotation.{name}"][rows].tolist()
            for name in ("category", "bbox", "area", "crowd", "occluded", "truncated")
        }
        return tuple(
            Annotation(
                self._ids[rows.start + i],
                image_id,
                part["category"][i],
                None if math.isnan(box[0]) else tuple(box),
                part["area"][i],
                part["crowd"][i],
                self.get_segmentation(rows.start + i),
                _nan_to_none(part["occluded"][i]),
                _nan_to_none(part["truncated"][i]),
            )
            for i, box in enumerate(part["bbox"])
        )

    def __iter__(self) -> Iterator[Id]:
        return (self.images.get_id(position) for position in range(len(self)))

    def __len__(self) -> int:
        return len(self.images)

    def get_segmentation(self, row: int) -> list[Any] | dict[str, Any] | None:
        """Return the segmentation of an annotation, which is decoded on request.

        Args:
            row: Index of the annotation in the columns.
        """
        kind = int(self.columns["annotation.kind"][row])
        if kind == JSON_TEXT:
            segmentation: dict[str, Any] = decode_record(msgspec.Raw(self._runs.get_bytes(row)))
            return segmentation
        if kind != POLYGONS:
            return None
        first, last = self.columns["annotation.polygons"][row : row + 2].tolist()
        bounds = self.columns["polygon.starts"][first : last + 1].tolist()
        points = self.columns["polygon.points"]
        return [array("d", points[start:end].tobytes()) for start, end in pairwise(bounds)]


def _nan_to_none(value: float) -> float | None:
    return None if math.isnan(value) else value
