"""Records of a COCO file: repairs what is safe to repair, and counts everything it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeGuard

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.masks import (
    compute_bounding_box,
    compute_mask_area,
    is_rle,
    pack_polygon,
)
from resnet_tasks.data.coco.problems import Findings, Id, format_list, format_value
from resnet_tasks.data.coco.records import Annotation, ImageRecord, Xywh
from resnet_tasks.data.images.image_files import try_read_image_size
from resnet_tasks.errors import DataError

ANNOTATED = ("boxes", "masks", "semantic", "image")
"""What a file can say it annotates."""


VISIBILITY = {"occluded": (3, 1.0), "truncated": (1, 0.3)}
"""Key -> (highest value, what a bare `true` counts as: visible enough for KITTI's moderate, not for
its easy)."""

MAX_NUMBER = 1e300
"""JSON may hold whole numbers beyond all floats."""
MAX_LENGTH = 1e9
"""Pixels of a side."""
FRAME_TOLERANCE = 1e-3
"""Pixels by which a box may leave its image before that is worth a note (rounding of files)."""


def require_object(path: Path, raw: Any) -> dict[str, Any]:
    """The top level of a COCO file, which is an object.

    Raises:
        DataError: If it is something else, such as a results file.
    """
    if isinstance(raw, list):
        raise DataError(
            f"{path} is a list: that is a COCO results file (predictions); give the annotation "
            "file, an object with `images`, `annotations` and `categories`"
        )
    if not isinstance(raw, dict):
        raise DataError(f"{path} must hold a COCO object, got {format_value(raw)}")
    return raw


def require_coco(path: Path, raw: Any) -> dict[str, Any]:
    """The top level of a COCO file, with lists of images, annotations and categories.

    Raises:
        DataError: If it is something else, or lacks one.
    """
    content = require_object(path, raw)
    for key in ("images", "categories"):
        if key not in content:
            raise DataError(
                f"{path} has no `{key}` (its keys: {format_list(content, 20)}); a COCO file needs "
                "`images` and `categories`"
            )
    for key in ("images", "annotations"):
        if not isinstance(content.get(key, []), list):
            raise DataError(f"{path}: `{key}` must be a list, got {format_value(content[key])}")
    return content


_BOOKKEEPING = frozenset(
    {"id", "file_name", "height", "width", "sem_seg_file_name", "group", "spacing"}
    | {"license", "coco_url", "flickr_url", "date_captured"}
)


def resolve_image_folder(
    path: Path, info: Mapping[str, Any], images_root: str | Path | None = None
) -> Path:
    """The folder that the images' names are relative to.

    Raises:
        DataError: If a folder is named that is not there, or that no folder can be called.
    """
    for key in ("images_root", "sem_seg_root"):
        if "\0" in str(info.get(key, "")):
            raise DataError(
                f"{path}: info.{key} holds a zero byte, as no folder's name does; mend it"
            )
    if images_root is None:
        return path.parent / _get_text(info, "images_root")
    if not Path(images_root).is_dir():
        raise DataError(f"{path}: its folder of images {images_root} is not there; mend `images:`")
    return Path(images_root)


class ImageReader:
    """One pass over the image records of a file.

    Args:
        root: Folder of the images.
        findings: Where problems go.
        allow_outside: As in `read_coco`.
    """

    def __init__(self, root: Path, findings: Findings, *, allow_outside: bool = False) -> None:
        self._root = root
        self._allow_outside = allow_outside
        self._findings = findings
        self._ids: set[Id] = set()
        self._names: set[str] = set()

    def read(self, position: int, raw: Any) -> ImageRecord | None:
        """The record, or None and a problem where it cannot be used."""
        self._findings.location = ("images", position)
        record = self._parse_image(position, raw)
        if record is None:
            return None
        if record.id in self._ids:
            self._findings.add("duplicate_image", record.id, detail=record.file_name)
        if record.file_name in self._names:
            self._findings.add("repeated_file", record.id, detail=record.file_name)
        self._ids.add(record.id)
        self._names.add(record.file_name)
        return record

    def _parse_image(self, position: int, raw: Any) -> ImageRecord | None:
        root, findings = self._root, self._findings
        if not isinstance(raw, dict):
            findings.add("image_record", detail=f"images[{position}] is {format_value(raw)}")
            return None
        image_id, name = raw.get("id"), raw.get("file_name")
        if not _is_id(image_id):
            findings.add(
                "image_record", detail=f"images[{position}] has id {format_value(image_id)}"
            )
            return None
        if not isinstance(name, str) or not name:
            findings.add("image_record", image_id, detail=f"file_name {format_value(name)}")
            return None
        semantic = raw.get("sem_seg_file_name")
        for file_name in (name, semantic):
            if file_name is not None and not self._is_allowed(file_name):
                findings.add("image_path", image_id, detail=str(file_name))
                return None
        height, width = raw.get("height"), raw.get("width")
        if height is None and width is None:
            size = try_read_image_size(root / name)
            if size is None:
                detail = f"no height and width, and {root / name} cannot be read"
                findings.add("image_record", image_id, detail=detail)
                return None
            findings.add("missing_size", image_id)
            height, width = size
        if not (_is_length(height) and _is_length(width)):
            detail = f"height {format_value(height)}, width {format_value(width)}"
            findings.add("image_record", image_id, detail=detail)
            return None
        group, spacing = raw.get("group"), raw.get("spacing")
        if spacing is not None and not _is_spacing(spacing):
            findings.add("bad_spacing", image_id, detail=f"spacing {format_value(spacing)}")
            return None
        return ImageRecord(
            id=image_id,
            file_name=name,
            height=int(height),
            width=int(width),
            sem_seg_file_name=semantic,
            group=None if group is None else str(group),
            spacing=None if spacing is None else (float(spacing[0]), float(spacing[1])),
            extra={key: value for key, value in raw.items() if key not in _BOOKKEEPING},
        )

    def _is_allowed(self, name: object) -> bool:
        return isinstance(name, str) and (self._allow_outside or is_inside(name))


_SKIPPED_BOX: Xywh = (math.nan, math.nan, math.nan, math.nan)
"""Stands for a box that keeps its annotation from being used (compared by identity)."""


class AnnotationReader:
    """One pass over the annotations of a file.

    Args:
        categories: Of the file.
        images: Of the file.
        findings: Where problems go.
        keep_degenerate: As in `read_coco`.
        all_ids: Gives the ids of all annotations of the file; new ones lie above them.

    Attributes:
        labels_only: Image and annotation ids of what has neither box nor mask.
    """

    def __init__(
        self,
        categories: CategoryMap,
        images: Sequence[ImageRecord],
        findings: Findings,
        *,
        keep_degenerate: bool,
        all_ids: Callable[[], Iterable[Any]] = tuple,
    ) -> None:
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
        self.labels_only: list[tuple[Id, Id]] = []

    def get_annotated_kinds(self, *, is_listed: bool) -> frozenset[str]:
        """What the file annotates, by what it holds."""
        kinds = {
            "boxes": self._has_boxes,
            "masks": self._has_masks,
            "semantic": self._has_sem_seg,
            "image": bool(self.labels_only) and not self._has_boxes,
        }
        annotated_kinds = frozenset(kind for kind, is_present in kinds.items() if is_present)
        return annotated_kinds or frozenset(("boxes",) if is_listed else ())

    def read(self, position: int, raw: Any) -> Annotation | None:
        """The annotation, or None and a problem where it cannot be used."""
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
            return None
        category = find(self._indices, category_id)
        if category is None:
            detail = f"category_id {format_value(category_id)}"
            findings.add("unknown_category", record.id, annotation_id, detail)
            return None
        crowd = raw.get("iscrowd")
        if crowd is None and not (raw.get("bbox") or raw.get("segmentation")):
            crowd = 0  # an image-level label is no region that could be a crowd
        if crowd is None:
            findings.add("missing_iscrowd", record.id, annotation_id)
        elif crowd not in (0, 1):
            detail = f"iscrowd {format_value(crowd)}, allowed are 0 and 1"
            findings.add("annotation_record", record.id, annotation_id, detail)
            return None
        segmentation = self._parse_segmentation(raw.get("segmentation"), record, annotation_id)
        box = self._parse_box(raw.get("bbox"), segmentation, record, annotation_id)
        if box is _SKIPPED_BOX:
            return None
        area = self._parse_area(raw.get("area"), box, segmentation, record, annotation_id)
        annotation = Annotation(
            annotation_id,
            record.id,
            category,
            box,
            area,
            bool(crowd),
            segmentation,
            occluded=self._parse_visibility(raw, "occluded", record, annotation_id),
            truncated=self._parse_visibility(raw, "truncated", record, annotation_id),
        )
        self._has_boxes = self._has_boxes or box is not None
        self._has_masks = self._has_masks or segmentation is not None
        if box is None:
            self.labels_only.append((record.id, annotation_id))
        return annotation

    def _resolve_id(self, position: int, raw: dict[str, Any]) -> Id:
        raw_id = raw.get("id")
        if _is_id(raw_id) and raw_id not in self._ids:
            self._ids.add(raw_id)
            return raw_id
        if self._new_ids is None:
            self._new_ids = generate_new_ids(chain(self._ids, self._all_ids()))
        new_id = next(self._new_ids)
        self._ids.add(new_id)
        image_id = raw.get("image_id")
        reported_image_id = image_id if _is_id(image_id) else None
        if _is_id(raw_id):
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
        if not is_box(raw):
            detail = f"bbox {format_value(raw)}, it must be four numbers [x, y, width, height]"
            findings.add("annotation_record", record.id, annotation_id, detail)
            return _SKIPPED_BOX
        x, y, width, height = raw
        if not _is_finite(x, y, width, height):
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
        """`occluded` or `truncated`, from the annotation itself or its `attributes`."""
        attributes = raw.get("attributes")
        value = raw.get(key)
        if value is None and isinstance(attributes, dict):
            value = attributes.get(key)
        if value is None or value == -1:  # -1: KITTI's regions where nothing is known
            return None
        maximum, value_if_true = VISIBILITY[key]
        if isinstance(value, bool):
            return value_if_true if value else 0.0
        if isinstance(value, int | float) and 0 <= value <= maximum:
            return float(value)
        detail = f"{key} {format_value(value)}"
        self._findings.add("bad_visibility", record.id, annotation_id, detail)
        return None


def parse_annotated_kinds(path: Path, raw: object) -> frozenset[str]:
    """What a file or a caller says is annotated.

    Raises:
        DataError: If that is none of `ANNOTATED`.
    """
    kinds = [raw] if isinstance(raw, str) else raw
    if not isinstance(kinds, Iterable):
        raise DataError(
            f"{path}: `annotated` must be a list of {format_list(ANNOTATED)}, got {raw!r}"
        )
    values = list(kinds)
    unknown = [value for value in values if value not in ANNOTATED]
    if unknown:
        raise DataError(
            f"{path}: `annotated` holds {format_list(map(repr, unknown))}; allowed: "
            f"{format_list(ANNOTATED)}"
        )
    return frozenset(map(str, values))


def is_inside(name: str) -> bool:
    """Whether a file name stays inside the folder that it is relative to, on any system."""
    parts = name.replace("\\", "/").split("/")
    is_rooted = parts[0] == "" or parts[0][1:2] == ":"
    return not is_rooted and ".." not in parts and "\0" not in name


def generate_new_ids(existing_ids: Iterable[Any]) -> Iterator[int]:
    """New ids, above all whole numbers among the known ones."""
    return count(
        max((existing_id for existing_id in existing_ids if type(existing_id) is int), default=0)
        + 1
    )


def find(table: Mapping[Any, Any], key: object) -> Any:
    """`table[key]`, or None where there is none or `key` is a list or an object."""
    return table.get(key) if _is_id(key) else None


def _is_id(value: object) -> TypeGuard[Id]:
    return type(value) is int or (type(value) is str and value != "")


def _is_length(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 1 <= value <= MAX_LENGTH and value == int(value)


def _is_spacing(value: object) -> TypeGuard[Sequence[float]]:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(type(number) in (int, float) and 0 < number <= MAX_NUMBER for number in value)
    )


def _is_finite(*numbers: float) -> bool:
    """Whether no number is infinite, none at all, or a whole number beyond all floats."""
    try:
        return math.isfinite(sum(numbers))
    except OverflowError:
        return False


def is_box(value: object) -> TypeGuard[Xywh]:
    """Whether this is a list of four numbers."""
    return (
        isinstance(value, list | tuple)
        and len(value) == 4
        and all(type(number) in (int, float) for number in value)
    )


def _get_text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    return value if isinstance(value, str) else ""
