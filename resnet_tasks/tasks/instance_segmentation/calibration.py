"""Calibration of the scores of instances; the mask determines whether an instance is a hit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.instance_masks import encode_truth_masks, find_mask_pairs
from resnet_tasks.evaluation.coco.instance_segmentation import has_masks, ignore_unmasked_objects
from resnet_tasks.evaluation.coco.matching import Pairs
from resnet_tasks.evaluation.uncertainty.calibration_error import (
    HIT_IOU,
    NUM_BINS,
    Decisions,
    DetectionCalibration,
    extract_detection_decisions,
)
from resnet_tasks.number_formats import Count
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation


class MaskCalibration(DetectionCalibration):
    """Calibration evaluator of instances; every instance outside crowds is a decision.

    Images without annotated masks are skipped and counted in the notes.

    Args:
        classes: Class names in label order.
    """

    name = "mask_D_ECE"
    protocol = (
        f"mask_D_ECE: {NUM_BINS} equal bins of the score; an instance is correct if its mask "
        f"matches an object of its class at IoU {HIT_IOU} by COCO's greedy rule; instances on "
        "crowds are excluded; all others that the head returns count (Küppers et al. 2020, "
        "confidence only); "
        "images without annotated masks are excluded, and the box of an object without a mask is a "
        "crowd region."
    )

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self._num_skipped = 0

    def update(self, prediction: Any, truth: GroundTruth) -> None:
        """Add one image.

        Raises:
            DataError: If its boxes are not annotated.
        """
        if has_masks(truth):
            self._add_decisions(truth.image_id, *extract_mask_decisions(prediction, truth))
        else:
            self._num_skipped += 1

    def details(self) -> dict[str, Any]:
        """Return the reliability, the abstention, and a note on skipped images."""
        details = super().details()
        if not self._num_skipped:
            return details
        note = f"mask_D_ECE excludes {Count(self._num_skipped):image} without annotated masks."
        return {**details, "notes": [note]}


def extract_mask_decisions(prediction: InstanceSegmentation, truth: GroundTruth) -> Decisions:
    """Extract the decisions of the instances that do not lie on crowds.

    Returns:
        `(N,)` scores of these instances, and `(N,)` bool, whether the mask of each one matches an
        object; both empty for an image without annotated masks.

    Raises:
        DataError: If the image's boxes are not annotated, or a mask is invalid.
    """
    if truth.boxes_xywh is None or truth.labels is None:
        raise DataError(f"image {truth.image_id!r} has no annotated boxes; skip it")
    if not has_masks(truth):
        return np.zeros(0), np.zeros(0, np.bool_)
    truth_with_masks, _ = ignore_unmasked_objects(truth)
    return extract_detection_decisions(prediction, truth_with_masks, _find_mask_hits)


def _find_mask_hits(
    prediction: InstanceSegmentation, truth: GroundTruth, crowd: NDArray[np.bool_]
) -> Pairs:
    assert truth.labels is not None
    pairs = find_mask_pairs(prediction.segmentations, encode_truth_masks(truth), crowd)
    labels = as_array(prediction.labels)
    return pairs.select(labels[pairs.detection_indices] == truth.labels[pairs.truth_indices])
