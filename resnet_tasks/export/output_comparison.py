"""What an exported model predicts, held against the model it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from resnet_tasks.structures.evaluation import as_array
from resnet_tasks.structures.predictions import Classification, Detections, SegmentationMap


@dataclass(frozen=True)
class Tolerance:
    """How far an exported model may be from the one it was made from.

    Attributes:
        box: Corners of one detection, pixels of the original image.
        score: Scores and probabilities of one detection, pixel or image.
        unmatched: Share of the detections, of both sides, without a counterpart that close; each
            weighs its score, so that a model's many doubtful ones count for what they are.
        pixels: Share of pixels with another class.
    """

    box: float
    score: float
    unmatched: float
    pixels: float


EXACT = Tolerance(box=0.1, score=1e-3, unmatched=0.01, pixels=1e-3)
"""Both compute in float32; a few overlaps lie at the threshold of a suppression."""
ROUNDED = Tolerance(box=8.0, score=0.1, unmatched=0.015, pixels=0.02)
"""The engine computes in bf16, which has 8 bits.

BCCD's detector, trained for 14 epochs, lost 1.9 % of the scores and 0.33 points of AP (of 56.7).
"""


@dataclass
class OutputDifference:
    """The greatest differences of one head over some images; what a head lacks stays 0.

    Attributes:
        images: Compared.
        detections: Of both sides, the model's and the export's.
        unmatched: Those of them without a counterpart.
        scores: Sum of the scores of all of them.
        unmatched_scores: Sum of the scores of those without a counterpart.
        box: Corners of those with one, pixels.
        score: Scores of those with one; probabilities of images; of pixels the mean difference of
            the probability of the class, over an image.
        pixels: Share of pixels with another class, over all images.
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
        """Share of the scores, 0..1, that detections without a counterpart have."""
        return self.unmatched_scores / self.scores if self.scores else 0.0

    def is_within(self, tolerance: Tolerance) -> bool:
        """Whether all are as small as they have to be."""
        return (
            self.unmatched_fraction <= tolerance.unmatched
            and self.box <= tolerance.box
            and self.score <= tolerance.score
            and self.pixels <= tolerance.pixels
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "lost": self.unmatched_fraction}


def compare_predictions(
    model_predictions: Sequence[Mapping[str, Any]],
    export_predictions: Sequence[Mapping[str, Any]],
    tolerance: Tolerance,
) -> dict[str, OutputDifference]:
    """The greatest differences of every head.

    Args:
        model_predictions: Per image: head -> prediction of the model.
        export_predictions: The same of the export.
        tolerance: What counts as the same detection.
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
    """Pairs of one class that lie within the tolerance, the closest first among those left."""
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
    """How many pixels have another class, and how many there are."""
    labels, other_labels = as_array(expected.labels), as_array(exported.labels)
    if expected.probs is not None and exported.probs is not None:
        gap = np.abs(as_array(expected.probs) - as_array(exported.probs)).max(axis=0).mean()
        difference.score = max(difference.score, _nan_to_inf(gap))
    return int((labels != other_labels).sum()), labels.size


def _nan_to_inf(value: Any) -> float:
    return float(value) if np.isfinite(value) else float("inf")
