"""Annotations of an image as ground truth for the evaluators."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.records import Annotation, ImageRecord
from resnet_tasks.structures.evaluation import ABSENT, GroundTruth


def build_truth(
    file: CocoFile,
    record: ImageRecord,
    image_id: int | str,
    mapping: Sequence[int],
    semantic: NDArray[np.int64] | None = None,
) -> GroundTruth:
    """Return the objects and labels of one image, unchanged except for the labels of one head.

    Args:
        file: COCO file with the image.
        record: Record of the image.
        image_id: Image id for the evaluator.
        mapping: Label of every category index (`LabelTable.mapping`). Objects whose category has
            no label (a negative value) are returned separately as `other_boxes_xywh`. Image-level
            labels of `IGNORED` categories keep that value.
        semantic: `(height, width)` label map with the labels of the head.
    """
    known_labels = map_image_labels(file, record, mapping)
    image_level_labels = None if known_labels is None else np.asarray(known_labels, np.int64)
    truth = GroundTruth(
        image_id,
        (record.height, record.width),
        semantic=semantic,
        image_labels=image_level_labels,
        group=record.group,
        spacing=record.spacing,
    )
    if "boxes" not in file.annotated:
        return truth
    boxed = list_boxed(file, record)
    known_objects = [
        (annotation, mapping[annotation.category])
        for annotation in boxed
        if mapping[annotation.category] >= 0
    ]
    unknown_objects = [annotation for annotation in boxed if mapping[annotation.category] < 0]
    is_known = np.asarray([mapping[annotation.category] >= 0 for annotation in boxed], np.bool_)
    return replace(
        truth,
        boxes_xywh=np.asarray(
            [annotation.bbox for annotation, _ in known_objects], np.float64
        ).reshape(-1, 4),
        labels=np.asarray([label for _, label in known_objects], np.int64),
        crowd=np.asarray([annotation.is_crowd for annotation, _ in known_objects], np.bool_),
        areas=np.asarray([annotation.area for annotation, _ in known_objects], np.float64),
        occluded=_none_to_nan([annotation.occluded for annotation, _ in known_objects]),
        truncated=_none_to_nan([annotation.truncated for annotation, _ in known_objects]),
        other_boxes_xywh=np.asarray(
            [annotation.bbox for annotation in unknown_objects], np.float64
        ).reshape(-1, 4),
        other_categories=tuple(
            file.categories.names[annotation.category] for annotation in unknown_objects
        ),
        other_positions=np.cumsum(is_known, dtype=np.int64)[~is_known],
        segmentations=(
            tuple(annotation.segmentation for annotation, _ in known_objects)
            if "masks" in file.annotated
            else None
        ),
    )


def list_boxed(file: CocoFile, record: ImageRecord) -> list[Annotation]:
    """Return the annotations of an image that have a box."""
    return [annotation for annotation in file.annotations[record.id] if annotation.bbox is not None]


def _none_to_nan(values: Sequence[float | None]) -> NDArray[np.float64] | None:
    """Return the numbers with NaN for None, or None if there are no numbers."""
    if all(value is None for value in values):
        return None
    return np.asarray([math.nan if value is None else value for value in values], np.float64)


def map_image_labels(
    file: CocoFile, record: ImageRecord, mapping: Sequence[int]
) -> tuple[int, ...] | None:
    """Return the image-level labels as labels of a head, `IGNORED` for categories it ignores.

    The result is None if the file does not annotate image-level labels.
    """
    if "image" not in file.annotated:
        return None
    mapped = (mapping[category] for category in collect_image_labels(file, record))
    return tuple(label for label in mapped if label != ABSENT)


def collect_image_labels(file: CocoFile, record: ImageRecord) -> list[int]:
    """Return the sorted, unique category indices of the annotations of an image without a box."""
    return sorted(
        {
            annotation.category
            for annotation in file.annotations[record.id]
            if annotation.bbox is None
        }
    )
