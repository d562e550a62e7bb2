"""Validation of the annotation records of a COCO file, with safe repairs and a finding for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.field_values import (
    MAX_NUMBER,
    find,
    format_value,
    generate_new_ids,
    has_lost_number,
    is_box,
    is_finite,
    is_id,
    to_whole_id,
)
from resnet_tasks.data.coco.masks import (
    compute_bounding_box,
    compute_mask_area,
    is_rle,
    pack_polygon,
)
from resnet_tasks.data.coco.problems import Findings, Id
from resnet_tasks.data.coco.records import Annotation, ImageRecord, Xywh
from resnet_tasks.errors import format_allowed, format_list

VISIBILITY = {"occluded": (3, 1.0), "truncated": (1, 0.3)}
"""Key -> (maximum, value of a bare `true`). The value of `true` still counts as visible enough for
KITTI's moderate level, but not for its easy level."""

FRAME_TOLERANCE = 1e-3
"""Pixels by which a box may exceed its image without a note, because files round coordinates."""

_SKIPPED_BOX: Xywh = (math.nan, math.nan, math.nan, math.nan)
"""Sentinel for a box that makes its annotation unusable. It is compared by identity."""


class AnnotationReader:
    """Reader that validates the annotations of a file in one pass.

    Args:
        categories: Categories of the file.
        images: Image records of the file.
        findings: Collector of the problems.
        is_listed: Whether the file has a list of annotations. An empty list means that the images
            were annotated with boxes and contain no objects.
        keep_degenerate: Whether to keep boxes without area or outside their image; see `read_coco`.
        all_ids: Function that returns the ids of all annotations of the file. New ids are greater
            than all of them.
    """

    def __init__(
        self,
        categories: CategoryMap,
        images: Sequence[ImageRecord],
        findings: Findings,
        *,
        is_listed: bool = True,
        keep_degenerate: bool = False,
        all_ids: Callable[[], Iterable[Any]] = tuple,
    ) -> None:
        findings.context = {
            "images": format_list([record.id for record in images]),
            "categories": format_allowed(categories.ids),
        }
        if not is_listed:
            findings.add("missing_annotations")
        self._is_listed = is_listed
        self._keep_degenerate = keep_degenerate
        self._all_ids = all_ids
        self._indices = categories.index_table
        self._records = {record.id: record for record in images}
        self._findings = findings
        self._ids: set[Id] = set()
        self._new_ids: Iterator[int] | None = None
        self._has_sem_seg = any(record.sem_seg_file_name for record in images)
        self._has_boxes = False
        self._has_masks = False
        # (image id, annotation id) of every annotation with neither box nor mask
        self._labels_only: list[tuple[Id, Id]] = []

    def finish(self, declared: frozenset[str] | None) -> frozenset[str]:
        """Return the kinds of annotations of the file, a subset of `ANNOTATED`.

        Annotations without box get a finding unless they are image-level labels.

        Args:
            declared: Kinds of annotations that the file declares; None: those that it contains.
        """
        kinds = {
            "boxes": self._has_boxes,
            "masks": self._has_masks,
            "semantic": self._has_sem_seg,
            "image": bool(self._labels_only) and not self._has_boxes,
        }
        present = frozenset(kind for kind, is_present in kinds.items() if is_present)
        annotated = declared
        if annotated is None:
            annotated = present or frozenset(("boxes",) if self._is_listed else ())
        if "image" not in annotated:
            for ids in self._labels_only:
                self._findings.add("no_box", *ids)
        return annotated

    def read(self, position: int, raw: Any) -> Annotation | None:
        """Return the annotation, or None after adding a finding if it cannot be used.

        Args:
            position: Index in the file's `annotations`.
            raw: Decoded JSON of the annotation.
        """
        findings = self._findings
        findings.location = ("annotations", position)
        if not isinstance(raw, dict):
            findings.add(
                "annotation_record", detail=f"annotations[{position}] is {format_value(raw)}"
            )
            return None
        annotation_id = self._resolve_id(position, raw)
        image_id, category_id = raw.get("image_id"), raw.get("category_id")
        record = find(self._records, image_id)
        if record is None:
            findings.add("unknown_image", None, annotation_id, f"image_id {format_value(image_id)}")
        category = find(self._indices, category_id)
        if category is None:
            detail = f"category_id {format_value(category_id)}"
            known_image = None if record is None else record.id
            findings.add("unknown_category", known_image, annotation_id, detail)
        if raw.get("keypoints"):
            findings.add("keypoints", None if record is None else record.id, annotation_id)
        # All faults of a record are collected, so that one run names them all.
        faults = _find_format_faults(raw)
        if record is None:
            self._add_faults(faults, None, annotation_id)
            return None
        crowd = self._parse_crowd(raw, record, annotation_id)
        segmentation = self._parse_segmentation(raw.get("segmentation"), record, annotation_id)
        box = self._parse_box(raw.get("bbox"), segmentation, record, annotation_id)
        visibility = [self._parse_visibility(raw, key, record, annotation_id) for key in VISIBILITY]
        self._add_faults(faults, record, annotation_id)
        if box is _SKIPPED_BOX or category is None or faults:
            return None
        area = self._parse_area(raw.get("area"), box, segmentation, record, annotation_id)
        annotation = Annotation(
            annotation_id,
            record.id,
            category,
            box,
            area,
            crowd,
            segmentation,
            occluded=visibility[0],
            truncated=visibility[1],
        )
        self._has_boxes = self._has_boxes or box is not None
        self._has_masks = self._has_masks or segmentation is not None
        if box is None:
            self._labels_only.append((record.id, annotation_id))
        return annotation

    def _add_faults(
        self, faults: Sequence[str], record: ImageRecord | None, annotation_id: Id
    ) -> None:
        if faults:
            image_id = None if record is None else record.id
            self._findings.add("annotation_record", image_id, annotation_id, "; ".join(faults))

    def _parse_crowd(self, raw: dict[str, Any], record: ImageRecord, annotation_id: Id) -> bool:
        crowd = raw.get("iscrowd")
        # An image-level label is not a region and cannot be a crowd.
        if crowd is None and (raw.get("bbox") or raw.get("segmentation")):
            self._findings.add("missing_iscrowd", record.id, annotation_id)
        return bool(crowd)

    def _resolve_id(self, position: int, raw: dict[str, Any]) -> Id:
        raw_id = to_whole_id(raw.get("id"))
        if is_id(raw_id) and raw_id not in self._ids:
            self._ids.add(raw_id)
            return raw_id
        if self._new_ids is None:
            self._new_ids = generate_new_ids(chain(self._ids, self._all_ids()))
        new_id = next(self._new_ids)
        self._ids.add(new_id)
        image_id = to_whole_id(raw.get("image_id"))
        reported_image_id = image_id if is_id(image_id) else None
        if is_id(raw_id):
            self._findings.add("duplicate_annotation", reported_image_id, raw_id, f"now {new_id}")
        else:
            self._findings.add("missing_id", reported_image_id, detail=f"annotations[{position}]")
        return new_id

    def _parse_segmentation(
        self, raw: Any, record: ImageRecord, annotation_id: Id
    ) -> list[Any] | dict[str, Any] | None:
        if not raw:
            return None
        if isinstance(raw, list):
            polygons = [packed for polygon in raw if (packed := pack_polygon(polygon)) is not None]
            if len(polygons) < len(raw):
                detail = f"{len(raw) - len(polygons)} of {len(raw)} polygons"
                self._findings.add("bad_segmentation", record.id, annotation_id, detail)
            return polygons or None
        if isinstance(raw, dict) and is_rle(raw, record.height, record.width):
            return raw
        self._findings.add("bad_segmentation", record.id, annotation_id, format_value(raw))
        return None

    def _parse_box(
        self, raw: Any, segmentation: Any, record: ImageRecord, annotation_id: Id
    ) -> Xywh | None:
        findings = self._findings
        if raw is None or raw == []:
            if segmentation is None:
                return None
            findings.add("missing_bbox", record.id, annotation_id)
            raw = compute_bounding_box(segmentation, record.height, record.width)
        if has_lost_number(raw):
            raw = [math.nan if number is None else number for number in raw]
        if not is_box(raw):
            return _SKIPPED_BOX  # `_find_format_faults` reports it
        x, y, width, height = raw
        if not is_finite(x, y, width, height):
            kind = "non_finite_box"
        elif width <= 0 or height <= 0:
            kind = "empty_box"
        elif x >= record.width or y >= record.height or x + width <= 0 or y + height <= 0:
            kind = "box_outside"
        else:
            if (
                min(x, y) < -FRAME_TOLERANCE
                or x + width > record.width + FRAME_TOLERANCE
                or y + height > record.height + FRAME_TOLERANCE
            ):
                findings.add("box_beyond_frame", record.id, annotation_id)
            return (x, y, width, height)
        if self._keep_degenerate and kind != "non_finite_box":
            return (x, y, width, height)
        size = f"the image is {record.width} x {record.height}"
        findings.add(kind, record.id, annotation_id, f"bbox {list(raw)}, {size}")
        return _SKIPPED_BOX

    def _parse_area(
        self,
        raw: Any,
        box: Xywh | None,
        segmentation: Any,
        record: ImageRecord,
        annotation_id: Id,
    ) -> float:
        if type(raw) in (int, float) and 0 <= raw <= MAX_NUMBER:
            return float(raw)
        if box is None:
            return 0.0
        kind = "missing_area" if raw is None else "bad_area"
        self._findings.add(kind, record.id, annotation_id)
        if segmentation is not None:
            return compute_mask_area(segmentation, record.height, record.width)
        return float(box[2] * box[3])

    def _parse_visibility(
        self, raw: dict[str, Any], key: str, record: ImageRecord, annotation_id: Id
    ) -> float | None:
        """Return `occluded` or `truncated` from the annotation or from its `attributes`."""
        attributes = raw.get("attributes")
        value = raw.get(key)
        if value is None and isinstance(attributes, dict):
            value = attributes.get(key)
        if not is_visibility(key, value):
            detail = f"{key} {format_value(value)}"
            self._findings.add("bad_visibility", record.id, annotation_id, detail)
            return None
        if value is True:
            return VISIBILITY[key][1]
        return None if value is None or value == -1 else float(value)


def _find_format_faults(raw: dict[str, Any]) -> list[str]:
    """Return the faults that make a record unusable, whatever its image and category."""
    faults = []
    crowd, box, area = raw.get("iscrowd"), raw.get("bbox"), raw.get("area")
    if crowd is not None and crowd not in (0, 1):
        faults.append(f"iscrowd {format_value(crowd)}; allowed: 0, 1")
    if box is not None and box != [] and not is_box(box) and not has_lost_number(box):
        faults.append(f"bbox {format_value(box)}, it must be four numbers [x, y, width, height]")
    if faults and area is not None and type(area) not in (int, float):
        faults.append(f"area {format_value(area)}, it must be a number")
    return faults


def is_visibility(key: str, value: object) -> bool:
    """Return whether `value` is a valid or unknown `occluded` or `truncated`.

    Args:
        key: `occluded` or `truncated`.
        value: Value in the file. KITTI writes -1 for regions where nothing is known.
    """
    if value is None or isinstance(value, bool):
        return True
    maximum = VISIBILITY[key][0]
    return isinstance(value, int | float) and (value == -1 or 0 <= value <= maximum)
