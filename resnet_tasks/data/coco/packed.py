"""Images and annotations of a COCO file as columns of numbers, in place of Python objects.

A million small objects cost gigabytes, and every loader process soon has a copy of its own, for
reading an object changes its reference count. Columns are a few large buffers that are only read:
processes share them, in memory or in a mapped file (`coco_cache`). A record is made when it is
asked for.

P images, N annotations, R polygons. Texts lie behind one another as UTF-8, with P + 1 or N + 1
`starts`; a column of ids is int64, or such texts of JSON where not all are whole numbers.
"""

from __future__ import annotations

import hashlib
import json
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, pairwise
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.problems import Id
from resnet_tasks.data.coco.records import Annotation, ImageRecord
from resnet_tasks.errors import DataError

Columns = Mapping[str, NDArray[Any]]

_INT64 = np.iinfo(np.int64)
_POLYGONS, _RUN_LENGTHS = 1, 2
"""Kinds of segmentations; 0: none."""


class _TextColumn:
    """Texts of a column, one after the other in one buffer."""

    def __init__(self, columns: Columns, name: str) -> None:
        self._bytes = columns[f"{name}.bytes"]
        self._starts = columns[f"{name}.starts"]

    def __getitem__(self, position: int) -> str:
        start, end = self._starts[position : position + 2].tolist()
        return str(self._bytes[start:end].tobytes(), "utf-8", "surrogatepass")


def _encode_texts(name: str, values: Iterable[str]) -> dict[str, NDArray[Any]]:
    encoded = [text.encode("utf-8", "surrogatepass") for text in values]
    return {
        f"{name}.bytes": np.frombuffer(b"".join(encoded), np.uint8),
        f"{name}.starts": _compute_starts(map(len, encoded)),
    }


def _compute_starts(lengths: Iterable[int]) -> NDArray[np.int64]:
    return np.cumsum(np.fromiter(chain((0,), lengths), np.int64), dtype=np.int64)


class _IdColumn:
    """Ids of a column, whole numbers or texts."""

    def __init__(self, columns: Columns, name: str) -> None:
        self._numbers = columns.get(name)
        self._texts = _TextColumn(columns, name) if self._numbers is None else None

    def __getitem__(self, position: int) -> Id:
        if self._texts is None:
            assert self._numbers is not None
            return int(self._numbers[position])
        identifier: Id = json.loads(self._texts[position])
        return identifier


def _encode_ids(name: str, ids: Sequence[Id]) -> dict[str, NDArray[Any]]:
    if all(
        type(identifier) is int and _INT64.min <= identifier <= _INT64.max for identifier in ids
    ):
        return {name: np.asarray(ids, np.int64)}
    return _encode_texts(name, map(json.dumps, ids))


def _compute_sort_key(image_id: object) -> int:
    """Where an id stands among the sorted ones: itself, or a hash that another id may share."""
    if type(image_id) is int and _INT64.min <= image_id <= _INT64.max:
        return image_id
    digest = hashlib.blake2b(json.dumps(image_id).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


class PackedImages(Sequence[ImageRecord]):
    """The images of a file; records are made when asked for.

    Args:
        columns: As `from_records` makes them.
    """

    def __init__(self, columns: Columns) -> None:
        self.columns = columns
        self._ids = _IdColumn(columns, "image.id")
        self._names = _TextColumn(columns, "image.file_name")
        self._optional_fields = _TextColumn(columns, "image.rest")

    @classmethod
    def from_records(cls, records: Iterable[ImageRecord]) -> PackedImages:
        """Packs records.

        Raises:
            DataError: If two have the same id.
        """
        records = list(records)
        sort_keys = np.fromiter(
            (_compute_sort_key(record.id) for record in records), np.int64, len(records)
        )
        order = np.argsort(sort_keys, kind="stable")
        sizes = [(record.height, record.width) for record in records]
        packed = cls(
            {
                **_encode_ids("image.id", [record.id for record in records]),
                "image.order": order,
                "image.places": sort_keys[order],
                "image.size": np.asarray(sizes, np.int64).reshape(-1, 2),
                **_encode_texts("image.file_name", (record.file_name for record in records)),
                **_encode_texts("image.rest", map(_encode_optional_fields, records)),
            }
        )
        if len({record.id for record in records}) < len(records):
            raise DataError("two images have the same id; give every image its own")
        return packed

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedImages, (self.columns,)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """`(P, 2)` height and width."""
        return self.columns["image.size"]

    def find_position(self, image_id: object) -> int | None:
        """Position of the image with this id; None where there is none."""
        if type(image_id) not in (int, str):
            return None
        sort_keys, sort_key = self.columns["image.places"], _compute_sort_key(image_id)
        first, last = np.searchsorted(sort_keys, [sort_key, sort_key + (sort_key < _INT64.max)])
        last = len(sort_keys) if sort_key == _INT64.max else last
        for position in self.columns["image.order"][first:last].tolist():
            if self._ids[position] == image_id:
                return int(position)
        return None

    def get_id(self, position: int) -> Id:
        """Id of the image at a position."""
        return self._ids[position]

    def get_file_name(self, position: int) -> str:
        """Name of the image at a position."""
        return self._names[position]

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, position: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, position: slice) -> Sequence[ImageRecord]: ...
    def __getitem__(self, position: int | slice) -> ImageRecord | Sequence[ImageRecord]:
        if isinstance(position, slice):
            return [self[index] for index in range(*position.indices(len(self)))]
        place = range(len(self))[position]
        height, width = self.sizes[place].tolist()
        optional_fields: dict[str, Any] = json.loads(self._optional_fields[place] or "{}")
        spacing = optional_fields.get("spacing")
        return ImageRecord(
            id=self._ids[place],
            file_name=self._names[place],
            height=height,
            width=width,
            sem_seg_file_name=optional_fields.get("semantic"),
            group=optional_fields.get("group"),
            spacing=None if spacing is None else (spacing[0], spacing[1]),
            extra=optional_fields.get("extra", {}),
        )

    def iter_optional_fields(self) -> Iterator[dict[str, Any]]:
        """What images have beside id, name and size, of those that have any."""
        starts = self.columns["image.rest.starts"]
        for position in np.flatnonzero(np.diff(starts)).tolist():
            yield json.loads(self._optional_fields[position])


def _encode_optional_fields(record: ImageRecord) -> str:
    """What few images have; empty where this one has nothing of it."""
    optional_fields = {
        "semantic": record.sem_seg_file_name,
        "group": record.group,
        "spacing": record.spacing,
        "extra": dict(record.extra) or None,
    }
    present = {key: value for key, value in optional_fields.items() if value is not None}
    return json.dumps(present) if present else ""


class PackedAnnotations(Mapping[Id, tuple[Annotation, ...]]):
    """The annotations of a file by image id, in file order; made when asked for.

    Args:
        columns: As `AnnotationPacker` makes them.
        images: Their images.

    Attributes:
        images: As given.
    """

    def __init__(self, columns: Columns, images: PackedImages) -> None:
        self.columns = columns
        self.images = images
        self._ids = _IdColumn(columns, "annotation.id")
        self._runs = _TextColumn(columns, "annotation.runs")

    def remap_categories(self, table: Sequence[int]) -> PackedAnnotations:
        """The same annotations, category k as `table[k]`."""
        categories = np.asarray(table, np.int32)[self.columns["annotation.category"]]
        return PackedAnnotations({**self.columns, "annotation.category": categories}, self.images)

    def count_objects(self, number: int) -> NDArray[np.int64]:
        """`(number,)` annotations by category, crowds left out."""
        single = self.columns["annotation.category"][~self.columns["annotation.crowd"]]
        return np.bincount(single, minlength=number)

    def list_image_categories(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Every pair of an image's position and a category that it shows, crowds left out."""
        single = ~self.columns["annotation.crowd"]
        images = np.repeat(np.arange(len(self)), np.diff(self.columns["annotation.starts"]))
        categories = self.columns["annotation.category"][single].astype(np.int64)
        number = int(categories.max(initial=0)) + 1
        pairs = np.unique(images[single] * number + categories)
        return pairs // number, pairs % number

    def get_by_position(self, position: int) -> tuple[Annotation, ...]:
        """The annotations of the image at a position."""
        start, end = self.columns["annotation.starts"][position : position + 2].tolist()
        image_id = self.images.get_id(position)
        part = {
            name: self.columns[f"annotation.{name}"][start:end].tolist()
            for name in ("category", "bbox", "area", "crowd", "occluded", "truncated")
        }
        return tuple(
            Annotation(
                self._ids[start + i],
                image_id,
                part["category"][i],
                None if math.isnan(box[0]) else tuple(box),
                part["area"][i],
                part["crowd"][i],
                self._decode_segmentation(start + i),
                _nan_to_none(part["occluded"][i]),
                _nan_to_none(part["truncated"][i]),
            )
            for i, box in enumerate(part["bbox"])
        )

    def __getitem__(self, image_id: Id) -> tuple[Annotation, ...]:
        position = self.images.find_position(image_id)
        if position is None:
            raise KeyError(image_id)
        return self.get_by_position(position)

    def __iter__(self) -> Iterator[Id]:
        return (self.images.get_id(position) for position in range(len(self)))

    def __len__(self) -> int:
        return len(self.images)

    def _decode_segmentation(self, row: int) -> list[Any] | dict[str, Any] | None:
        kind = int(self.columns["annotation.kind"][row])
        if kind == _RUN_LENGTHS:
            rle: dict[str, Any] = json.loads(self._runs[row])
            return rle
        if kind != _POLYGONS:
            return None
        first, last = self.columns["annotation.polygons"][row : row + 2].tolist()
        bounds = self.columns["polygon.starts"][first : last + 1].tolist()
        points = self.columns["polygon.points"]
        return [array("d", points[start:end].tobytes()) for start, end in pairwise(bounds)]


def _nan_to_none(value: float) -> float | None:
    return None if math.isnan(value) else value


class AnnotationPacker:
    """Takes the annotations of a file one by one, in any order of images, and packs them.

    Args:
        images: Their images.
    """

    def __init__(self, images: PackedImages) -> None:
        self._images = images
        self._image_positions = array("q")
        self._ids: list[Id] = []
        self._categories = array("i")
        self._numbers = array("d")  # x, y, width, height, area, occluded, truncated
        self._flags = bytearray()  # crowd, kind
        self._polygons = array("q")  # of each annotation
        self._lengths = array("q")  # of each polygon
        self._points = array("d")
        self._runs: list[str] = []

    def append(self, annotation: Annotation) -> None:
        """Adds one.

        Raises:
            DataError: If its image is unknown.
        """
        position = self._images.find_position(annotation.image_id)
        if position is None:
            raise DataError(
                f"annotation {annotation.id!r} belongs to image {annotation.image_id!r}, which is "
                "not among the images; add the image or leave the annotation out"
            )
        self.append_at(position, annotation)

    def append_at(self, position: int, annotation: Annotation) -> None:
        """Adds one that belongs to the image at `position`."""
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
            kind, runs = _RUN_LENGTHS, json.dumps(segmentation, default=_decode_bytes)
        elif segmentation is not None:
            kind, number = _POLYGONS, len(segmentation)
            for polygon in segmentation:
                self._lengths.append(len(polygon))
                self._points.extend(polygon)
        self._flags += bytes((annotation.is_crowd, kind))
        self._polygons.append(number)
        self._runs.append(runs)

    def pack(self) -> PackedAnnotations:
        """All of them, by image and within one in the order in which they were taken."""
        images = np.frombuffer(self._image_positions, np.int64)
        order = np.argsort(images, kind="stable")
        per_image = np.bincount(images, minlength=len(self._images))
        numbers = np.frombuffer(self._numbers, np.float64).reshape(-1, 7)[order]
        flags = np.frombuffer(bytes(self._flags), np.uint8).reshape(-1, 2)[order]
        polygons = np.frombuffer(self._polygons, np.int64)
        lengths = np.frombuffer(self._lengths, np.int64)
        rows = order.tolist()
        columns = {
            **_encode_ids("annotation.id", [self._ids[row] for row in rows]),
            "annotation.starts": _compute_starts(per_image.tolist()),
            "annotation.category": np.frombuffer(self._categories, np.int32)[order],
            "annotation.bbox": np.ascontiguousarray(numbers[:, :4]),
            "annotation.area": np.ascontiguousarray(numbers[:, 4]),
            "annotation.occluded": np.ascontiguousarray(numbers[:, 5]),
            "annotation.truncated": np.ascontiguousarray(numbers[:, 6]),
            "annotation.crowd": np.ascontiguousarray(flags[:, 0]) > 0,
            "annotation.kind": np.ascontiguousarray(flags[:, 1]),
            **_encode_texts("annotation.runs", (self._runs[row] for row in rows)),
            "annotation.polygons": _compute_bounds(polygons[order]),
        }
        # Polygons follow their annotations, points follow their polygons.
        polygon_order = _expand_ranges(_compute_bounds(polygons), order)
        columns["polygon.starts"] = _compute_bounds(lengths[polygon_order])
        points = np.frombuffer(self._points, np.float64)
        columns["polygon.points"] = points[_expand_ranges(_compute_bounds(lengths), polygon_order)]
        return PackedAnnotations(columns, self._images)


def pack_annotations(
    annotations: Mapping[Id, Sequence[Annotation]], images: PackedImages
) -> PackedAnnotations:
    """Annotations by image id, packed where they are not.

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
    """All positions of the chosen ranges, one after the other."""
    lengths = (bounds[1:] - bounds[:-1])[indices]
    starts = bounds[:-1][indices]
    ends = np.cumsum(lengths)
    positions: NDArray[np.int64] = np.repeat(starts - (ends - lengths), lengths)
    positions += np.arange(len(positions))
    return positions


def _decode_bytes(value: object) -> str:
    """Compressed run lengths as text."""
    if isinstance(value, bytes):
        return value.decode("ascii")
    raise TypeError(f"{type(value).__name__} is no part of run lengths")
