"""Conversion of COCO records that state a value in another form into the form that COCO defines.

Only forms with a single meaning are converted: numbers as text, whole numbers as floats, polygons
that are flat or lists of points, boxes as objects, backslashes between folders, names of files that
lead out of the image folder but occur once in it, and the placeholder categories of exports.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from resnet_tasks.data.coco.box_formats import (
    are_corner_boxes,
    are_relative_boxes,
    scale_to_pixels,
)
from resnet_tasks.data.coco.field_values import (
    is_box,
    is_finite,
    is_length,
    parse_integer_id,
    to_whole_id,
)
from resnet_tasks.data.coco.json_records import CocoContent, decode_record
from resnet_tasks.data.coco.masks import pack_polygon
from resnet_tasks.data.doctor.record_repairs import make_relative_name
from resnet_tasks.data.images.find_images import FileNameIndex, find_file
from resnet_tasks.files.safe_names import is_inside

CONVERTIBLE = ("relative_boxes", "corner_boxes")
"""Findings of another box format whose conversion can be requested."""

_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_BOX_KEYS = (("x", "y", "width", "height"), ("x", "y", "w", "h"))
_POINT_KEYS = {"x", "y"}


@dataclass(frozen=True)
class FormChange:
    """Change of the form of a value.

    Attributes:
        location: Position of the record in the file, such as `annotations[3]`.
        record: Decoded JSON of the record.
        kind: Kind of the finding that the change repairs.
        key: Changed key; None for a removed record.
        before: Value before the change.
        after: Value after the change; unused for a removed record.
    """

    location: str
    record: dict[str, Any]
    kind: str
    key: str | None
    before: Any
    after: Any = None


def standardize_content(
    content: CocoContent, root: Path, leave: Collection[str], convert: str | None = None
) -> tuple[CocoContent, list[FormChange]]:
    """Return the content with its values in standard forms, and the changes.

    Records that need no change stay undecoded.

    Args:
        content: Content of the file, which is not modified.
        root: Folder of the images.
        leave: Kinds of findings that are not repaired.
        convert: Finding whose boxes are converted to pixels, from `CONVERTIBLE`.
    """
    changes: list[FormChange] = []
    edit_image = partial(_standardize_image, root=root, files=FileNameIndex(root))
    top = dict(content.top)
    top["images"] = list(_edit_records(content, "images", edit_image, leave, changes))
    if isinstance(top.get("annotations"), list):
        top["annotations"] = list(
            _edit_records(content, "annotations", _standardize_annotation, leave, changes)
        )
    standard = replace(content, top=top)
    if convert is not None and isinstance(top.get("annotations"), list):
        top["annotations"] = list(_convert_boxes(standard, convert, changes))
    top["categories"] = _standardize_categories(standard, leave, changes)
    return standard, changes


class _FormEditor:
    """Editor that changes values of one record and collects the changes."""

    def __init__(
        self, location: str, record: dict[str, Any], leave: Collection[str], log: list[FormChange]
    ) -> None:
        self.is_changed = False
        self._location = location
        self._record = record
        self._leave = leave
        self._log = log

    def set_value(self, kind: str, key: str, value: Any) -> None:
        """Set a key that the record has, unless its value already has this form."""
        before = self._record.get(key)
        if kind in self._leave or _has_same_form(before, value):
            return
        self._record[key] = value
        self._log.append(FormChange(self._location, self._record, kind, key, before, value))
        self.is_changed = True


def _edit_records(
    content: CocoContent,
    section: str,
    edit: Callable[[_FormEditor, dict[str, Any]], None],
    leave: Collection[str],
    log: list[FormChange],
) -> Iterator[Any]:
    """Yield the records of a section, edited; records without a change stay undecoded."""
    for position, entry in enumerate(content.top[section]):
        record = decode_record(entry)
        if not isinstance(record, dict):
            yield entry
            continue
        editor = _FormEditor(f"{section}[{position}]", record, leave, log)
        edit(editor, record)
        yield record if editor.is_changed else entry


def _standardize_image(
    editor: _FormEditor, record: dict[str, Any], root: Path, files: FileNameIndex
) -> None:
    editor.set_value("image_record", "id", to_whole_id(record.get("id")))
    for key in ("height", "width"):
        editor.set_value("image_record", key, _to_number(record.get(key)))
    name = record.get("file_name")
    if not isinstance(name, str):
        return
    slashed = name.replace("\\", "/")
    if not is_inside(name):
        is_other_file = make_relative_name(slashed, root) is None
        candidates = files.find(name) if is_other_file and find_file(root / slashed) is None else []
        if len(candidates) == 1:
            relative_name = candidates[0].relative_to(root).as_posix()
            editor.set_value("image_path", "file_name", relative_name)
    # Only a file that exists proves that the backslashes separate folders.
    elif slashed != name and not find_file(root / name) and find_file(root / slashed):
        editor.set_value("missing_file", "file_name", slashed)


def _standardize_annotation(editor: _FormEditor, record: dict[str, Any]) -> None:
    editor.set_value("missing_id", "id", to_whole_id(record.get("id")))
    editor.set_value("unknown_image", "image_id", to_whole_id(record.get("image_id")))
    editor.set_value("unknown_category", "category_id", to_whole_id(record.get("category_id")))
    editor.set_value("annotation_record", "bbox", _to_box(record.get("bbox")))
    editor.set_value("annotation_record", "iscrowd", _to_flag(record.get("iscrowd")))
    editor.set_value("bad_area", "area", _to_number(record.get("area")))
    polygons = _to_polygons(record.get("segmentation"))
    editor.set_value("bad_segmentation", "segmentation", polygons)


def _convert_boxes(content: CocoContent, convert: str, log: list[FormChange]) -> Iterator[Any]:
    """Yield the annotations with their boxes converted to [x, y, width, height] in pixels.

    Only boxes that are valid in the other format are converted, so that files may mix both.
    """
    # Text and number ids are unified later.
    sizes: dict[str, tuple[int, int]] = {}
    for image in content.iter_entries("images"):
        height, width = (_get_value(image, key) for key in ("height", "width"))
        if is_length(height) and is_length(width):
            sizes[str(_get_value(image, "id"))] = (int(height), int(width))
    for position, entry in enumerate(content.top["annotations"]):
        record = decode_record(entry)
        size = sizes.get(str(record.get("image_id"))) if isinstance(record, dict) else None
        box = _get_value(record, "bbox")
        if size is None or not (is_box(box) and is_finite(*box)):
            yield entry
            continue
        editor = _FormEditor(f"annotations[{position}]", record, (), log)
        if convert == "relative_boxes":
            _convert_relative_box(record, size, editor)
        else:
            _convert_corner_box(record, size, editor)
        yield record if editor.is_changed else entry


def _get_value(record: Any, key: str) -> Any:
    return record.get(key) if isinstance(record, dict) else None


def _convert_relative_box(
    record: dict[str, Any], size: tuple[int, int], editor: _FormEditor
) -> None:
    box = record["bbox"]
    if not are_relative_boxes(np.array([box], np.float64), np.array([size], np.float64))[0]:
        return
    polygons = record.get("segmentation")
    if polygons and _are_relative_polygons(polygons):
        scaled = [scale_to_pixels(polygon, size) for polygon in polygons]
        editor.set_value("relative_boxes", "segmentation", scaled)
    area = record.get("area")
    if isinstance(area, int | float) and 0 <= area <= 1:
        editor.set_value("relative_boxes", "area", area * size[0] * size[1])
    editor.set_value("relative_boxes", "bbox", scale_to_pixels(box, size))


def _are_relative_polygons(value: Any) -> bool:
    is_valid = isinstance(value, list) and all(pack_polygon(part) is not None for part in value)
    return is_valid and all(0 <= number <= 1 for polygon in value for number in polygon)


def _convert_corner_box(record: dict[str, Any], size: tuple[int, int], editor: _FormEditor) -> None:
    x1, y1, x2, y2 = box = record["bbox"]
    if not are_corner_boxes(np.array([box], np.float64), np.array([size], np.float64))[0]:
        return
    area = record.get("area")
    # Other areas are of a mask, or were computed from the correct width and height.
    if isinstance(area, int | float) and is_finite(area) and math.isclose(area, x2 * y2):
        editor.set_value("corner_boxes", "area", (x2 - x1) * (y2 - y1))
    editor.set_value("corner_boxes", "bbox", [x1, y1, x2 - x1, y2 - y1])


def _standardize_categories(
    content: CocoContent, leave: Collection[str], log: list[FormChange]
) -> Any:
    """Return the categories with whole-number ids and without placeholders that no object has."""
    entries = content.top["categories"]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return entries
    categories = [dict(entry) for entry in entries]
    ids = [_to_category_id(category.get("id")) for category in categories]
    # Text and numbers may stand for different categories if both exist.
    if len(set(map(repr, ids))) == len(ids):
        for position, (category, category_id) in enumerate(zip(categories, ids, strict=True)):
            editor = _FormEditor(f"categories[{position}]", category, leave, log)
            editor.set_value("bad_categories", "id", category_id)
    placeholders = _find_placeholders(content, categories)
    kept_categories = []
    for position, category in enumerate(categories):
        kind = placeholders.get(position)
        if kind is None or kind in leave:
            kept_categories.append(category)
        else:
            log.append(FormChange(f"categories[{position}]", category, kind, None, category))
    return kept_categories


def _find_placeholders(content: CocoContent, categories: list[dict[str, Any]]) -> dict[int, str]:
    """Return the positions of placeholder categories and the kind of their finding.

    Roboflow adds category 0 for the dataset, which no object has. Its name is the supercategory of
    all other categories, and may also be the name of one of them.
    """
    names = Counter(repr(category.get("name")) for category in categories)
    parents = Counter(repr(category.get("supercategory")) for category in categories)
    candidates: dict[int, str] = {}
    for position, category in enumerate(categories):
        name = repr(category.get("name"))
        is_parent = category.get("supercategory") in ("none", None, "")
        is_common_parent = len(categories) > 1 and parents[name] == len(categories) - 1
        if is_parent and names[name] > 1:
            candidates[position] = "bad_categories"
        # Other unused parents may have objects in another split.
        elif is_parent and is_common_parent and category.get("id") == 0:
            candidates[position] = "unused_category"
    if not candidates:
        return {}
    used_ids = {
        str(_to_category_id(record.get("category_id")))
        for record in content.iter_entries("annotations")
        if isinstance(record, dict)
    }
    placeholders = {
        position: kind
        for position, kind in candidates.items()
        if str(categories[position].get("id")) not in used_ids
    }
    removed_names = Counter(repr(categories[position].get("name")) for position in placeholders)
    # A repeated name must keep a category.
    return {
        position: kind
        for position, kind in placeholders.items()
        if kind == "unused_category"
        or removed_names[name := repr(categories[position].get("name"))] < names[name]
    }


def _has_same_form(value: Any, other: Any) -> bool:
    """Return whether two values are equal in type and value, lists element by element."""
    if value is other:
        return True
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_has_same_form, value, other))
    return type(value) is type(other) and bool(value == other)


def _to_number(value: Any) -> Any:
    """Return the number that a text consists of, or any other value unchanged."""
    text = value.strip() if isinstance(value, str) else ""
    if not _NUMBER.fullmatch(text):
        return value
    whole = parse_integer_id(text)
    number = float(text) if whole is None else whole
    return number if is_finite(number) else value


def _to_category_id(value: Any) -> Any:
    number = to_whole_id(_to_number(value))
    return number if type(number) is int else value


def _to_flag(value: Any) -> Any:
    words = {"0": 0, "1": 1, "false": 0, "true": 1}
    return words.get(value.strip().lower(), value) if isinstance(value, str) else value


def _to_box(value: Any) -> Any:
    """Return a box of texts, or an object with x, y, width and height, as a list of numbers."""
    if isinstance(value, dict):
        keys = next((keys for keys in _BOX_KEYS if set(keys) == set(value)), None)
        value = value if keys is None else [value[key] for key in keys]
    if not isinstance(value, list) or len(value) != 4:
        return value
    return [_to_number(number) for number in value]


def _to_polygons(value: Any) -> Any:
    """Return the polygons as a list of lists `[x0, y0, x1, y1, ...]` if they have another form."""
    if not isinstance(value, list) or not value:
        return value
    if all(type(number) in (int, float, str) for number in value):
        return [[_to_number(number) for number in value]]
    if all(_is_point(point) for point in value):
        return [_flatten_points(value)]
    return [_flatten_points(polygon) for polygon in value]


def _is_point(value: Any) -> bool:
    if isinstance(value, dict):
        return set(value) == _POINT_KEYS
    is_pair = isinstance(value, list) and len(value) == 2
    return is_pair and all(type(number) in (int, float, str) for number in value)


def _flatten_points(polygon: Any) -> Any:
    """Return a polygon of points as a flat list of numbers."""
    if not isinstance(polygon, list):
        return polygon
    if polygon and all(map(_is_point, polygon)):
        polygon = [
            number
            for point in polygon
            for number in ((point["x"], point["y"]) if isinstance(point, dict) else point)
        ]
    return [_to_number(number) for number in polygon]
