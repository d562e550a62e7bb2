"""Ground truth of results files: the annotations with boxes of a COCO file.

A file whose records all have the usual form is decoded in bulk, straight into columns. Any
irregularity sends the whole file to `read_coco`, which repairs it or reports its faults.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.field_values import find_positions
from resnet_tasks.data.coco.json_records import (
    UNUSUAL,
    CocoEntries,
    decode_file,
    extract_boxes,
    extract_column,
    extract_segmentations,
)
from resnet_tasks.data.coco.packed.annotation_packer import pack_rows
from resnet_tasks.data.coco.packed.annotations import JSON_TEXT, PackedAnnotations
from resnet_tasks.data.coco.packed.images import PackedImages
from resnet_tasks.data.coco.problems import Problem
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.errors import DataError, format_list
from resnet_tasks.files.json_files import disable_gc

if TYPE_CHECKING:
    from resnet_tasks.data.coco.dataset_file import CocoFile

_VALIDATING_READER = "resnet_tasks.data.coco.read"
"""Module that is imported only for files that are not clean. Its imports (Pillow, safetensors) take
20 ms, as long as reading a small clean file."""


@dataclass(frozen=True)
class TruthFile:
    """Annotated objects of a COCO file.

    Attributes:
        path: Path of the annotation file.
        categories: Mapping between category ids and indices.
        annotations: Annotations, each with a box, whose area may be 0.
        problems: Repairs of the file.
    """

    path: Path
    categories: CategoryMap
    annotations: PackedAnnotations
    problems: tuple[Problem, ...] = ()

    @property
    def images(self) -> PackedImages:
        """Image records in file order."""
        return self.annotations.images


def read_truth(path: str | Path, *, masks: bool = False) -> TruthFile:
    """Read the objects of a COCO annotation file.

    Args:
        path: Path of the JSON file. Small defects (`info`, `iscrowd`, `area`, ids) are repaired.
        masks: Whether the segmentations are needed.

    Raises:
        DataError: If the file cannot be used. The message names the first bad entries.
    """
    path = Path(path)
    with disable_gc(), suppress(OverflowError):  # raised by integers beyond 64 bits
        if (clean := _read_clean(path, masks=masks)) is not None:
            return clean
    return read_complete_truth(path)[0]


def read_complete_truth(path: Path) -> tuple[TruthFile, CocoFile]:
    """Read the objects of a COCO annotation file, and the file with all of its fields.

    Args:
        path: Path of the JSON file; see `read_truth`.

    Raises:
        DataError: If the file cannot be used. The message names the first bad entries.
    """
    coco: CocoFile = import_module(_VALIDATING_READER).read_coco(path, for_evaluation=True)
    if "boxes" not in coco.annotated:
        raise DataError(
            f"{path} annotates {format_list(sorted(coco.annotated))}, not boxes; add "
            "annotations with a `bbox`, or choose another task"
        )
    return TruthFile(path, coco.categories, coco.annotations, coco.problems), coco


def _read_clean(path: Path, *, masks: bool) -> TruthFile | None:
    """Return the objects of a file that needs no repair, or None for any other file."""
    content = decode_file(path, CocoEntries)
    if content is None:
        return None
    entries = content.annotations
    try:
        categories = CategoryMap.from_json(content.decode_categories())
        texts = extract_segmentations(entries) if masks else [b""] * len(entries)
    except (DataError, *UNUSUAL):
        return None
    image_ids = extract_column(content.images, "id", np.int64)
    ids = extract_column(entries, "id", np.int64)
    positions, is_known = find_positions(image_ids, extract_column(entries, "image_id", np.int64))
    labels, is_labeled = find_positions(
        np.asarray(categories.ids, np.int64), extract_column(entries, "category_id", np.int64)
    )
    boxes = extract_boxes(entries)
    areas = extract_column(entries, "area", np.float64)
    crowd = extract_column(entries, "iscrowd", np.int64)
    is_clean = (
        is_known.all()
        and is_labeled.all()
        and np.isfinite(boxes).all()
        and (boxes[:, 2:] >= 0).all()
        and ((areas >= 0) & np.isfinite(areas)).all()
        and ((crowd == 0) | (crowd == 1)).all()
        and all((np.diff(np.sort(column)) > 0).all() for column in (image_ids, ids))
        and all(image.height > 0 and image.width > 0 for image in content.images)
    )
    if not is_clean:
        return None
    images = PackedImages.from_records(
        ImageRecord(image.id, image.file_name, image.height, image.width, group=image.group)
        for image in content.images
    )
    del content, entries  # the columns reuse their memory
    unknown = np.full(len(ids), math.nan)
    fields: dict[str, NDArray[Any]] = {
        "category": labels.astype(np.int32),
        "bbox": boxes,
        "area": areas,
        "occluded": unknown,
        "truncated": unknown,
        "crowd": crowd > 0,
        "kind": np.asarray([JSON_TEXT if text else 0 for text in texts], np.uint8),
    }
    annotations = pack_rows(
        images,
        positions,
        ids.tolist(),
        fields,
        texts,
        num_polygons=np.zeros(len(ids), np.int64),
        lengths=np.zeros(0, np.int64),
        points=np.zeros(0),
    )
    return TruthFile(path, categories, annotations)
