"""Annotations of an image as the training target of its sample, in pixels of the sample."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.masks import decode_mask_window
from resnet_tasks.data.coco.records import Annotation, ImageRecord
from resnet_tasks.data.datasets.ground_truth import collect_image_labels, list_boxed
from resnet_tasks.data.images.windows import Tile
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.targets import Target

_FIELD_SOURCES = {
    "boxes": {"boxes"},
    "labels": {"boxes"},
    "masks": {"masks"},
    "semantic": {"semantic", "masks"},
    "image_labels": {"image"},
}
"""Field of `Target` -> kinds of annotations, any of which fills it."""


def has_annotations_for(fields: Iterable[str], *files: CocoFile) -> bool:
    """Return whether files together have the annotations for all of some fields of `Target`.

    Fields that this package does not define count as annotated.
    """
    present = {kind for file in files for kind in file.annotated}
    return all(_FIELD_SOURCES.get(name, present) & present for name in fields)


def build_target(
    file: CocoFile, record: ImageRecord, geometry: Geometry, fields: Collection[str]
) -> Target:
    """Build the target without the semantic map; fields not annotated or requested stay None.

    Args:
        file: COCO file with the image.
        record: Record of the image.
        geometry: Map from the stored image to the sample.
        fields: Requested fields: any of `boxes`, `masks` and `image_labels`.
    """
    target_fields: dict[str, Any] = {}
    if "boxes" in fields and "boxes" in file.annotated:
        annotations = list_boxed(file, record)
        boxes, visible = _make_boxes(annotations, geometry)
        fitting: dict[str, NDArray[Any]] = {
            "boxes": boxes,
            "labels": np.array([annotation.category for annotation in annotations], np.int64),
            "ignore": np.array([annotation.is_crowd for annotation in annotations], np.bool_),
        }
        target_fields |= {
            name: torch.from_numpy(values[visible]) for name, values in fitting.items()
        }
        if "masks" in fields and "masks" in file.annotated:
            visible_annotations = list(itertools.compress(annotations, visible))
            target_fields["masks"] = build_masks(visible_annotations, record, geometry.input_size)
    if "image_labels" in fields and "image" in file.annotated:
        target_fields["image_labels"] = torch.tensor(
            collect_image_labels(file, record), dtype=torch.int64
        )
    return Target(**target_fields)


def _make_boxes(
    annotations: Sequence[Annotation], geometry: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return `(N, 4)` xyxy boxes in pixels of the sample, and `(N,)` whether each is visible."""
    boxes = np.array([annotation.bbox for annotation in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = geometry.boxes_to_input(boxes)
    return boxes, np.all(boxes[:, 2:] > boxes[:, :2], axis=1)


def build_masks(
    annotations: Sequence[Annotation],
    record: ImageRecord,
    size: tuple[int, int],
    tile: Tile | None = None,
) -> InstanceMasks:
    """Decode the masks of objects into windows of a sample.

    Args:
        annotations: Objects; those without a segmentation are not annotated in the result.
        record: Record of the image.
        size: (height, width) of the sample.
        tile: Tile of the image that the sample shows; None: the full image.
    """
    if tile is None:
        tile = Tile(0, 0, record.height, record.width)
    bitmaps: list[NDArray[np.bool_] | None] = []
    corners = []
    for annotation in annotations:
        bitmap, (x, y) = None, (tile.left, tile.top)
        if annotation.segmentation is not None:
            bitmap, (x, y) = decode_mask_window(
                annotation.segmentation, record.height, record.width, tile
            )
        bitmaps.append(bitmap)
        corners.append((x - tile.left, y - tile.top))
    return InstanceMasks.from_bitmaps(bitmaps, corners).resize(tile.size, size)
