"""COCO results files: detections as columns, with every entry checked against the ground truth.

A file of boxes or compressed masks whose entries all have the usual form is decoded in bulk. Any
other file is checked entry by entry, so that the message names the first invalid entries.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.field_values import (
    find,
    find_positions,
    format_value,
    is_box,
    is_finite,
    parse_integer_id,
    to_whole_id,
)
from resnet_tasks.data.coco.json_records import (
    UNUSUAL,
    Detection,
    MaskDetection,
    extract_boxes,
    extract_column,
    iter_detections,
)
from resnet_tasks.data.coco.masks import (
    MAX_COORDINATE,
    encode_rle,
    is_rle,
    measure_rles,
    pack_polygon,
)
from resnet_tasks.data.coco.problems import Id
from resnet_tasks.data.coco.truth import TruthFile
from resnet_tasks.errors import MAX_LISTED, DataError, format_allowed, format_list, limit_name
from resnet_tasks.files.json_files import disable_gc, read_json
from resnet_tasks.number_formats import Count
from resnet_tasks.structures.run_lengths import compute_areas, compute_tight_boxes

Kind = Literal["box", "mask"]


@dataclass(frozen=True)
class ResultColumns:
    """Detections of a COCO results file.

    Attributes:
        images: `(D,)` int64 positions among the images of the ground truth.
        labels: `(D,)` int64 indices into the categories of the ground truth.
        boxes: `(D, 4)` float64 xywh in pixels; None if masks were requested and the entries have no
            boxes.
        scores: `(D,)` float64 scores.
        segmentations: Compressed run lengths of every detection; empty unless masks were requested.
        mask_areas: `(D,)` float64 areas in pixels of the masks; None if the entries have boxes.
        notes: Sentences on boxes or masks that the entries do not have.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64] | None
    scores: NDArray[np.float64]
    segmentations: Sequence[Any] = ()
    mask_areas: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()

    @property
    def areas(self) -> NDArray[np.float64]:
        """`(D,)` areas in pixels that decide whether a detection is small or large."""
        if self.mask_areas is not None:
            return self.mask_areas
        assert self.boxes is not None, "box results have boxes"
        return np.asarray(self.boxes[:, 2] * self.boxes[:, 3], np.float64)


def read_results(path: str | Path, truth: TruthFile, *, kind: Kind = "box") -> ResultColumns:
    """Read the detections of a COCO results file and check every entry against the ground truth.

    Args:
        path: Path of the JSON file, a list of `{image_id, category_id, bbox: [x, y, w, h], score}`.
            For masks, `segmentation` (run lengths or polygons) replaces `bbox` or is given in
            addition. As in pycocotools, masks can be evaluated as boxes, and boxes as rectangular
            masks.
        truth: Ground truth of the results.
        kind: Kind of detection to evaluate, `box` or `mask`.

    Raises:
        DataError: If the file is not such a list, or an entry has an unknown image or category, or
            no valid box, mask or score. The message names the first such entries.
    """
    path = Path(path)
    with disable_gc():
        if (clean := _read_clean(path, truth, kind)) is not None:
            return clean
    return _read_checked(path, truth, kind)


def _read_clean(path: Path, truth: TruthFile, kind: Kind) -> ResultColumns | None:
    """Return the detections of a file without faults, or None for any other file."""
    known_ids = truth.images.integer_ids
    if known_ids is None:
        return None
    columns: dict[str, list[NDArray[Any]]] = {"boxes": [np.zeros((0, 4))]}
    types = {"image_id": np.int64, "category_id": np.int64, "score": np.float64}
    masks: list[Any] = []
    entry_type: Any = MaskDetection if kind == "mask" else Detection
    try:
        for entries in iter_detections(path, entry_type):
            boxed = entries
            if kind == "mask":
                masks += [entry.segmentation for entry in entries]
                boxed = [entry for entry in entries if entry.bbox is not None]
            columns["boxes"].append(extract_boxes(boxed))
            for name, column_type in types.items():
                column = extract_column(entries, name, column_type)
                columns.setdefault(name, []).append(column)
        category_ids = np.asarray(truth.categories.ids, np.int64)
    except UNUSUAL:
        return None
    boxes, image_ids, categories, scores = (np.concatenate(parts) for parts in columns.values())
    images, is_known = find_positions(known_ids, image_ids)
    labels, is_labeled = find_positions(category_ids, categories)
    is_clean = (
        is_known.all()
        and is_labeled.all()
        and np.isfinite(scores).all()
        and np.isfinite(boxes).all()
        and (boxes[:, 2:] >= 0).all()
    )
    if not is_clean:
        return None
    clean = ResultColumns(images, labels, boxes, scores)
    if kind == "box":
        return clean
    # Masks that may be invalid and boxes of some entries only are left to the careful reader.
    areas = measure_rles(masks, truth.images.sizes, images)
    if areas is None or len(boxes) not in (0, len(masks)):
        return None
    if len(boxes) == len(masks):
        return replace(clean, segmentations=masks)
    return replace(clean, boxes=None, segmentations=masks, mask_areas=areas)


def _read_checked(path: Path, truth: TruthFile, kind: Kind) -> ResultColumns:
    """Read the detections of a COCO results file and check every entry in turn.

    Args:
        path: Path of the JSON file.
        truth: Ground truth of the results.
        kind: Kind of detection to evaluate, `box` or `mask`.

    Raises:
        DataError: If an entry is invalid. The message names the first such entries.
    """
    raw = [_normalize_ids(entry) for entry in _read_list(path, kind)]
    has_box = [_has_value(entry, "bbox") for entry in raw]
    has_mask = [_has_value(entry, "segmentation") for entry in raw]
    is_mask_only = any(has_mask) and not any(has_box)
    validator = _EntryValidator(truth, "mask" if is_mask_only else kind)
    for position, entry in enumerate(raw):
        validator.check(position, entry)
    validator.require_valid(path, len(raw))
    if any(has_box) and not all(has_box):
        raise DataError(
            f"{path}: entry {has_box.index(False)} has no bbox, but others do; give a bbox to all "
            "entries (objects are then small or large by their box) or to none (by their mask)"
        )
    table, indices = validator.images, truth.categories.index_table
    columns = ResultColumns(
        np.asarray([table[entry["image_id"]] for entry in raw], np.int64),
        np.asarray([indices[entry["category_id"]] for entry in raw], np.int64),
        np.asarray([entry["bbox"] for entry in raw], np.float64).reshape(-1, 4)
        if all(has_box)
        else None,
        np.asarray([entry["score"] for entry in raw], np.float64),
    )
    masks = [entry.get("segmentation") for entry in raw]
    if kind == "mask":
        return _add_masks(columns, masks, has_mask, truth)
    return _add_boxes(columns, masks, truth) if is_mask_only else columns


def _read_list(path: Path, kind: Kind) -> list[Any]:
    """Read the entries of a results file.

    Raises:
        DataError: If the file is not a list.
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
    return raw


def _normalize_ids(entry: Any) -> Any:
    """Return an entry whose ids like 18.0 are integers."""
    if not isinstance(entry, dict):
        return entry
    ids = {key: entry[key] for key in ("image_id", "category_id") if type(entry.get(key)) is float}
    return {**entry, **{key: to_whole_id(value) for key, value in ids.items()}} if ids else entry


def _has_value(entry: Any, key: str) -> bool:
    """Return whether an entry has a value other than null or an empty list under `key`."""
    return isinstance(entry, dict) and entry.get(key) not in (None, [])


def _add_masks(
    columns: ResultColumns, masks: Sequence[Any], has_mask: Sequence[bool], truth: TruthFile
) -> ResultColumns:
    """Return columns with masks; the mask of an entry without one is its box, as in pycocotools."""
    if all(has_mask):
        encoded = _encode_masks(columns, masks, truth)
        if columns.boxes is None:
            columns = replace(columns, mask_areas=compute_areas(encoded))
        return replace(columns, segmentations=encoded)
    assert columns.boxes is not None, "entries without mask have boxes"
    corners = columns.boxes + np.pad(columns.boxes[:, :2], ((0, 0), (2, 0)))
    corners = np.clip(corners, -MAX_COORDINATE, MAX_COORDINATE)  # far outside every image
    note = (
        f"{Count(has_mask.count(False)):result has} no `segmentation`; as in pycocotools, the box "
        "is evaluated as the mask"
    )
    segmentations = [
        mask if is_mask else [[x1, y1, x1, y2, x2, y2, x2, y1]]
        for mask, is_mask, (x1, y1, x2, y2) in zip(masks, has_mask, corners.tolist(), strict=True)
    ]
    encoded = _encode_masks(columns, segmentations, truth)
    return replace(columns, segmentations=encoded, notes=(note,))


def _encode_masks(columns: ResultColumns, masks: Sequence[Any], truth: TruthFile) -> list[Any]:
    """Return the compressed run lengths of checked masks."""
    sizes = truth.images.sizes[columns.images].tolist()
    return [
        encode_rle(mask, height, width, is_checked=True)
        for mask, (height, width) in zip(masks, sizes, strict=True)
    ]


def _add_boxes(columns: ResultColumns, masks: Sequence[Any], truth: TruthFile) -> ResultColumns:
    """Return columns with the bounding boxes and the areas of the masks, as in pycocotools."""
    note = (
        "the results have no `bbox`; as in pycocotools, the bounding boxes of the masks are "
        "evaluated, small or large by the area of the mask"
    )
    encoded = _encode_masks(columns, masks, truth)
    boxes = compute_tight_boxes(encoded)
    boxes[:, 2:] -= boxes[:, :2]  # exact, because the corners are integers
    return replace(columns, boxes=boxes, mask_areas=compute_areas(encoded), notes=(note,))


class _EntryValidator:
    """Validator of the entries of a results file.

    Args:
        truth: Ground truth of the results.
        kind: Kind of detection that every entry has; entries with a box need no mask.
    """

    def __init__(self, truth: TruthFile, kind: Kind) -> None:
        self.images: dict[Id, int] = {
            image_id: position for position, image_id in enumerate(truth.images.list_ids())
        }
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = defaultdict(list)
        self._truth = truth
        self._kind = kind
        self._sizes: list[list[int]] = truth.images.sizes.tolist()

    def check(self, position: int, entry: Any) -> None:
        """Check one entry and record its errors.

        Args:
            position: Index of the entry in the file.
            entry: Decoded JSON of the entry.
        """
        location = f"entry {position}"
        if not isinstance(entry, dict):
            self._add("every entry must be an object", f"{location} is {format_value(entry)}")
            return
        image_id, category_id = entry.get("image_id"), entry.get("category_id")
        image = find(self.images, image_id)
        if image is None:
            self._add(
                self._describe_image_remedy(image_id),
                f"{location} has image_id {format_value(image_id)}",
            )
            return
        location = f"{location} (image {format_value(image_id)})"
        if find(self._truth.categories.index_table, category_id) is None:
            known_ids = format_allowed(self._truth.categories.ids)
            self._add(
                f"known ids: {known_ids}; use the ids in the ground truth's `categories`, not "
                "indices or names",
                f"{location} has category_id {format_value(category_id)}",
            )
        self._check_box(entry, location)
        self._check_mask(entry, location, image)
        score: Any = entry.get("score")
        if type(score) not in (int, float) or not is_finite(score):
            self._add(
                "a score must be a finite number", f"{location} has score {format_value(score)}"
            )

    def require_valid(self, path: Path, number: int) -> None:
        """Check that no entry had errors.

        Args:
            path: Path of the file.
            number: Number of its entries.

        Raises:
            DataError: If there were errors. The message has the first entries for each remedy.
        """
        lines = []
        for remedy, examples in self._examples.items():
            count = self._counts[remedy]
            more = f", ... ({count} of {number} entries)" if count > len(examples) else ""
            lines.append(f"{path}: {', '.join(examples)}{more}; {remedy}")
        if lines:
            raise DataError("\n".join(lines))

    def _add(self, remedy: str, location: str) -> None:
        self._counts[remedy] += 1
        if len(self._examples[remedy]) < MAX_LISTED:
            self._examples[remedy].append(location)

    def _describe_image_remedy(self, image_id: Any) -> str:
        remedy = (
            f"{self._truth.path} has no such image; image ids there look like "
            f"{format_list(limit_name(known_id, 60) for known_id in self.images)}"
        )
        if isinstance(image_id, str) and parse_integer_id(image_id) in self.images:
            first = next(str(known_id) for known_id in self.images if type(known_id) is int)
            first = limit_name(first)
            return f"ids are numbers there, not text: write {first}, not {first!r}"
        if type(image_id) is int and str(image_id) in self.images:
            first = next(
                e for e in self.images if isinstance(e, str) and parse_integer_id(e) is not None
            )
            first = limit_name(first)
            return f"ids are text there, not numbers: write {first!r}, not {first}"
        return remedy

    def _check_box(self, entry: dict[str, Any], location: str) -> None:
        box = entry.get("bbox")
        if not _has_value(entry, "bbox") and self._kind == "mask":
            return
        if not is_box(box) or not all(map(is_finite, box)):
            self._add(
                "a bbox must be [x, y, width, height], finite numbers in pixels",
                f"{location} has bbox {format_value(box)}",
            )
        elif min(box[2:]) < 0:
            self._add(
                "width and height must be 0 or more: a bbox is [x, y, width, height], not corners",
                f"{location} has bbox {format_value(box)}",
            )

    def _check_mask(self, entry: dict[str, Any], location: str, image: int) -> None:
        has_box_alone = _has_value(entry, "bbox") and not _has_value(entry, "segmentation")
        if self._kind != "mask" or has_box_alone:
            return
        mask = entry.get("segmentation")
        height, width = self._sizes[image]
        if isinstance(mask, dict):
            is_usable = is_rle(mask, height, width)
        else:
            is_usable = isinstance(mask, list) and all(
                pack_polygon(polygon) is not None for polygon in mask
            )
        if not mask or not is_usable:
            self._add(
                "a segmentation must be polygons of at least six numbers, or an RLE of the image's "
                "size [height, width]",
                f"{location} of height {height} and width {width} has segmentation "
                f"{format_value(mask)}",
            )
