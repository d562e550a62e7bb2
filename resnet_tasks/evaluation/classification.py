"""Top-1, top-5, AUROC and calibration error of single-label and multi-label classification.

Every number is computed for many weightings of the images at once; the plain numbers are those of
the weighting that takes each image once.

Shape glossary: `P` images, `K` classes, `R` weightings (resampled data sets), `M` bins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.numerics.ranking import (
    Floats,
    auroc,
    average_defined_rows,
    average_precision,
    safe_divide,
)
from resnet_tasks.registry import EVALUATORS
from resnet_tasks.structures.evaluation import GroundTruth, Metric, as_array

if TYPE_CHECKING:
    from resnet_tasks.structures.predictions import Classification

NUM_BINS = 15  # Guo et al. 2017, section 2
LARGEST_CONFUSION = 200
"""Classes up to which `details` holds the confusion matrix."""
CHUNK = 1_000_000
"""Weights (`R x P`) that are looked at together, so that memory stays bounded."""

LARGEST_RANKED = 5_000_000
"""Probabilities (`P x K`) up to which AUROC and mAP are resampled: minutes for 1000 times."""

Values = dict[str, tuple[Floats, Floats | None]]
"""Metric -> `(R,)` values and, where it has them, `(K, R)` values per class."""


class _BaseClassificationEvaluator(ABC):
    """Images seen so far, and what their numbers have in common.

    Args:
        classes: Names in label order.
    """

    protocol: str
    lower_is_better = frozenset({"ECE"})

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._ids: list[int | str] = []
        self._probs: list[NDArray[np.float32]] = []
        self._labels: list[tuple[int, ...]] = []
        self._num_skipped = 0

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the judged images, in the order in which they came."""
        return tuple(self._ids)

    def update(self, prediction: Classification, truth: GroundTruth) -> None:
        """Takes one image.

        Raises:
            DataError: If the image as a whole is not annotated, its labels do not fit the task,
                or the probabilities are not one per class in 0..1.
        """
        location = f"image {truth.image_id!r}"
        if truth.image_labels is None:
            raise DataError(f"{location} has no annotated image-level labels; leave it out")
        probs = as_array(prediction.probs).astype(np.float32)
        if probs.shape != (len(self.classes),) or not ((probs >= 0) & (probs <= 1)).all():
            raise DataError(
                f"{location}: the prediction must be {len(self.classes)} probabilities in 0..1, "
                "one "
                f"per class; it has shape {probs.shape} and values {probs.ravel()[:5].tolist()}"
            )
        known_labels = tuple(sorted({int(label) for label in truth.image_labels if label >= 0}))
        if known_labels and known_labels[-1] >= len(self.classes):
            raise DataError(
                f"{location}: its truth holds label {known_labels[-1]}; allowed are 0 to "
                f"{len(self.classes) - 1}, indices into the evaluator's classes"
            )
        if not self._is_evaluable(
            known_labels, num_labels=len(truth.image_labels), location=location
        ):
            self._num_skipped += 1
            return
        self._ids.append(truth.image_id)
        self._probs.append(probs)
        self._labels.append(known_labels)

    def compute(self) -> dict[str, Metric]:
        """All numbers over the images seen so far; None where the truth does not define one."""
        ones = np.ones((1, len(self._ids)))
        values = {**self._compute_count_metrics(ones), **self._compute_ranking_metrics(ones)}
        return {
            name: Metric(
                _nan_to_none(value[0]),
                {
                    class_name: _nan_to_none(row[0])
                    for class_name, row in self._zip_classes(per_class)
                },
                lower_is_better=name in self.lower_is_better,
            )
            for name, (value, per_class) in values.items()
        }

    def resample(self, counts: NDArray[np.int64]) -> dict[str, Floats]:
        """Metrics of resampled data sets; see `resnet_tasks.structures.evaluation.Resampled`.

        Beyond `LARGEST_RANKED` probabilities those that need them ranked are left out, and get no
        interval.
        """
        step = max(1, CHUNK // max(1, len(self._ids)))
        starts = range(0, max(1, len(counts)), step)
        # An image's weights side by side: rows are gathered much faster than columns.
        chunks = (counts[start : start + step] for start in starts)
        parts = [
            self._flatten_metrics(np.asarray(chunk, np.float64, order="F")) for chunk in chunks
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def details(self) -> dict[str, Any]:
        """Reliability, images and notes; see `resnet_tasks.structures.evaluation.Detailed`."""
        details = {"reliability": self._compute_reliability(), "images": self._describe_images()}
        if self._num_skipped:
            note = f"{self._num_skipped} images left out, whose labels are no classes of this head"
            details["notes"] = [note]
        return details

    @abstractmethod
    def _is_evaluable(
        self, known_labels: tuple[int, ...], *, num_labels: int, location: str
    ) -> bool:
        """Whether an image is judged; DataError where its labels do not fit the task."""

    @abstractmethod
    def _compute_count_metrics(self, weights: Floats) -> Values:
        """Metrics of sums over images, for `(R, P)` weights."""

    @abstractmethod
    def _compute_ranking_metrics(self, weights: Floats) -> Values:
        """Metrics of the order of images, for `(R, P)` weights."""

    @abstractmethod
    def _compute_confidence(self) -> tuple[Floats, NDArray[np.bool_]]:
        """`(P, D)` confidence of each decision on each image, and whether it came true."""

    @abstractmethod
    def _score_images(self) -> tuple[Floats, Floats]:
        """`(P,)` quality and `(P,)` surprise."""

    def _stack_probs(self) -> NDArray[np.float32]:
        """`(P, K)` probabilities."""
        return np.asarray(self._probs, np.float32).reshape(-1, len(self.classes))

    def _build_truth_matrix(self) -> NDArray[np.bool_]:
        """`(P, K)` whether the image has the label."""
        truth = np.zeros((len(self._labels), len(self.classes)), dtype=np.bool_)
        for row, labels in zip(truth, self._labels, strict=True):
            row[list(labels)] = True
        return truth

    def _flatten_metrics(self, weights: Floats) -> dict[str, Floats]:
        flat = {}
        values = self._compute_count_metrics(weights)
        if len(self._ids) * len(self.classes) <= LARGEST_RANKED:
            values |= self._compute_ranking_metrics(weights)
        for name, (value, per_class) in values.items():
            flat[name] = value
            flat |= {
                f"{name}/{class_name}": row for class_name, row in self._zip_classes(per_class)
            }
        return flat

    def _zip_classes(self, per_class: Floats | None) -> Iterable[tuple[str, Floats]]:
        """(class, `(R,)` values) pairs; none where a metric has no values per class."""
        return () if per_class is None else zip(self.classes, per_class, strict=True)

    def _compute_auroc(self, weights: Floats) -> tuple[Floats, Floats]:
        probs, truth = self._stack_probs(), self._build_truth_matrix()
        rows = [
            auroc(p.astype(np.float64), t, weights) for p, t in zip(probs.T, truth.T, strict=True)
        ]
        per_class = np.stack(rows)
        return average_defined_rows(per_class), per_class

    def _compute_calibration_error(self, weights: Floats) -> Floats:
        """Expected calibration error, `(R,)`: Guo et al. 2017, equation 3."""
        confidence, is_correct = self._compute_confidence()
        gaps = _sum_by_bin(confidence, is_correct - confidence)
        totals = weights.sum(axis=1) * confidence.shape[1]
        return safe_divide(np.abs(weights @ gaps).sum(axis=1), totals)

    def _compute_reliability(self) -> dict[str, list[float]]:
        confidence, is_correct = self._compute_confidence()
        ones = np.ones_like(confidence)
        counts, sums, hits = (
            _sum_by_bin(confidence, values).sum(axis=0)
            for values in (ones, confidence, is_correct * ones)
        )
        filled = counts > 0
        return {
            "confidence": (sums[filled] / counts[filled]).tolist(),
            "accuracy": (hits[filled] / counts[filled]).tolist(),
            "count": counts[filled].astype(int).tolist(),
        }

    def _describe_images(self) -> list[dict[str, Any]]:
        quality, surprise = self._score_images()
        return [
            {"image_id": image_id, "quality": float(q), "surprise": float(s)}
            for image_id, q, s in zip(self._ids, quality, surprise, strict=True)
        ]


class ClassificationEvaluator(_BaseClassificationEvaluator):
    """One class per image.

    Images whose labels are all unknown to the head are left out and counted.

    Args:
        classes: Names in label order.
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
        """Confusion, reliability and images; quality is the probability of the true class."""
        details = super().details()
        num_classes = len(self.classes)
        if num_classes > LARGEST_CONFUSION:
            note = f"no confusion matrix is kept for more than {LARGEST_CONFUSION} classes"
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
                "of this "
                "head, but single-label classification needs exactly one; mend the file, or set "
                "multi_label: true"
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
        """`(R,)` share of images that are hits, and `(K, R)` that of each class."""
        labels = self._get_true_labels()
        per_class = [
            safe_divide(
                weights[:, class_mask] @ hits[class_mask], weights[:, class_mask].sum(axis=1)
            )
            for class_mask in (labels == label for label in range(len(self.classes)))
        ]
        return safe_divide(weights @ hits, weights.sum(axis=1)), np.stack(per_class)

    def _get_true_labels(self) -> NDArray[np.int64]:
        return np.asarray([labels[0] for labels in self._labels], np.int64)

    def _predict_labels(self) -> NDArray[np.int64]:
        predicted_labels: NDArray[np.int64] = self._stack_probs().argmax(axis=1)
        return predicted_labels

    def _get_true_probs(self) -> NDArray[np.float32]:
        """`(P,)` probability of the true class."""
        return self._stack_probs()[np.arange(len(self._ids)), self._get_true_labels()]

    def _count_better_classes(self) -> NDArray[np.int64]:
        """`(P,)` classes before the true one: more probable, or equal and first in class order."""
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


class MultiLabelEvaluator(_BaseClassificationEvaluator):
    """Any number of labels per image.

    Args:
        classes: Names in label order.
    """

    THRESHOLD = 0.5
    """Probability from which a label counts as found, for F1 and subset accuracy."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self.protocol = (
            "AUROC: per class, ties count half, mean over the classes with both outcomes; mAP: "
            "average precision without interpolation, mean over the classes that occur in the "
            f"truth; F1 at probability {self.THRESHOLD}, mean over the same classes; "
            "subset_accuracy: share of images with every label right; ECE: "
            f"{NUM_BINS} equal bins of the probabilities of all pairs of image and class."
        )

    def details(self) -> dict[str, Any]:
        """Reliability and images; quality is the mean probability of the right answers."""
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
            "F1": (average_defined_rows(f1), f1),
            "subset_accuracy": (safe_divide(weights @ is_exact_match, weights.sum(axis=1)), None),
            "ECE": (self._compute_calibration_error(weights), None),
        }

    def _compute_ranking_metrics(self, weights: Floats) -> Values:
        columns = zip(
            self._stack_probs().T.astype(np.float64), self._build_truth_matrix().T, strict=True
        )
        precision = np.stack([average_precision(p, t, weights) for p, t in columns])
        return {
            "AUROC": self._compute_auroc(weights),
            "mAP": (average_defined_rows(precision), precision),
        }

    def _compute_confidence(self) -> tuple[Floats, NDArray[np.bool_]]:
        return self._stack_probs().astype(np.float64), self._build_truth_matrix()

    def _score_images(self) -> tuple[Floats, Floats]:
        probs, truth = self._compute_confidence()
        is_wrong = (probs >= self.THRESHOLD) != truth
        confidence = np.where(is_wrong, np.maximum(probs, 1 - probs), 0.0)
        quality = np.where(truth, probs, 1 - probs).mean(axis=1)
        return quality, confidence.max(axis=1, initial=0.0)


def _sum_by_bin(confidence: Floats, values: NDArray[Any]) -> Floats:
    """`(P, M)` sums of `(P, D)` values over the bins of equal width that the confidences lie in."""
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    sums = np.zeros((len(confidence), NUM_BINS))
    rows = np.broadcast_to(np.arange(len(confidence))[:, None], bins.shape)
    np.add.at(sums, (rows, bins), values)
    return sums


def _compute_f1(predicted: NDArray[np.bool_], truth: NDArray[np.bool_], weights: Floats) -> Floats:
    """`(R,)` F1 of one class; NaN where the truth does not hold it."""
    present = weights @ truth
    f1 = safe_divide(2 * (weights @ (predicted & truth)), present + weights @ predicted)
    return np.where(present > 0, f1, np.nan)


def _nan_to_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


@EVALUATORS.register("classification")
def build_classification_evaluator(classes: tuple[str, ...]) -> ClassificationEvaluator:
    """The evaluator of single-label heads."""
    return ClassificationEvaluator(classes)


@EVALUATORS.register("multi_label_classification")
def build_multi_label_evaluator(classes: tuple[str, ...]) -> MultiLabelEvaluator:
    """The evaluator of multi-label heads."""
    return MultiLabelEvaluator(classes)
