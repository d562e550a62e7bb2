"""Repairs of single records of COCO files, each with what it changed."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_tasks.data.categories import CategoryMap
from resnet_tasks.data.coco_masks import is_rle, mask_area, packed_polygon, surrounding
from resnet_tasks.data.coco_parsing import AnnotationReader, find, is_box, is_inside
from resnet_tasks.data.coco_problems import Findings, Id
from resnet_tasks.data.coco_records import ImageRecord

ABSENT = object()
"""Stands for a key that is not there."""
ROUNDS = 4
"""How often a record is read again after a repair: readers stop at its first error."""
_IDS = frozenset({"missing_id", "duplicate_annotation"})
_NO_BOX = frozenset({"empty_box", "non_finite_box", "box_outside"})

Note = Callable[[str, str | None, Any, Any], None]
"""Called with (kind, key or None for the whole record, before, after)."""


@dataclass(frozen=True)
class AnnotationMender:
    """Repairs annotations as far as that is safe.

    Attributes:
        categories: Of the file.
        records: Images by id.
        leave: Kinds that are not repaired.
        drop: Kinds whose annotations are taken out.
        new_id: Gives ids that the file does not have.
    """

    categories: CategoryMap
    records: Mapping[Id, ImageRecord]
    leave: Collection[str]
    drop: Collection[str]
    new_id: Callable[[], int]

    def mend(self, raw: Any, kinds: Collection[str], note: Note) -> bool:
        """Changes a record in place.

        Args:
            raw: The record.
            kinds: What is wrong with it.
            note: Is told every change.

        Returns:
            Whether it stays in the file.
        """
        found = set(kinds)
        for _ in range(ROUNDS):
            found -= set(self.leave)
            for kind in sorted(found):
                if kind in self.drop or kind == "repeated_object":
                    note(kind, None, raw, ABSENT)
                    return False
            if not isinstance(raw, dict):
                break
            is_changed = self._applied(raw, found, note)
            if found & _NO_BOX and self.kinds_of(raw) & _NO_BOX:
                note(min(found & _NO_BOX), None, raw, ABSENT)
                return False
            if not is_changed:
                break
            found = self.kinds_of(raw)
        return True

    def kinds_of(self, raw: Any) -> set[str]:
        """What is wrong with a record by itself; whether its id is unique is not looked at."""
        findings = Findings(Path(), keep_all=True)
        record = find(self.records, raw.get("image_id")) if isinstance(raw, dict) else None
        images = [] if record is None else [record]
        reader = AnnotationReader(self.categories, images, findings, keep_degenerate=False)
        reader.read(0, raw)
        return {each.kind for each in findings.all}

    def _applied(self, raw: dict[str, Any], kinds: Collection[str], note: Note) -> bool:
        """Whether anything could be repaired."""
        put = _Changes(raw, note)
        if "unknown_image" in kinds:
            put.replace("unknown_image", "image_id", _same_id(raw.get("image_id"), self.records))
        if "unknown_category" in kinds:
            known = self.categories.index_table
            put.replace("unknown_category", "category_id", _same_id(raw.get("category_id"), known))
        for kind in _IDS & set(kinds):
            put.replace(kind, "id", self.new_id())
        if "missing_iscrowd" in kinds:
            put.replace("missing_iscrowd", "iscrowd", 0)
        if "bad_visibility" in kinds:
            _clear_visibility(raw, put)
        record = find(self.records, raw.get("image_id"))
        if record is not None:
            _mend_geometry(raw, record, kinds, put)
        return put.number > 0


class _Changes:
    """Sets keys of a record, and tells what changed."""

    def __init__(self, raw: dict[str, Any], note: Note) -> None:
        self._raw = raw
        self._note = note
        self.number = 0

    def replace(self, kind: str, key: str, value: Any) -> None:
        """Sets a key, or takes it out where `value` is ABSENT; None leaves it."""
        before = self._raw.get(key, ABSENT)
        if value is None or value is before or (type(value) is type(before) and value == before):
            return
        if value is ABSENT:
            del self._raw[key]
        else:
            self._raw[key] = value
        self._note(kind, key, before, value)
        self.number += 1


def _same_id(value: Any, known: Mapping[Any, Any]) -> Id | None:
    """The known id that is written the same, as text or as a number."""
    if isinstance(value, str) and value.lstrip("-").isdecimal() and int(value) in known:
        return int(value)
    if type(value) is float and value.is_integer() and int(value) in known:
        return int(value)
    if type(value) is int and str(value) in known:
        return str(value)
    return None


def _clear_visibility(raw: dict[str, Any], put: _Changes) -> None:
    for key, most in (("occluded", 3), ("truncated", 1)):
        if _is_odd(raw.get(key), most):
            put.replace("bad_visibility", key, ABSENT)
    attributes = raw.get("attributes")
    if isinstance(attributes, dict):
        kept = {
            key: value
            for key, value in attributes.items()
            if not (key in ("occluded", "truncated") and _is_odd(value, 3 if key[0] == "o" else 1))
        }
        put.replace("bad_visibility", "attributes", kept)


def _is_odd(value: Any, most: float) -> bool:
    if value is None or isinstance(value, bool):
        return False
    is_number = isinstance(value, int | float)
    return not (is_number and (value == -1 or 0 <= value <= most))


def _mend_geometry(
    raw: dict[str, Any], record: ImageRecord, kinds: Collection[str], put: _Changes
) -> None:
    """Segmentation, then the box from it, then the area from both."""
    size = (record.height, record.width)
    mask = _usable_mask(raw.get("segmentation"), size)
    if "bad_segmentation" in kinds:
        put.replace("bad_segmentation", "segmentation", ABSENT if mask is None else mask)
    boxless = sorted((_NO_BOX | {"missing_bbox"}) & set(kinds))
    if boxless and mask is not None:
        packed = [packed_polygon(each) for each in mask] if isinstance(mask, list) else mask
        put.replace(boxless[0], "bbox", _cut(surrounding(packed, *size), record) or None)
    box = raw.get("bbox")
    old_area = raw.get("area")
    area_kind = next(iter(sorted({"missing_area", "bad_area", "area_beyond_box"} & set(kinds))), "")
    if "box_beyond_frame" in kinds and is_box(box):
        cut = _cut(list(box), record)
        if mask is None and isinstance(old_area, int | float):
            is_of_box = math.isclose(old_area, box[2] * box[3])
            area_kind = area_kind or ("box_beyond_frame" if is_of_box else "")
        put.replace("box_beyond_frame", "bbox", cut or None)
        box = raw.get("bbox")
    if area_kind and is_box(box):
        area = mask_area(mask, *size) if mask is not None else float(box[2] * box[3])
        put.replace(area_kind, "area", area)


def _usable_mask(raw: Any, size: tuple[int, int]) -> Any:
    """What of a segmentation can be used; None where nothing can."""
    if isinstance(raw, list):
        return [each for each in raw if packed_polygon(each) is not None] or None
    return raw if isinstance(raw, dict) and is_rle(raw, *size) else None


def _cut(box: list[float], record: ImageRecord) -> list[float]:
    """The part of a box inside its picture; empty where there is none."""
    x, y, width, height = box
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, record.width), min(y + height, record.height)
    return [left, top, right - left, bottom - top] if right > left and bottom > top else []


def relative_name(name: str, root: Path) -> str | None:
    """An absolute or roundabout file name, relative to the folder that it lies in; else None."""
    try:
        inside = os.path.relpath(
            os.path.realpath(os.path.join(root, name)),  # noqa: PTH118
            os.path.realpath(root),
        )
    except (OSError, ValueError):  # too long, or with a zero byte
        return None
    made = Path(inside).as_posix()
    return made if is_inside(made) and made != "." else None
