"""AUROC, mAP, F1 and calibration error of multi-label classification.

Shape glossary: `P` images, `K` classes, `R` weightings (resampled datasets).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.classification.base import (
    NUM_BINS,
    BaseClassificationEvaluator,
    Values,
)
from resnet_tasks.evaluation.numerics.ranking import average_precision
from resnet_tasks.evaluation.numerics.weighted_means import Floats, average_defined, ratio


class MultiLabelEvaluator(BaseClassificationEvaluator):
    """Evaluator for any number of labels per image.

    Args:
        classes: Class names in label order.
    """

    THRESHOLD = 0.5
    """Minimum probability of a predicted label, for F1 and subset accuracy."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self.protocol = (
            "AUROC: per class, ties count half, mean over the classes with both outcomes; mAP: "
            "average precision without interpolation, mean over the classes that occur in the "
            f"ground truth; F1 at probability {self.THRESHOLD}, mean over the same classes; "
            "subset_accuracy: share of images with every label right; ECE: "
            f"{NUM_BINS} equal bins of the probabilities of all pairs of image and class."
        )

    def details(self) -> dict[str, Any]:
        """Return reliability and images; quality is the mean probability of correct decisions."""
        return super().details()

    def _is_evaluable(
        self,
        known_labels: tuple[int, ...],  # noqa: ARG002
        *,
        num_labels: int,  # noqa: ARG002
        location: str,  # noqa: ARG002
    ) -> bool:
        return True

    def _compute_count_metrics(self, weights: Floats) -> Values:
        probs, truth = self._stack_probs(), self._build_truth_matrix()
        predicted = probs >= self.THRESHOLD
        f1 = np.stack(
            [_compute_f1(f, t, weights) for f, t in zip(predicted.T, truth.T, strict=True)]
        )
        is_exact_match = (predicted == truth).all(axis=1)
        return {
            "F1": (average_defined(f1, axis=0), f1),
            "subset_accuracy": (ratio(weights @ is_exact_match, weights.sum(axis=1)), None),
            "ECE": (self._compute_calibration_error(weights), None),
        }

    def _compute_ranking_metrics(self, weights: Floats) -> Values:
        columns = zip(
            self._stack_probs().T.astype(np.float64), self._build_truth_matrix().T, strict=True
        )
        precision = np.stack([average_precision(p, t, weights) for p, t in columns])
        return {
            "AUROC": self._compute_auroc(weights),
            "mAP": (average_defined(precision, axis=0), precision),
        }

    def _compute_confidence(self) -> tuple[Floats, NDArray[np.bool_]]:
        return self._stack_probs().astype(np.float64), self._build_truth_matrix()

    def _score_images(self) -> tuple[Floats, Floats]:
        probs, truth = self._compute_confidence()
        is_wrong = (probs >= self.THRESHOLD) != truth
        confidence = np.where(is_wrong, np.maximum(probs, 1 - probs), 0.0)
        quality = np.where(truth, probs, 1 - probs).mean(axis=1)
        return quality, confidence.max(axis=1, initial=0.0)


def _compute_f1(predicted: NDArray[np.bool_], truth: NDArray[np.bool_], weights: Floats) -> Floats:
    """Compute the `(R,)` F1 of one class; NaN if the class does not occur in the ground truth."""
    present = weights @ truth
    f1 = ratio(2 * (weights @ (predicted & truth)), present + weights @ predicted)
    return np.where(present > 0, f1, np.nan)
