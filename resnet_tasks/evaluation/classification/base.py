"""Base of the classification evaluators: images, resampling, calibration error and details.

Every metric is computed for many weightings of the images at once; the plain metrics use a
weighting of ones.

Shape glossary: `P` images, `K` classes, `R` weightings (resampled datasets), `M` bins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.numerics.ranking import auroc
from resnet_tasks.evaluation.numerics.weighted_means import (
    Floats,
    average_defined,
    nan_to_none,
    ratio,
)
from resnet_tasks.number_formats import Count
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.evaluation import GroundTruth, Metric

if TYPE_CHECKING:
    from resnet_tasks.structures.predictions.classification import Classification


NUM_BINS = 15  # Guo et al. 2017, section 2

CHUNK = 1_000_000
"""Number of weights (`R x P`) processed together, which bounds the memory."""

LARGEST_RANKED = 5_000_000
"""Maximum number of probabilities (`P x K`) for which AUROC and mAP are resampled; 1000 resamples
then take minutes."""

Values = dict[str, tuple[Floats, Floats | None]]
"""Metric -> `(R,)` values, and `(K, R)` values per class or None."""


class BaseClassificationEvaluator(ABC):
    """Base class that stores the images and computes the common metrics.

    Args:
        classes: Class names in label order.
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
        """Ids of the evaluated images, in the order of their addition."""
        return tuple(self._ids)

    def update(self, prediction: Classification, truth: GroundTruth) -> None:
        """Add one image.

        Raises:
            DataError: If image-level labels are not annotated, the labels do not fit the task, or
                the prediction is not one probability in 0..1 per class.
        """
        location = f"image {truth.image_id!r}"
        if truth.image_labels is None:
            raise DataError(f"{location} has no annotated image-level labels; skip it")
        probs = as_array(prediction.probs).astype(np.float32)
        if probs.shape != (len(self.classes),) or not ((probs >= 0) & (probs <= 1)).all():
            raise DataError(
                f"{location}: the prediction must be {len(self.classes)} probabilities in 0..1, "
                f"one per class; got shape {probs.shape} and values {probs.ravel()[:5].tolist()}"
            )
        known_labels = tuple(sorted({int(label) for label in truth.image_labels if label >= 0}))
        if known_labels and known_labels[-1] >= len(self.classes):
            raise DataError(
                f"{location}: the ground truth has label {known_labels[-1]}; allowed are 0 to "
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
        """Compute all metrics over the images added so far; None for undefined metrics."""
        ones = np.ones((1, len(self._ids)))
        values = {**self._compute_count_metrics(ones), **self._compute_ranking_metrics(ones)}
        return {
            name: Metric(
                nan_to_none(value[0]),
                {
                    class_name: nan_to_none(row[0])
                    for class_name, row in self._zip_classes(per_class)
                },
                lower_is_better=name in self.lower_is_better,
            )
            for name, (value, per_class) in values.items()
        }

    def resample(self, counts: NDArray[np.int64]) -> dict[str, Floats]:
        """Compute the metrics of resampled datasets; see `ResamplableEvaluator.resample`.

        With more than `LARGEST_RANKED` probabilities, metrics that need a ranking are omitted and
        get no interval.
        """
        step = max(1, CHUNK // max(1, len(self._ids)))
        starts = range(0, max(1, len(counts)), step)
        # Column-major, because the metrics gather the weights image by image.
        chunks = (counts[start : start + step] for start in starts)
        parts = [
            self._flatten_metrics(np.asarray(chunk, np.float64, order="F")) for chunk in chunks
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def details(self) -> dict[str, Any]:
        """Return reliability, images and notes; see `DetailedEvaluator.details`."""
        details = {"reliability": self._compute_reliability(), "images": self._describe_images()}
        if self._num_skipped:
            note = (
                f"{Count(self._num_skipped):image} skipped because their labels are not classes of "
                "this head"
            )
            details["notes"] = [note]
        return details

    @abstractmethod
    def _is_evaluable(
        self, known_labels: tuple[int, ...], *, num_labels: int, location: str
    ) -> bool:
        """Return whether an image is evaluated.

        Raises:
            DataError: If the labels of the image do not fit the task.
        """

    @abstractmethod
    def _compute_count_metrics(self, weights: Floats) -> Values:
        """Compute the metrics that are sums over images, for `(R, P)` weights."""

    @abstractmethod
    def _compute_ranking_metrics(self, weights: Floats) -> Values:
        """Compute the metrics that depend on the ranking of the images, for `(R, P)` weights."""

    @abstractmethod
    def _compute_confidence(self) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the `(P, D)` confidence of each decision on each image, and its correctness."""

    @abstractmethod
    def _score_images(self) -> tuple[Floats, Floats]:
        """Return `(P,)` quality of the images' predictions, and `(P,)` confidence of their errors.

        Both are in 0..1. The second value, `surprise`, is 0 for an image without an error.
        """

    def _stack_probs(self) -> NDArray[np.float32]:
        """Return the `(P, K)` probabilities."""
        return np.asarray(self._probs, np.float32).reshape(-1, len(self.classes))

    def _build_truth_matrix(self) -> NDArray[np.bool_]:
        """Return whether each image has each label, `(P, K)`."""
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
        """Return (class, `(R,)` values) pairs; empty for a metric without values per class."""
        return () if per_class is None else zip(self.classes, per_class, strict=True)

    def _compute_auroc(self, weights: Floats) -> tuple[Floats, Floats]:
        probs, truth = self._stack_probs(), self._build_truth_matrix()
        rows = [
            auroc(p.astype(np.float64), t, weights) for p, t in zip(probs.T, truth.T, strict=True)
        ]
        per_class = np.stack(rows)
        return average_defined(per_class, axis=0), per_class

    def _compute_calibration_error(self, weights: Floats) -> Floats:
        """Compute the expected calibration error, `(R,)`: Guo et al. 2017, equation 3."""
        confidence, is_correct = self._compute_confidence()
        gaps = _sum_by_bin(confidence, is_correct - confidence)
        totals = weights.sum(axis=1) * confidence.shape[1]
        return ratio(np.abs(weights @ gaps).sum(axis=1), totals)

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


def _sum_by_bin(confidence: Floats, values: NDArray[Any]) -> Floats:
    """Sum `(P, D)` values over equal-width bins of their confidence, `(P, M)`."""
    # Bins are open below: 1.0 lies in the last bin, 0.0 in the first.
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    sums = np.zeros((len(confidence), NUM_BINS))
    rows = np.broadcast_to(np.arange(len(confidence))[:, None], bins.shape)
    np.add.at(sums, (rows, bins), values)
    return sums
