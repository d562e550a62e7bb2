"""COCO annotation and results files as columns, entry by entry: repaired, or told what is wrong."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resnet_tasks.data.coco import read_coco
from resnet_tasks.data.coco_columns import Kind, ResultColumns, TruthColumns
from resnet_tasks.data.coco_masks import is_rle, packed_polygon
from resnet_tasks.data.coco_parsing import find, is_box
from resnet_tasks.data.coco_problems import SHOWN, Id, listed, shown
from resnet_tasks.data.json_files import read_json
from resnet_tasks.errors import DataError


def repaired_truth(path: Path, kind: Kind) -> TruthColumns:
    """The objects of a COCO annotation file, small defects repaired.

    Args:
        path: The JSON.
        kind: `mask` keeps the segmentations.

    Raises:
        DataError: If the file cannot be used; the message names the first bad entries.
    """
    coco = read_coco(path, keep_degenerate=True)
    if "boxes" not in coco.annotated:
        raise DataError(
            f"{path} annotates {listed(sorted(coco.annotated))}, not boxes; give `annotations` "
            "with `bbox`, or choose another task"
        )
    rows = [
        (picture, each)
        for picture, record in enumerate(coco.images)
        for each in coco.annotations[record.id]
        if each.bbox is not None
    ]
    return TruthColumns(
        path,
        tuple(record.id for record in coco.images),
        np.asarray([(r.height, r.width) for r in coco.images], np.int64).reshape(-1, 2),
        {r.id: r.group for r in coco.images if r.group is not None},
        coco.categories,
        np.asarray([picture for picture, _ in rows], np.int64),
        np.asarray([each.category for _, each in rows], np.int64),
        np.asarray([each.bbox for _, each in rows], np.float64).reshape(-1, 4),
        np.asarray([each.area for _, each in rows], np.float64),
        np.asarray([each.is_crowd for _, each in rows], np.bool_),
        [each.segmentation for _, each in rows] if kind == "mask" else (),
        coco.problems,
    )


@dataclass
class _Faults:
    """What is wrong with the entries of a results file, by kind."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, remedy: str, where: str) -> None:
        self.counts[remedy] = self.counts.get(remedy, 0) + 1
        named = self.first.setdefault(remedy, [])
        if len(named) < SHOWN:
            named.append(where)

    def message(self, path: Path, number: int) -> str:
        lines = []
        for remedy, named in self.first.items():
            count = self.counts[remedy]
            more = f", ... ({count} of {number} entries)" if count > len(named) else ""
            lines.append(f"{path}: {', '.join(named)}{more}; {remedy}")
        return "\n".join(lines)


def checked_results(path: Path, truth: TruthColumns, kind: Kind) -> ResultColumns:
    """The detections of a COCO results file, every entry looked at in turn.

    Args:
        path: The JSON.
        truth: What it belongs to.
        kind: What is judged.

    Raises:
        DataError: If an entry is wrong; the message names the first ones.
    """
    raw = read_json(path)
    form = "{image_id, category_id, " + ("bbox" if kind == "box" else "segmentation") + ", score}"
    if isinstance(raw, dict):
        lists = [key for key, value in raw.items() if isinstance(value, list)]
        inside = f"; write the list under `{lists[0]}` alone to the file" if lists else ""
        raise DataError(
            f"{path}: a COCO results file is a list of {form}, got an object with the keys "
            f"{listed(map(repr, raw))}{inside}"
        )
    if not isinstance(raw, list):
        raise DataError(f"{path}: a COCO results file is a list of {form}, got {shown(raw)}")
    entries = _Entries(truth, kind)
    for position, entry in enumerate(raw):
        entries.take(position, entry)
    if entries.faults.counts:
        raise DataError(entries.faults.message(path, len(raw)))
    has_box = [entry.get("bbox") is not None for entry in raw]
    if any(has_box) and not all(has_box):
        raise DataError(
            f"{path}: entry {has_box.index(False)} has no bbox, others have; give it to all "
            "entries (objects are then small or large by their box) or to none (by their mask)"
        )
    table, indices = entries.pictures, truth.categories.index_table
    return ResultColumns(
        np.asarray([table[entry["image_id"]] for entry in raw], np.int64),
        np.asarray([indices[entry["category_id"]] for entry in raw], np.int64),
        np.asarray([entry["bbox"] for entry in raw], np.float64).reshape(-1, 4)
        if all(has_box)
        else None,
        np.asarray([entry["score"] for entry in raw], np.float64),
        [entry["segmentation"] for entry in raw] if kind == "mask" else (),
    )


class _Entries:
    """The entries of a results file, checked one by one."""

    def __init__(self, truth: TruthColumns, kind: Kind) -> None:
        self.pictures: dict[Id, int] = {each: i for i, each in enumerate(truth.image_ids)}
        self.faults = _Faults()
        self._truth = truth
        self._kind = kind

    def take(self, position: int, entry: Any) -> None:
        """Looks at one entry."""
        faults, where = self.faults, f"entry {position}"
        if not isinstance(entry, dict):
            faults.add("every entry must be an object", f"{where} is {shown(entry)}")
            return
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        picture = find(self.pictures, image_id)
        if picture is None:
            faults.add(self._image_remedy(image_id), f"{where} has image_id {shown(image_id)}")
            return
        where = f"{where} (image {image_id!r})"
        if find(self._truth.categories.index_table, category_id) is None:
            known = listed(self._truth.categories.ids, 100)
            faults.add(
                f"known: {known}; ids are those of the truth's `categories`, not indices or names",
                f"{where} has category_id {shown(category_id)}",
            )
        self._look_at_box(entry, where)
        self._look_at_mask(entry, where, picture)
        score = entry.get("score")
        if not _is_finite(score):
            faults.add("it must be a finite number", f"{where} has score {shown(score)}")

    def _image_remedy(self, image_id: Any) -> str:
        known = f"{self._truth.path} does not have it; its ids look like {listed(self.pictures)}"
        if isinstance(image_id, str) and image_id.isdecimal() and int(image_id) in self.pictures:
            first = next(str(each) for each in self.pictures if type(each) is int)
            return f"ids are numbers there, not text: write {first}, not {first!r}"
        if type(image_id) is int and str(image_id) in self.pictures:
            first = next(e for e in self.pictures if isinstance(e, str) and e.isdecimal())
            return f"ids are text there, not numbers: write {first!r}, not {first}"
        return known

    def _look_at_box(self, entry: dict[str, Any], where: str) -> None:
        box = entry.get("bbox")
        if box is None and self._kind == "mask":
            return
        if not is_box(box) or not all(map(_is_finite, box)):
            self.faults.add(
                "it must be [x, y, width, height], finite numbers in pixels",
                f"{where} has bbox {shown(box)}",
            )
        elif min(box[2:]) < 0:
            self.faults.add(
                "width and height must be 0 or more: it is [x, y, width, height], not corners",
                f"{where} has bbox {shown(box)}",
            )

    def _look_at_mask(self, entry: dict[str, Any], where: str, picture: int) -> None:
        if self._kind != "mask":
            return
        mask = entry.get("segmentation")
        height, width = self._truth.sizes[picture].tolist()
        if isinstance(mask, dict):
            is_usable = is_rle(mask, height, width)
        else:
            is_usable = isinstance(mask, list) and all(
                packed_polygon(polygon) is not None for polygon in mask
            )
        if not mask or not is_usable:
            self.faults.add(
                "it must be polygons of at least six numbers, or run lengths of the picture's size "
                "[height, width]",
                f"{where} of height {height} and width {width} has segmentation {shown(mask)}",
            )


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # A whole number beyond all floats.
        return False
