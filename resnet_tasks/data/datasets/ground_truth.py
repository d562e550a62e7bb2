"""Annotations of an image as the evaluators take them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.records import ImageRecord
from resnet_tasks.structures.evaluation import ABSENT, GroundTruth


def build_truth(
    file: CocoFile,
    record: ImageRecord,
    image_id: int | str,
    mapping: Sequence[int],
    semantic: NDArray[np.int64] | None = None,
) -> GroundTruth:
    """Objects and labels of one image exactly as in the file, in the labels of one head.

    Args:
        file: Where the image is annotated.
        record: The image.
        image_id: Its id for the evaluator.
        mapping: Label of every category index (`LabelTable.mapping`); objects of categories below 0
            are left out, image-level labels of categories that are `IGNORED` stay as that.
        semantic: Its label map, already in those labels.
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
    boxed = [
        annotation for annotation in file.annotations[record.id] if annotation.bbox is not None
    ]
    known_objects = [
        (annotation, mapping[annotation.category])
        for annotation in boxed
        if mapping[annotation.category] >= 0
    ]
    unknown_objects = [annotation for annotation in boxed if mapping[annotation.category] < 0]
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
        segmentations=(
            tuple(annotation.segmentation for annotation, _ in known_objects)
            if "masks" in file.annotated
            else None
        ),
    )


def _none_to_nan(values: Sequence[float | None]) -> NDArray[np.float64] | None:
    """Numbers with NaN for None; None where there is no number at all."""
    if all(value is None for value in values):
        return None
    return np.asarray([math.nan if value is None else value for value in values], np.float64)


def map_image_labels(
    file: CocoFile, record: ImageRecord, mapping: Sequence[int]
) -> tuple[int, ...] | None:
    """Image-level labels of one image in those of a head, `IGNORED` for what it does not know.

    None where the file does not annotate images as a whole.
    """
    if "image" not in file.annotated:
        return None
    mapped = (mapping[category] for category in collect_image_labels(file, record))
    return tuple(label for label in mapped if label != ABSENT)


def collect_image_labels(file: CocoFile, record: ImageRecord) -> list[int]:
    """Category indices of the image's annotations that have no box, each once, in order."""
    return sorted(
        {
            annotation.category
            for annotation in file.annotations[record.id]
            if annotation.bbox is None
        }
    )
