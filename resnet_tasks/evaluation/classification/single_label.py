"""Top-1, top-5, AUROC and calibration error of single-label classification.

Shape glossary: `P` images, `K` classes, `R` weightings (resampled datasets).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.classification.base import (
    NUM_BINS,
    BaseClassificationEvaluator,
    Values,
)
from resnet_tasks.evaluation.numerics.weighted_means import Floats, ratio

LARGEST_CONFUSION = 200
"""Maximum number of classes for which `details` contains the confusion matrix."""


class ClassificationEvaluator(BaseClassificationEvaluator):
    """Evaluator for one class per image.

    Images whose labels are all unknown to the head are skipped and counted.

    Args:
        classes: Class names in label order.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self._has_top5 = len(self.classes) > 5
        top5 = "top5 likewise among the best five; " if self._has_top5 else ""
        self.protocol = (
            "top1: share of images whose most probable class is the true one (first in class "
            f"order among equals), per class: of the images of that class; {top5}AUROC: one "
            "class against the rest, ties count half, mean over the classes with both outcomes; "
            f"ECE: {NUM_BINS} equal bins of the top probability (Guo et al. 2017)."
        )

    def details(self) -> dict[str, Any]:
        """Return confusion, reliability and images; quality is the true class's probability."""
        details = super().details()
        num_classes = len(self.classes)
        if num_classes > LARGEST_CONFUSION:
            note = f"no confusion matrix is stored for more than {LARGEST_CONFUSION} classes"
            details["notes"] = [*details.get("notes", ()), note]
            return details
        pairs = self._get_true_labels() * num_classes + self._predict_labels()
        matrix = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
        details["confusion"] = {"labels": list(self.classes), "matrix": matrix.tolist()}
        return details

    def _is_evaluable(
        self, known_labels: tuple[int, ...], *, num_labels: int, location: str
    ) -> bool:
        if len(known_labels) > 1 or not num_labels:
            raise DataError(
                f"{location} has {len(known_labels) or 'no'} image-level labels among the classes "
                "of this head, but single-label classification needs exactly one; fix the "
                "annotation file, or set multi_label: true"
            )
        return bool(known_labels)

    def _compute_count_metrics(self, weights: Floats) -> Values:
        better = self._count_better_classes()
        values: Values = {"top1": self._compute_accuracy(better < 1, weights)}
        if self._has_top5:
            values["top5"] = self._compute_accuracy(better < 5, weights)
        return {**values, "ECE": (self._compute_calibration_error(weights), None)}

    def _compute_ranking_metrics(self, weights: Floats) -> Values:
        return {"AUROC": self._compute_auroc(weights)}

    def _compute_accuracy(self, hits: NDArray[np.bool_], weights: Floats) -> tuple[Floats, Floats]:
        """Compute the `(R,)` fraction of images that are hits, and `(K, R)` the same per class."""
        labels = self._get_true_labels()
        per_class = [
            ratio(weights[:, class_mask] @ hits[class_mask], weights[:, class_mask].sum(axis=1))
            for class_mask in (labels == label for label in range(len(self.classes)))
        ]
        return ratio(weights @ hits, weights.sum(axis=1)), np.stack(per_class)

    def _get_true_labels(self) -> NDArray[np.int64]:
        return np.asarray([labels[0] for labels in self._labels], np.int64)

    def _predict_labels(self) -> NDArray[np.int64]:
        predicted_labels: NDArray[np.int64] = self._stack_probs().argmax(axis=1)
        return predicted_labels

    def _get_true_probs(self) -> NDArray[np.float32]:
        """Return the `(P,)` probability of the true class."""
        return self._stack_probs()[np.arange(len(self._ids)), self._get_true_labels()]

    def _count_better_classes(self) -> NDArray[np.int64]:
        """Return the `(P,)` number of classes that rank before the true class.

        These are the more probable classes, and the equally probable ones that come earlier in
        class order.
        """
        probs, true_probs = self._stack_probs(), self._get_true_probs()[:, None]
        is_first = np.arange(len(self.classes)) < self._get_true_labels()[:, None]
        better: NDArray[np.int64] = ((probs > true_probs) | ((probs == true_probs) & is_first)).sum(
            axis=1
        )
        return better

    def _compute_confidence(self) -> tuple[Floats, NDArray[np.bool_]]:
        best = self._stack_probs().max(axis=1, initial=0.0).astype(np.float64)
        return best[:, None], (self._predict_labels() == self._get_true_labels())[:, None]

    def _score_images(self) -> tuple[Floats, Floats]:
        best, is_right = self._compute_confidence()
        return self._get_true_probs().astype(np.float64), np.where(is_right, 0.0, best)[:, 0]
