"""Differences between the predictions of an exported model and of the original model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap


@dataclass(frozen=True)
class Tolerance:
    """Allowed differences between an exported model and the original model.

    Attributes:
        box: Maximum difference of the corners of one detection, pixels of the original image.
        score: Maximum difference of the scores or probabilities of one detection, pixel or image.
        unmatched: Maximum share of the detections of both models without a counterpart within
            tolerance. Detections are weighted by score, so that many low-scoring ones count little.
        pixels: Maximum share of pixels with a different class.
    """

    box: float
    score: float
    unmatched: float
    pixels: float


EXACT = Tolerance(box=0.1, score=1e-3, unmatched=0.01, pixels=1e-3)
"""Tolerance if both models compute in float32; some overlaps lie at the threshold of NMS."""
ROUNDED = Tolerance(box=8.0, score=0.1, unmatched=0.015, pixels=0.02)
"""Tolerance if the engine computes in bf16, which has 8 bits of precision.

BCCD's detector, trained for 14 epochs, lost 1.9 % of the scores and 0.33 points of AP (of 56.7).
"""


@dataclass
class OutputDifference:
    """Maximum differences of one head over several images; values that do not apply stay 0.

    Attributes:
        images: Number of compared images.
        detections: Number of detections of the model and of the export together.
        unmatched: Number of these detections without a counterpart.
        scores: Sum of the scores of all detections.
        unmatched_scores: Sum of the scores of the detections without a counterpart.
        box: Maximum corner difference of matched detections, pixels of the original image.
        score: Maximum difference of the scores of matched detections or of the probabilities of
            images. For semantic maps: maximum over the images of the mean over the pixels of the
            largest difference among the class probabilities.
        pixels: Share of pixels with a different class, over all images.
    """

    images: int = 0
    detections: int = 0
    unmatched: int = 0
    scores: float = 0.0
    unmatched_scores: float = 0.0
    box: float = 0.0
    score: float = 0.0
    pixels: float = 0.0

    @property
    def unmatched_fraction(self) -> float:
        """Share of the scores, 0 to 1, that belongs to detections without a counterpart."""
        return self.unmatched_scores / self.scores if self.scores else 0.0

    def is_within(self, tolerance: Tolerance) -> bool:
        """Return whether all differences are within the tolerance."""
        return (
            self.unmatched_fraction <= tolerance.unmatched
            and self.box <= tolerance.box
            and self.score <= tolerance.score
            and self.pixels <= tolerance.pixels
        )

    def to_json(self) -> dict[str, Any]:
        """Return the differences as plain values for JSON."""
        return {**asdict(self), "lost": self.unmatched_fraction}


def compare_predictions(
    model_predictions: Sequence[Mapping[str, Any]],
    export_predictions: Sequence[Mapping[str, Any]],
    tolerance: Tolerance,
) -> dict[str, OutputDifference]:
    """Return the maximum differences per head.

    Args:
        model_predictions: Per image: head name -> prediction of the model.
        export_predictions: Per image: head name -> prediction of the export.
        tolerance: Differences up to which two detections match.
    """
    differences: dict[str, OutputDifference] = {}
    pixels: dict[str, list[tuple[int, int]]] = {}
    for expected, got in zip(model_predictions, export_predictions, strict=True):
        for head, prediction in expected.items():
            difference = differences.setdefault(head, OutputDifference())
            difference.images += 1
            if isinstance(prediction, Detections):
                _compare_detections(difference, prediction, got[head], tolerance)
            elif isinstance(prediction, SegmentationMap):
                pixels.setdefault(head, []).append(
                    _count_differing_pixels(difference, prediction, got[head])
                )
            elif isinstance(prediction, Classification):
                gap = np.abs(as_array(prediction.probs) - as_array(got[head].probs)).max()
                difference.score = max(difference.score, _nan_to_inf(gap))
    for head, counts in pixels.items():
        differences[head].pixels = sum(n for n, _ in counts) / sum(total for _, total in counts)
    return differences


def _compare_detections(
    difference: OutputDifference, expected: Detections, exported: Detections, tolerance: Tolerance
) -> None:
    """Match detections of the same class within the tolerance, greedily by distance."""
    difference.detections += len(expected) + len(exported)
    boxes, other_boxes = (
        as_array(expected.boxes).reshape(-1, 4),
        as_array(exported.boxes).reshape(-1, 4),
    )
    scores, other_scores = as_array(expected.scores), as_array(exported.scores)
    labels, other_labels = as_array(expected.labels), as_array(exported.labels)
    difference.scores += float(scores.sum()) + float(other_scores.sum())
    free = np.ones(len(other_boxes), bool)
    for box, score, label in zip(boxes, scores, labels, strict=True):
        gaps = np.abs(other_boxes - box).max(axis=1, initial=0.0)
        score_gaps = np.abs(other_scores - score)
        good = free & (other_labels == label)
        good &= (gaps <= tolerance.box) & (score_gaps <= tolerance.score)
        if not good.any():
            difference.unmatched += 1
            difference.unmatched_scores += float(score)
            continue
        best_index = int(np.argmin(np.where(good, gaps, np.inf)))
        free[best_index] = False
        difference.box = max(difference.box, float(gaps[best_index]))
        difference.score = max(difference.score, float(score_gaps[best_index]))
    difference.unmatched += int(free.sum())
    difference.unmatched_scores += float(other_scores[free].sum())


def _count_differing_pixels(
    difference: OutputDifference, expected: SegmentationMap, exported: SegmentationMap
) -> tuple[int, int]:
    """Return the number of pixels with a different class, and the number of all pixels."""
    labels, other_labels = as_array(expected.labels), as_array(exported.labels)
    if expected.probs is not None and exported.probs is not None:
        gap = np.abs(as_array(expected.probs) - as_array(exported.probs)).max(axis=0).mean()
        difference.score = max(difference.score, _nan_to_inf(gap))
    return int((labels != other_labels).sum()), labels.size


def _nan_to_inf(value: Any) -> float:
    return float(value) if np.isfinite(value) else float("inf")
