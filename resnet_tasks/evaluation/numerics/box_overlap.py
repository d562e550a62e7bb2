"""Boxes of one image for the box evaluators: checks, conversion and overlaps.

Shape glossary: `D` detections, `N` objects. Boxes are xyxy, pixels of the original image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.evaluation import GroundTruth

if TYPE_CHECKING:
    from resnet_tasks.structures.predictions.detections import Detections

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ImageBoxes:
    """Detections and annotated objects of one image.

    Attributes:
        detection_boxes: `(D, 4)` float64 xyxy.
        detection_labels: `(D,)` int64.
        scores: `(D,)` float64, finite.
        truth_boxes: `(N, 4)` float64 xyxy.
        truth_labels: `(N,)` int64.
        crowd: `(N,)` bool.
    """

    detection_boxes: Floats
    detection_labels: NDArray[np.int64]
    scores: Floats
    truth_boxes: Floats
    truth_labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]


def build_image_boxes(prediction: Detections, truth: GroundTruth, num_classes: int) -> ImageBoxes:
    """Convert the detections and ground truth of an image to arrays, and check them.

    Args:
        prediction: Detections in pixels of the original image.
        truth: Ground truth of the image, with annotated boxes.
        num_classes: Number of classes; valid labels are below it.

    Raises:
        DataError: If the image's boxes are not annotated, a box or score is not finite, or a label
            is not an index into the classes.
    """
    location = f"image {truth.image_id!r}"
    if truth.boxes_xywh is None or truth.labels is None:
        raise DataError(f"{location} has no annotated boxes and cannot be evaluated; skip it")
    boxes = ImageBoxes(
        detection_boxes=as_array(prediction.boxes).astype(np.float64).reshape(-1, 4),
        detection_labels=as_array(prediction.labels).astype(np.int64),
        scores=as_array(prediction.scores).astype(np.float64),
        truth_boxes=xywh_to_xyxy(truth.boxes_xywh),
        truth_labels=np.asarray(truth.labels, np.int64),
        crowd=np.zeros(len(truth.labels), np.bool_) if truth.crowd is None else truth.crowd,
    )
    for subject, numbers in (
        ("a detection has a non-finite box", boxes.detection_boxes),
        ("a detection has a non-finite score", boxes.scores[:, None]),
        ("an annotation has a non-finite box", boxes.truth_boxes),
    ):
        bad = ~np.isfinite(numbers).all(axis=1)
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            raise DataError(
                f"{location}: {subject} (number {first}): {numbers[first].tolist()}; the model or "
                "its input is broken"
            )
    for subject, labels in (
        ("a detection", boxes.detection_labels),
        ("an annotation", boxes.truth_labels),
    ):
        outside = (labels < 0) | (labels >= num_classes)
        if outside.any():
            raise DataError(
                f"{location}: {subject} has label {int(labels[outside][0])}; allowed are 0 to "
                f"{num_classes - 1}, indices into the evaluator's classes"
            )
    return boxes


def xywh_to_xyxy(xywh: Floats) -> Floats:
    """Convert `(N, 4)` xywh boxes to xyxy."""
    boxes = np.asarray(xywh, np.float64).reshape(-1, 4)
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)


def compute_overlaps(first: Floats, second: Floats) -> tuple[Floats, Floats]:
    """Compute the IoU, and the fraction of each first box inside each second box.

    Args:
        first: `(D, 4)` xyxy.
        second: `(N, 4)` xyxy.

    Returns:
        Two `(D, N)` arrays, 0..1; 0 for boxes without area.
    """
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    first_area = np.clip(first[:, 2:] - first[:, :2], 0, None).prod(axis=1)[:, None]
    second_area = np.clip(second[:, 2:] - second[:, :2], 0, None).prod(axis=1)[None]
    union = first_area + second_area - shared
    inside = np.divide(shared, first_area, out=np.zeros_like(shared), where=first_area > 0)
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0), inside
