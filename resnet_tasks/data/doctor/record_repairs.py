"""Repairs of single records of COCO files, with a log of every change."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_tasks.data.coco.annotation_reader import (
    VISIBILITY,
    AnnotationReader,
    is_visibility,
)
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.field_values import clip_to_image, find, is_box, parse_integer_id
from resnet_tasks.data.coco.masks import (
    compute_bounding_box,
    compute_mask_area,
    is_rle,
    pack_polygon,
)
from resnet_tasks.data.coco.problems import Findings, Id
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.files.safe_names import is_inside

ABSENT = object()
"""Sentinel for a missing key."""
ROUNDS = 4
"""Largest number of repair rounds. The reader stops at the first error of a record, so further
errors appear only after a repair."""
_IDS = frozenset({"missing_id", "duplicate_annotation"})
_NO_BOX = frozenset({"empty_box", "non_finite_box", "box_outside"})

Note = Callable[[str, str | None, Any, Any], None]
"""Callback for changes: (kind, key or None for the whole record, value before, value after)."""


@dataclass(frozen=True)
class AnnotationRepairer:
    """Repairer of annotations that makes only safe changes.

    Attributes:
        categories: Categories of the file.
        records: Image id -> image record.
        leave: Kinds of problems that are not repaired.
        drop: Kinds of problems whose annotations are removed.
        new_id: Function that returns an id that the file does not have.
    """

    categories: CategoryMap
    records: Mapping[Id, ImageRecord]
    leave: Collection[str]
    drop: Collection[str]
    new_id: Callable[[], int]

    def repair(self, raw: Any, kinds: Collection[str], note: Note) -> bool:
        """Repair a record in place.

        Args:
            raw: Decoded JSON of the annotation.
            kinds: Kinds of its problems.
            note: Callback for every change.

        Returns:
            Whether the record stays in the file.
        """
        remaining_kinds = set(kinds)
        for _ in range(ROUNDS):
            remaining_kinds -= set(self.leave)
            for kind in sorted(remaining_kinds):
                if kind in self.drop or kind == "repeated_object":
                    note(kind, None, raw, ABSENT)
                    return False
            if not isinstance(raw, dict):
                break
            is_changed = self._apply_repairs(raw, remaining_kinds, note)
            if remaining_kinds & _NO_BOX and self.find_problem_kinds(raw) & _NO_BOX:
                note(min(remaining_kinds & _NO_BOX), None, raw, ABSENT)
                return False
            if not is_changed:
                break
            remaining_kinds = self.find_problem_kinds(raw)
        return True

    def find_problem_kinds(self, raw: Any) -> set[str]:
        """Return the kinds of problems of a single record, without checking for a duplicate id."""
        findings = Findings(Path(), keep_all=True)
        record = find(self.records, raw.get("image_id")) if isinstance(raw, dict) else None
        images = [] if record is None else [record]
        reader = AnnotationReader(self.categories, images, findings)
        reader.read(0, raw)
        return {finding.kind for finding in findings.all}

    def _apply_repairs(self, raw: dict[str, Any], kinds: Collection[str], note: Note) -> bool:
        """Repair a record and return whether anything changed."""
        editor = _RecordEditor(raw, note)
        if "unknown_image" in kinds:
            editor.set_key(
                "unknown_image", "image_id", _match_id(raw.get("image_id"), self.records)
            )
        if "unknown_category" in kinds:
            known_ids = self.categories.index_table
            editor.set_key(
                "unknown_category", "category_id", _match_id(raw.get("category_id"), known_ids)
            )
        for kind in _IDS & set(kinds):
            editor.set_key(kind, "id", self.new_id())
        if "missing_iscrowd" in kinds:
            editor.set_key("missing_iscrowd", "iscrowd", 0)
        if "bad_visibility" in kinds:
            _remove_bad_visibility(raw, editor)
        record = find(self.records, raw.get("image_id"))
        if record is not None:
            _repair_geometry(raw, record, kinds, editor)
        return editor.number > 0


class _RecordEditor:
    """Editor that sets keys of a record and reports the changes."""

    def __init__(self, raw: dict[str, Any], note: Note) -> None:
        self._raw = raw
        self._note = note
        self.number = 0

    def set_key(self, kind: str, key: str, value: Any) -> None:
        """Set a key, or remove it if `value` is ABSENT. None leaves it unchanged."""
        before = self._raw.get(key, ABSENT)
        if value is None or value is before or (type(value) is type(before) and value == before):
            return
        if value is ABSENT:
            del self._raw[key]
        else:
            self._raw[key] = value
        self._note(kind, key, before, value)
        self.number += 1


def _match_id(value: Any, known_ids: Mapping[Any, Any]) -> Id | None:
    """Return the known id that is written the same, as a string or as a number."""
    if isinstance(value, str):
        number = parse_integer_id(value)
        return number if number in known_ids else None
    if type(value) is float and value.is_integer() and int(value) in known_ids:
        return int(value)
    if type(value) is int and str(value) in known_ids:
        return str(value)
    return None


def _remove_bad_visibility(raw: dict[str, Any], editor: _RecordEditor) -> None:
    for key in VISIBILITY:
        if not is_visibility(key, raw.get(key)):
            editor.set_key("bad_visibility", key, ABSENT)
    attributes = raw.get("attributes")
    if isinstance(attributes, dict):
        valid_attributes = {
            key: value
            for key, value in attributes.items()
            if key not in VISIBILITY or is_visibility(key, value)
        }
        editor.set_key("bad_visibility", "attributes", valid_attributes)


def _repair_geometry(
    raw: dict[str, Any], record: ImageRecord, kinds: Collection[str], editor: _RecordEditor
) -> None:
    """Repair the segmentation, then the box from it, then the area from both."""
    size = (record.height, record.width)
    mask = _extract_usable_mask(raw.get("segmentation"), size)
    if "bad_segmentation" in kinds:
        editor.set_key("bad_segmentation", "segmentation", ABSENT if mask is None else mask)
    boxless = sorted((_NO_BOX | {"missing_bbox"}) & set(kinds))
    if boxless and mask is not None:
        packed = [pack_polygon(polygon) for polygon in mask] if isinstance(mask, list) else mask
        editor.set_key(
            boxless[0], "bbox", _clip_box(compute_bounding_box(packed, *size), record) or None
        )
    elif "empty_box" in kinds and is_box(raw.get("bbox")):
        editor.set_key("empty_box", "bbox", _turn_negative_sizes(raw["bbox"]))
    box = raw.get("bbox")
    old_area = raw.get("area")
    area_kind = next(iter(sorted({"missing_area", "bad_area", "area_beyond_box"} & set(kinds))), "")
    if "box_beyond_frame" in kinds and is_box(box):
        clipped = _clip_box(list(box), record)
        if mask is None and isinstance(old_area, int | float):
            # Without a mask, the area is recomputed only if it was the area of the box before
            # clipping.
            is_of_box = math.isclose(old_area, box[2] * box[3])
            area_kind = area_kind or ("box_beyond_frame" if is_of_box else "")
        editor.set_key("box_beyond_frame", "bbox", clipped or None)
        box = raw.get("bbox")
    if area_kind and is_box(box):
        area = compute_mask_area(mask, *size) if mask is not None else float(box[2] * box[3])
        editor.set_key(area_kind, "area", area)


def _extract_usable_mask(raw: Any, size: tuple[int, int]) -> Any:
    """Return the usable part of a segmentation, or None if there is none."""
    if isinstance(raw, list):
        return [polygon for polygon in raw if pack_polygon(polygon) is not None] or None
    return raw if isinstance(raw, dict) and is_rle(raw, *size) else None


def _turn_negative_sizes(box: Sequence[float]) -> list[float]:
    """Return the box that a negative width or height spans to the left or upwards."""
    x, y, width, height = box
    return [min(x, x + width), min(y, y + height), abs(width), abs(height)]


def _clip_box(box: list[float], record: ImageRecord) -> list[float]:
    """Return the part of a box inside its image, or an empty list if there is none."""
    left, top, right, bottom = clip_to_image(box, (record.height, record.width))
    return [left, top, right - left, bottom - top] if right > left and bottom > top else []


def make_relative_name(name: str, root: Path) -> str | None:
    """Return a file name as a normalized path relative to `root`, or None if it is not inside."""
    try:
        inside = os.path.relpath(
            os.path.realpath(os.path.join(root, name)),  # noqa: PTH118
            os.path.realpath(root),
        )
    except (OSError, ValueError):  # too long, or with a zero byte
        return None
    relative_path = Path(inside).as_posix()
    return relative_path if is_inside(relative_path) and relative_path != "." else None
