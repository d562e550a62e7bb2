"""Calibration of confidences: calibration error, reliability, and risk under abstention.

A decision is the class of a pixel, or a detection. Its confidence is the probability of that class,
or the score of the detection. It is correct if the class is right, or the detection matches an
object. The expected calibration error is the mean gap between confidence and accuracy, over
equal-width bins of confidence (Guo et al., On Calibration of Modern Neural Networks, ICML 2017,
equation 3). For detections it is the D-ECE of Küppers et al., Multivariate Confidence Calibration
for Object Detection, CVPR workshops 2020, over confidence only.

Shape glossary: `P` images, `R` resampled datasets, `M` bins, `N` decisions, `C` cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.matching import (
    Pairs,
    find_box_pairs,
    match_greedily,
    rank_within_groups,
)
from resnet_tasks.evaluation.numerics.weighted_means import Floats, ratio
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.evaluation import VOID, GroundTruth, Metric

if TYPE_CHECKING:
    from resnet_tasks.structures.predictions.detections import Detections
    from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap

NUM_BINS = 15  # Guo et al. 2017, section 2
HIT_IOU = 0.5  # IoU with an object from which a detection is a hit
CUTS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Minimum confidences of the decisions kept in each row of the abstention table."""


class _CalibrationEvaluator:
    """Evaluator that sums the decisions of all images by bin of confidence.

    Args:
        classes: Class names in label order.
    """

    name = "ECE"
    protocol = ""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._ids: list[int | str] = []
        self._bins: list[Floats] = []
        self._abstention_counts = np.zeros((len(CUTS), 2))

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the images added so far."""
        return tuple(self._ids)

    def compute(self) -> dict[str, Metric]:
        """Compute the calibration error; None if there is no decision."""
        value = float(self.resample(np.ones((1, len(self._ids)), np.int64))[self.name][0])
        return {self.name: Metric(None if np.isnan(value) else value, lower_is_better=True)}

    def resample(self, counts: NDArray[np.int64]) -> dict[str, Floats]:
        """Compute the calibration error of resampled datasets; see `ResamplableEvaluator`."""
        sums = np.stack(self._bins) if self._bins else np.zeros((0, 3, NUM_BINS))
        number, confidence, hits = (
            counts.astype(np.float64) @ sums[:, i].reshape(-1, NUM_BINS) for i in range(3)
        )
        totals = number.sum(axis=1)
        gaps = np.abs(hits - confidence).sum(axis=1)
        return {self.name: ratio(gaps, totals)}

    def details(self) -> dict[str, Any]:
        """Return `reliability`, and `abstention`: coverage and risk by minimum confidence.

        Returns:
            `abstention`: `{"confidence": [..], "coverage": [..], "risk": [..]}`; `coverage` is the
            fraction of decisions with at least that confidence, `risk` the fraction of these
            decisions that are wrong. Cuts without a decision are omitted.
        """
        number, confidence, hits = np.sum(self._bins, axis=0) if self._bins else np.zeros((3, 1))
        filled = number > 0
        kept_counts, wrong = self._abstention_counts.T
        some = kept_counts > 0
        return {
            "reliability": {
                "confidence": (confidence[filled] / number[filled]).tolist(),
                "accuracy": (hits[filled] / number[filled]).tolist(),
                "count": number[filled].astype(np.int64).tolist(),
            },
            "abstention": {
                "confidence": np.asarray(CUTS)[some].tolist(),
                "coverage": (kept_counts[some] / max(kept_counts[0], 1)).tolist(),
                "risk": (wrong[some] / kept_counts[some]).tolist(),
            },
        }

    def _add_decisions(
        self, image_id: int | str, confidence: Floats, is_correct: NDArray[np.bool_]
    ) -> None:
        """Add the decisions of one image, `(N,)` arrays."""
        self._ids.append(image_id)
        self._bins.append(bin_decisions(confidence, is_correct))
        # Count between adjacent cuts, then accumulate from the highest cut down.
        cut_indices = np.searchsorted(CUTS, confidence, side="right") - 1
        kept_counts = np.bincount(cut_indices, minlength=len(CUTS))
        wrong = np.bincount(cut_indices[~is_correct], minlength=len(CUTS))
        both = np.stack((kept_counts, wrong), axis=1)
        self._abstention_counts += both[::-1].cumsum(axis=0)[::-1]


def bin_decisions(confidence: Floats, is_correct: NDArray[np.bool_]) -> Floats:
    """Sum decisions by bin of confidence.

    Returns:
        `(3, M)`: number of decisions, sum of their confidences, number of correct decisions.
    """
    # Bins are open below: 1.0 lies in the last bin, 0.0 in the first.
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    return np.stack(
        [
            np.bincount(bins, weights=weights, minlength=NUM_BINS)
            for weights in (None, confidence, is_correct)
        ]
    ).astype(np.float64)


def compute_ece(confidence: Floats, is_correct: NDArray[np.bool_]) -> float:
    """Compute the expected calibration error of `(N,)` decisions, at least one."""
    number, sums, hits = bin_decisions(confidence, is_correct)
    return float(np.abs(hits - sums).sum() / number.sum())


class PixelCalibration(_CalibrationEvaluator):
    """Calibration evaluator of semantic segmentation; every pixel outside void is a decision."""

    protocol = (
        f"ECE: {NUM_BINS} equal bins of the probability of the predicted class, over all pixels of "
        "all images at original size, void pixels excluded (Guo et al. 2017)."
    )

    def update(self, prediction: SegmentationMap, truth: GroundTruth) -> None:
        """Add one image.

        Raises:
            DataError: If its pixels are not annotated, the sizes differ, or the map has no
                confidences.
        """
        confidence, is_correct, _ = extract_pixel_decisions(prediction, truth)
        self._add_decisions(truth.image_id, confidence, is_correct)


def extract_pixel_decisions(
    prediction: SegmentationMap, truth: GroundTruth
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    """Extract the decisions of the pixels that are not void.

    Returns:
        `(N,)` confidence of the predicted class, `(N,)` whether it is correct, and `(h, w)` mask of
        the pixels.

    Raises:
        DataError: If the image's pixels are not annotated, the sizes differ, or the map has no
            confidences.
    """
    labels, expected = as_array(prediction.labels), truth.semantic
    if expected is None or labels.shape != expected.shape:
        size = "is not annotated" if expected is None else f"has size {expected.shape}"
        raise DataError(
            f"image {truth.image_id!r}: the predicted label map has size {labels.shape} (height, "
            f"width), but the ground truth {size}; `decode` must return maps of the original size"
        )
    valid = expected != VOID
    if prediction.probs is not None:
        confidence = np.take_along_axis(as_array(prediction.probs), labels[None], axis=0)[0]
    elif prediction.confidence is not None:
        confidence = as_array(prediction.confidence)
    else:
        raise DataError(
            f"image {truth.image_id!r}: the label map was predicted without probabilities; create "
            "SlidingWindowPredictor with keep='confidence'"
        )
    is_correct: NDArray[np.bool_] = labels[valid] == expected[valid]
    return confidence[valid].astype(np.float64), is_correct, valid


Decisions = tuple[Floats, NDArray[np.bool_]]
"""`(N,)` scores of detections, and `(N,)` bool, whether each one matches an object."""
FindPairs = Callable[[Any, GroundTruth, NDArray[np.bool_]], Pairs]
"""Function from a prediction, the ground truth of its image and the `(G,)` crowd flags to the pairs
of a detection and an object of its class that overlap by at least `HIT_IOU`."""


class DetectionCalibration(_CalibrationEvaluator):
    """Calibration evaluator of detections; every detection outside crowds is a decision."""

    name = "D_ECE"
    protocol = (
        f"D_ECE: {NUM_BINS} equal bins of the score; a detection is correct if it matches an "
        f"object of its class at IoU {HIT_IOU} by COCO's greedy rule; detections on crowds are "
        "excluded; all others that the head returns count (Küppers et al. 2020, confidence only)."
    )

    def update(self, prediction: Detections, truth: GroundTruth) -> None:
        """Add one image.

        Raises:
            DataError: If its boxes are not annotated.
        """
        self._add_decisions(truth.image_id, *extract_detection_decisions(prediction, truth))


def find_box_hits(prediction: Any, truth: GroundTruth, crowd: NDArray[np.bool_]) -> Pairs:
    """Find the pairs of boxes of one class that overlap by at least `HIT_IOU`; see `FindPairs`."""
    assert truth.boxes_xywh is not None
    assert truth.labels is not None
    boxes = as_array(prediction.boxes).astype(np.float64).reshape(-1, 4)
    xywh = np.concatenate((boxes[:, :2], boxes[:, 2:] - boxes[:, :2]), axis=1)
    labels = as_array(prediction.labels).astype(np.int64)
    return find_box_pairs(xywh, truth.boxes_xywh, crowd, keys=(labels, truth.labels))


def extract_detection_decisions(
    prediction: Detections, truth: GroundTruth, find_pairs: FindPairs = find_box_hits
) -> Decisions:
    """Extract the decisions of the detections that do not lie on crowds.

    Args:
        prediction: Detections of the image.
        truth: Ground truth of the image.
        find_pairs: Function that finds the overlapping pairs of detections and objects.

    Returns:
        `(N,)` scores of these detections, and `(N,)` bool, whether each one matches an object.

    Raises:
        DataError: If the image's boxes are not annotated.
    """
    if truth.boxes_xywh is None or truth.labels is None:
        raise DataError(f"image {truth.image_id!r} has no annotated boxes; skip it")
    labels = as_array(prediction.labels).astype(np.int64)
    scores = as_array(prediction.scores).astype(np.float64)
    crowd = np.zeros(len(truth.labels), np.bool_) if truth.crowd is None else truth.crowd
    pairs = find_pairs(prediction, truth, crowd)
    rank = rank_within_groups(labels, scores)
    greedy = match_greedily(pairs, rank, crowd, crowd[:, None], thresholds=np.array([HIT_IOU]))
    matched_indices = greedy.get_first_matches(len(scores))
    is_hit = matched_indices >= 0
    on_crowd = np.zeros(len(scores), np.bool_)
    on_crowd[is_hit] = crowd[matched_indices[is_hit]]
    return scores[~on_crowd], is_hit[~on_crowd]
