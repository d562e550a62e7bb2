"""Annotations of a picture as what its sample teaches, in the frame of the sample."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_tasks.data.coco import Annotation, CocoFile, ImageRecord, decode_mask
from resnet_tasks.data.pixels import resize_labels
from resnet_tasks.data.truths import image_labels
from resnet_tasks.structures import Geometry, Target


def annotated_target(
    file: CocoFile, record: ImageRecord, geometry: Geometry, fields: Collection[str]
) -> Target:
    """All but the semantic map; what is not annotated or not wanted stays None.

    Args:
        file: Where the picture is annotated.
        record: The picture.
        geometry: From the picture as stored to the sample.
        fields: Wanted: any of `boxes`, `masks` and `image_labels`.
    """
    found: dict[str, Any] = {}
    if "boxes" in fields and "boxes" in file.annotated:
        kept = [each for each in file.annotations[record.id] if each.bbox is not None]
        boxes, visible = _boxes(kept, geometry)
        fitting: dict[str, NDArray[Any]] = {
            "boxes": boxes,
            "labels": np.array([each.category for each in kept], np.int64),
            "ignore": np.array([each.is_crowd for each in kept], np.bool_),
        }
        if "masks" in fields and "masks" in file.annotated:
            fitting["masks"] = _masks(kept, record, geometry.input_size)
        found |= {name: torch.from_numpy(each[visible]) for name, each in fitting.items()}
    if "image_labels" in fields and "image" in file.annotated:
        found["image_labels"] = torch.tensor(image_labels(file, record), dtype=torch.int64)
    return Target(**found)


def _boxes(
    annotations: Sequence[Annotation], geometry: Geometry
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """`(N, 4)` boxes in pixels of the sample, and `(N,)` whether anything of each is inside."""
    boxes = np.array([each.bbox for each in annotations], np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    boxes = geometry.boxes_to_input(boxes)
    return boxes, np.all(boxes[:, 2:] > boxes[:, :2], axis=1)


def _masks(
    annotations: Sequence[Annotation], record: ImageRecord, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """`(N, height, width)` pixels of each object in a sample of that size."""
    stacked = np.zeros((len(annotations), *size), np.uint8)
    for mask, each in zip(stacked, annotations, strict=True):
        if each.segmentation is not None:
            stored = decode_mask(each.segmentation, record.height, record.width)
            mask[:] = resize_labels(stored.astype(np.uint8), size)
    return stacked > 0
