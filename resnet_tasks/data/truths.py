"""Annotations of a picture as the evaluators take them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco_file import CocoFile
from resnet_tasks.data.coco_records import ImageRecord
from resnet_tasks.metrics import ABSENT, Truth


def annotated_truth(
    file: CocoFile,
    record: ImageRecord,
    image_id: int | str,
    mapping: Sequence[int],
    semantic: NDArray[np.int64] | None = None,
) -> Truth:
    """Objects and labels of one picture exactly as in the file, in the labels of one head.

    Args:
        file: Where the picture is annotated.
        record: The picture.
        image_id: Its id for the evaluator.
        mapping: Label of every category index (`LabelTable.mapping`); objects of categories below 0
            are left out, image-level labels of categories that are `IGNORED` stay as that.
        semantic: Its label map, already in those labels.
    """
    known_labels = mapped_labels(file, record, mapping)
    whole = None if known_labels is None else np.asarray(known_labels, np.int64)
    picture = Truth(
        image_id,
        (record.height, record.width),
        semantic=semantic,
        image_labels=whole,
        group=record.group,
        spacing=record.spacing,
    )
    if "boxes" not in file.annotated:
        return picture
    boxed = [each for each in file.annotations[record.id] if each.bbox is not None]
    known = [(each, mapping[each.category]) for each in boxed if mapping[each.category] >= 0]
    others = [each for each in boxed if mapping[each.category] < 0]
    return replace(
        picture,
        boxes_xywh=np.asarray([each.bbox for each, _ in known], np.float64).reshape(-1, 4),
        labels=np.asarray([label for _, label in known], np.int64),
        crowd=np.asarray([each.is_crowd for each, _ in known], np.bool_),
        areas=np.asarray([each.area for each, _ in known], np.float64),
        occluded=_told([each.occluded for each, _ in known]),
        truncated=_told([each.truncated for each, _ in known]),
        others_xywh=np.asarray([each.bbox for each in others], np.float64).reshape(-1, 4),
        others=tuple(file.categories.names[each.category] for each in others),
        segmentations=(
            tuple(each.segmentation for each, _ in known) if "masks" in file.annotated else None
        ),
    )


def _told(values: Sequence[float | None]) -> NDArray[np.float64] | None:
    """Numbers with NaN for None; None where there is no number at all."""
    if all(each is None for each in values):
        return None
    return np.asarray([math.nan if each is None else each for each in values], np.float64)


def mapped_labels(
    file: CocoFile, record: ImageRecord, mapping: Sequence[int]
) -> tuple[int, ...] | None:
    """Image-level labels of one picture in those of a head, `IGNORED` for what it does not know.

    None where the file does not annotate pictures as a whole.
    """
    if "image" not in file.annotated:
        return None
    mapped = (mapping[category] for category in image_labels(file, record))
    return tuple(label for label in mapped if label != ABSENT)


def image_labels(file: CocoFile, record: ImageRecord) -> list[int]:
    """Category indices of the picture's annotations that have no box, each once, in order."""
    return sorted({each.category for each in file.annotations[record.id] if each.bbox is None})
