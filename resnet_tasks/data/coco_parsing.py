"""Records of a COCO file: repairs what is safe to repair, and counts everything it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeGuard

from resnet_tasks.data.categories import CategoryMap
from resnet_tasks.data.coco_masks import is_rle, mask_area, packed_polygon, surrounding
from resnet_tasks.data.coco_problems import Findings, Id, listed, shown
from resnet_tasks.data.coco_records import Annotation, ImageRecord, Xywh
from resnet_tasks.data.picture_files import stored_size
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
"""Pixels by which a box may leave its picture before that is worth a note (rounding of files)."""


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
        raise DataError(f"{path} must hold a COCO object, got {shown(raw)}")
    return raw


def require_coco(path: Path, raw: Any) -> dict[str, Any]:
    """The top level of a COCO file, with lists of pictures, annotations and categories.

    Raises:
        DataError: If it is something else, or lacks one.
    """
    content = require_object(path, raw)
    for key in ("images", "categories"):
        if key not in content:
            raise DataError(
                f"{path} has no `{key}` (its keys: {listed(content, 20)}); a COCO file needs "
                "`images` and `categories`"
            )
    for key in ("images", "annotations"):
        if not isinstance(content.get(key, []), list):
            raise DataError(f"{path}: `{key}` must be a list, got {shown(content[key])}")
    return content


_BOOKKEEPING = frozenset(
    {"id", "file_name", "height", "width", "sem_seg_file_name", "group", "spacing"}
    | {"license", "coco_url", "flickr_url", "date_captured"}
)


def picture_folder(
    path: Path, info: Mapping[str, Any], images_root: str | Path | None = None
) -> Path:
    """The folder that the pictures' names are relative to.

    Raises:
        DataError: If a folder is named that is not there, or that no folder can be called.
    """
    for key in ("images_root", "sem_seg_root"):
        if "\0" in str(info.get(key, "")):
            raise DataError(
                f"{path}: info.{key} holds a zero byte, as no folder's name does; mend it"
            )
    if images_root is None:
        return path.parent / _text(info, "images_root")
    if not Path(images_root).is_dir():
        raise DataError(
            f"{path}: its folder of pictures {images_root} is not there; mend `images:`"
        )
    return Path(images_root)


class ImageReader:
    """One pass over the image records of a file.

    Args:
        root: Folder of the pictures.
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
        self._findings.place = ("images", position)
        record = self._image(position, raw)
        if record is None:
            return None
        if record.id in self._ids:
            self._findings.add("duplicate_image", record.id, detail=record.file_name)
        if record.file_name in self._names:
            self._findings.add("repeated_file", record.id, detail=record.file_name)
        self._ids.add(record.id)
        self._names.add(record.file_name)
        return record

    def _image(self, position: int, raw: Any) -> ImageRecord | None:
        root, findings = self._root, self._findings
        if not isinstance(raw, dict):
            findings.add("image_record", detail=f"images[{position}] is {shown(raw)}")
            return None
        image_id, name = raw.get("id"), raw.get("file_name")
        if not _is_id(image_id):
            findings.add("image_record", detail=f"images[{position}] has id {shown(image_id)}")
            return None
        if not isinstance(name, str) or not name:
            findings.add("image_record", image_id, detail=f"file_name {shown(name)}")
            return None
        semantic = raw.get("sem_seg_file_name")
        for each in (name, semantic):
            if each is not None and not self._is_allowed(each):
                findings.add("image_path", image_id, detail=str(each))
                return None
        height, width = raw.get("height"), raw.get("width")
        if height is None and width is None:
            size = stored_size(root / name)
            if size is None:
                detail = f"no height and width, and {root / name} cannot be read"
                findings.add("image_record", image_id, detail=detail)
                return None
            findings.add("missing_size", image_id)
            height, width = size
        if not (_is_length(height) and _is_length(width)):
            detail = f"height {shown(height)}, width {shown(width)}"
            findings.add("image_record", image_id, detail=detail)
            return None
        group, spacing = raw.get("group"), raw.get("spacing")
        if spacing is not None and not _is_spacing(spacing):
            findings.add("bad_spacing", image_id, detail=f"spacing {shown(spacing)}")
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


_LEFT_OUT: Xywh = (math.nan, math.nan, math.nan, math.nan)
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

    def held(self, *, is_listed: bool) -> frozenset[str]:
        """What the file annotates, by what it holds."""
        kinds = {
            "boxes": self._has_boxes,
            "masks": self._has_masks,
            "semantic": self._has_sem_seg,
            "image": bool(self.labels_only) and not self._has_boxes,
        }
        found = frozenset(kind for kind, is_held in kinds.items() if is_held)
        return found or frozenset(("boxes",) if is_listed else ())

    def read(self, position: int, raw: Any) -> Annotation | None:
        """The annotation, or None and a problem where it cannot be used."""
        findings = self._findings
        findings.place = ("annotations", position)
        if not isinstance(raw, dict):
            findings.add("annotation_record", detail=f"annotations[{position}] is {shown(raw)}")
            return None
        annotation_id = self._annotation_id(position, raw)
        image_id, category_id = raw.get("image_id"), raw.get("category_id")
        record = find(self._records, image_id)
        if record is None:
            findings.add("unknown_image", None, annotation_id, f"image_id {shown(image_id)}")
            return None
        category = find(self._indices, category_id)
        if category is None:
            detail = f"category_id {shown(category_id)}"
            findings.add("unknown_category", record.id, annotation_id, detail)
            return None
        crowd = raw.get("iscrowd")
        if crowd is None and not (raw.get("bbox") or raw.get("segmentation")):
            crowd = 0  # an image-level label is no region that could be a crowd
        if crowd is None:
            findings.add("missing_iscrowd", record.id, annotation_id)
        elif crowd not in (0, 1):
            detail = f"iscrowd {shown(crowd)}, allowed are 0 and 1"
            findings.add("annotation_record", record.id, annotation_id, detail)
            return None
        segmentation = self._segmentation(raw.get("segmentation"), record, annotation_id)
        box = self._box(raw.get("bbox"), segmentation, record, annotation_id)
        if box is _LEFT_OUT:
            return None
        area = self._area(raw.get("area"), box, segmentation, record, annotation_id)
        annotation = Annotation(
            annotation_id,
            record.id,
            category,
            box,
            area,
            bool(crowd),
            segmentation,
            occluded=self._visibility(raw, "occluded", record, annotation_id),
            truncated=self._visibility(raw, "truncated", record, annotation_id),
        )
        self._has_boxes = self._has_boxes or box is not None
        self._has_masks = self._has_masks or segmentation is not None
        if box is None:
            self.labels_only.append((record.id, annotation_id))
        return annotation

    def _annotation_id(self, position: int, raw: dict[str, Any]) -> Id:
        found = raw.get("id")
        if _is_id(found) and found not in self._ids:
            self._ids.add(found)
            return found
        if self._new_ids is None:
            self._new_ids = ids_above(chain(self._ids, self._all_ids()))
        made = next(self._new_ids)
        self._ids.add(made)
        image_id = raw.get("image_id")
        shown = image_id if _is_id(image_id) else None
        if _is_id(found):
            self._findings.add("duplicate_annotation", shown, found, f"now {made}")
        else:
            self._findings.add("missing_id", shown, detail=f"annotations[{position}]")
        return made

    def _segmentation(
        self, raw: Any, record: ImageRecord, annotation_id: Id
    ) -> list[Any] | dict[str, Any] | None:
        if not raw:
            return None
        if isinstance(raw, list):
            polygons = [
                packed for polygon in raw if (packed := packed_polygon(polygon)) is not None
            ]
            if len(polygons) < len(raw):
                detail = f"{len(raw) - len(polygons)} of {len(raw)} polygons"
                self._findings.add("bad_segmentation", record.id, annotation_id, detail)
            return polygons or None
        if isinstance(raw, dict) and is_rle(raw, record.height, record.width):
            return raw
        self._findings.add("bad_segmentation", record.id, annotation_id, shown(raw))
        return None

    def _box(
        self, raw: Any, segmentation: Any, record: ImageRecord, annotation_id: Id
    ) -> Xywh | None:
        findings = self._findings
        if raw is None or raw == []:
            if segmentation is None:
                return None
            findings.add("missing_bbox", record.id, annotation_id)
            raw = surrounding(segmentation, record.height, record.width)
        if not is_box(raw):
            detail = f"bbox {shown(raw)}, it must be four numbers [x, y, width, height]"
            findings.add("annotation_record", record.id, annotation_id, detail)
            return _LEFT_OUT
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
        size = f"the picture is {record.width} x {record.height}"
        findings.add(kind, record.id, annotation_id, f"bbox {list(raw)}, {size}")
        return _LEFT_OUT

    def _area(
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
            return mask_area(segmentation, record.height, record.width)
        return float(box[2] * box[3])

    def _visibility(
        self, raw: dict[str, Any], key: str, record: ImageRecord, annotation_id: Id
    ) -> float | None:
        """`occluded` or `truncated`, from the annotation itself or its `attributes`."""
        attributes = raw.get("attributes")
        value = raw.get(key)
        if value is None and isinstance(attributes, dict):
            value = attributes.get(key)
        if value is None or value == -1:  # -1: KITTI's regions where nothing is known
            return None
        most, told = VISIBILITY[key]
        if isinstance(value, bool):
            return told if value else 0.0
        if isinstance(value, int | float) and 0 <= value <= most:
            return float(value)
        detail = f"{key} {shown(value)}"
        self._findings.add("bad_visibility", record.id, annotation_id, detail)
        return None


def declared_kinds(path: Path, raw: object) -> frozenset[str]:
    """What a file or a caller says is annotated.

    Raises:
        DataError: If that is none of `ANNOTATED`.
    """
    chosen = [raw] if isinstance(raw, str) else raw
    if not isinstance(chosen, Iterable):
        raise DataError(f"{path}: `annotated` must be a list of {listed(ANNOTATED)}, got {raw!r}")
    values = list(chosen)
    unknown = [value for value in values if value not in ANNOTATED]
    if unknown:
        raise DataError(
            f"{path}: `annotated` holds {listed(map(repr, unknown))}; allowed: {listed(ANNOTATED)}"
        )
    return frozenset(map(str, values))


def is_inside(name: str) -> bool:
    """Whether a file name stays inside the folder that it is relative to, on any system."""
    parts = name.replace("\\", "/").split("/")
    is_rooted = parts[0] == "" or parts[0][1:2] == ":"
    return not is_rooted and ".." not in parts and "\0" not in name


def ids_above(known: Iterable[Any]) -> Iterator[int]:
    """New ids, above all whole numbers among the known ones."""
    return count(max((each for each in known if type(each) is int), default=0) + 1)


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
        and all(type(each) in (int, float) and 0 < each <= MAX_NUMBER for each in value)
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
        and all(type(each) in (int, float) for each in value)
    )


def _text(raw: Mapping[str, Any], key: str) -> str:
    value = raw.get(key)
    return value if isinstance(value, str) else ""
