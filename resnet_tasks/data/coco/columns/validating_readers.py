"""Readers that convert COCO files to columns entry by entry, with repairs and error messages."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resnet_tasks.data.coco.columns.object_columns import Kind, ResultColumns, TruthColumns
from resnet_tasks.data.coco.field_values import is_box
from resnet_tasks.data.coco.masks import is_rle, pack_polygon
from resnet_tasks.data.coco.problems import MAX_LISTED, Id, format_list, format_value
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.coco.record_ids import find, parse_integer_id
from resnet_tasks.errors import DataError
from resnet_tasks.files.json_files import read_json


def read_repaired_truth(path: Path, kind: Kind) -> TruthColumns:
    """Read the objects of a COCO annotation file and repair small defects.

    Args:
        path: Path of the JSON file.
        kind: `box`, or `mask` to keep the segmentations.

    Raises:
        DataError: If the file cannot be used. The message names the first bad entries.
    """
    coco = read_coco(path, keep_degenerate=True)
    if "boxes" not in coco.annotated:
        raise DataError(
            f"{path} annotates {format_list(sorted(coco.annotated))}, not boxes; give "
            "`annotations` "
            "with `bbox`, or choose another task"
        )
    rows = [
        (image, annotation)
        for image, record in enumerate(coco.images)
        for annotation in coco.annotations[record.id]
        if annotation.bbox is not None
    ]
    return TruthColumns(
        path,
        tuple(record.id for record in coco.images),
        np.asarray([(r.height, r.width) for r in coco.images], np.int64).reshape(-1, 2),
        {r.id: r.group for r in coco.images if r.group is not None},
        coco.categories,
        np.asarray([image for image, _ in rows], np.int64),
        np.asarray([annotation.category for _, annotation in rows], np.int64),
        np.asarray([annotation.bbox for _, annotation in rows], np.float64).reshape(-1, 4),
        np.asarray([annotation.area for _, annotation in rows], np.float64),
        np.asarray([annotation.is_crowd for _, annotation in rows], np.bool_),
        [annotation.segmentation for _, annotation in rows] if kind == "mask" else (),
        coco.problems,
    )


@dataclass
class _EntryErrors:
    """Errors in the entries of a results file.

    Attributes:
        counts: Remedy -> number of entries.
        examples: Remedy -> the first `MAX_LISTED` entries, for the message.
    """

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, remedy: str, location: str) -> None:
        self.counts[remedy] = self.counts.get(remedy, 0) + 1
        examples = self.examples.setdefault(remedy, [])
        if len(examples) < MAX_LISTED:
            examples.append(location)

    def format_message(self, path: Path, number: int) -> str:
        lines = []
        for remedy, examples in self.examples.items():
            count = self.counts[remedy]
            more = f", ... ({count} of {number} entries)" if count > len(examples) else ""
            lines.append(f"{path}: {', '.join(examples)}{more}; {remedy}")
        return "\n".join(lines)


def read_validated_results(path: Path, truth: TruthColumns, kind: Kind) -> ResultColumns:
    """Read the detections of a COCO results file and check every entry in turn.

    Args:
        path: Path of the JSON file.
        truth: Ground truth of the results.
        kind: Kind of detection to evaluate, `box` or `mask`.

    Raises:
        DataError: If an entry is invalid. The message names the first such entries.
    """
    raw = read_json(path)
    form = "{image_id, category_id, " + ("bbox" if kind == "box" else "segmentation") + ", score}"
    if isinstance(raw, dict):
        lists = [key for key, value in raw.items() if isinstance(value, list)]
        inside = f"; write the list under `{lists[0]}` alone to the file" if lists else ""
        raise DataError(
            f"{path}: a COCO results file is a list of {form}, got an object with the keys "
            f"{format_list(map(repr, raw))}{inside}"
        )
    if not isinstance(raw, list):
        raise DataError(f"{path}: a COCO results file is a list of {form}, got {format_value(raw)}")
    validator = _EntryValidator(truth, kind)
    for position, entry in enumerate(raw):
        validator.check(position, entry)
    if validator.errors.counts:
        raise DataError(validator.errors.format_message(path, len(raw)))
    has_box = [entry.get("bbox") is not None for entry in raw]
    if any(has_box) and not all(has_box):
        raise DataError(
            f"{path}: entry {has_box.index(False)} has no bbox, but others do; give a bbox to all "
            "entries (objects are then small or large by their box) or to none (by their mask)"
        )
    table, indices = validator.images, truth.categories.index_table
    return ResultColumns(
        np.asarray([table[entry["image_id"]] for entry in raw], np.int64),
        np.asarray([indices[entry["category_id"]] for entry in raw], np.int64),
        np.asarray([entry["bbox"] for entry in raw], np.float64).reshape(-1, 4)
        if all(has_box)
        else None,
        np.asarray([entry["score"] for entry in raw], np.float64),
        [entry["segmentation"] for entry in raw] if kind == "mask" else (),
    )


class _EntryValidator:
    """Validator of the entries of a results file.

    Args:
        truth: Ground truth of the results.
        kind: Kind of detection to evaluate, `box` or `mask`.
    """

    def __init__(self, truth: TruthColumns, kind: Kind) -> None:
        self.images: dict[Id, int] = {image_id: i for i, image_id in enumerate(truth.image_ids)}
        self.errors = _EntryErrors()
        self._truth = truth
        self._kind = kind

    def check(self, position: int, entry: Any) -> None:
        """Check one entry and record its errors.

        Args:
            position: Index of the entry in the file.
            entry: Decoded JSON of the entry.
        """
        errors, location = self.errors, f"entry {position}"
        if not isinstance(entry, dict):
            errors.add("every entry must be an object", f"{location} is {format_value(entry)}")
            return
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        image = find(self.images, image_id)
        if image is None:
            errors.add(
                self._describe_image_remedy(image_id),
                f"{location} has image_id {format_value(image_id)}",
            )
            return
        location = f"{location} (image {image_id!r})"
        if find(self._truth.categories.index_table, category_id) is None:
            known_ids = format_list(self._truth.categories.ids, 100)
            errors.add(
                f"known: {known_ids}; ids are those of the ground truth's `categories`, not "
                "indices or names",
                f"{location} has category_id {format_value(category_id)}",
            )
        self._check_box(entry, location)
        self._check_mask(entry, location, image)
        score = entry.get("score")
        if not _is_finite(score):
            errors.add("it must be a finite number", f"{location} has score {format_value(score)}")

    def _describe_image_remedy(self, image_id: Any) -> str:
        remedy = (
            f"{self._truth.path} does not have it; its ids look like {format_list(self.images)}"
        )
        if isinstance(image_id, str) and parse_integer_id(image_id) in self.images:
            first = next(str(known_id) for known_id in self.images if type(known_id) is int)
            return f"ids are numbers there, not text: write {first}, not {first!r}"
        if type(image_id) is int and str(image_id) in self.images:
            first = next(
                e for e in self.images if isinstance(e, str) and parse_integer_id(e) is not None
            )
            return f"ids are text there, not numbers: write {first!r}, not {first}"
        return remedy

    def _check_box(self, entry: dict[str, Any], location: str) -> None:
        box = entry.get("bbox")
        if box is None and self._kind == "mask":
            return
        if not is_box(box) or not all(map(_is_finite, box)):
            self.errors.add(
                "it must be [x, y, width, height], finite numbers in pixels",
                f"{location} has bbox {format_value(box)}",
            )
        elif min(box[2:]) < 0:
            self.errors.add(
                "width and height must be 0 or more: it is [x, y, width, height], not corners",
                f"{location} has bbox {format_value(box)}",
            )

    def _check_mask(self, entry: dict[str, Any], location: str, image: int) -> None:
        if self._kind != "mask":
            return
        mask = entry.get("segmentation")
        height, width = self._truth.sizes[image].tolist()
        if isinstance(mask, dict):
            is_usable = is_rle(mask, height, width)
        else:
            is_usable = isinstance(mask, list) and all(
                pack_polygon(polygon) is not None for polygon in mask
            )
        if not mask or not is_usable:
            self.errors.add(
                "it must be polygons of at least six numbers, or an RLE of the image's size "
                "[height, width]",
                f"{location} of height {height} and width {width} has segmentation "
                f"{format_value(mask)}",
            )


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # An integer beyond the range of floats.
        return False
