"""Base of the classification evaluators: images seen, resampling, calibration error and details.

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
    safe_divide,
)
from resnet_tasks.structures.evaluation import GroundTruth, Metric, as_array

if TYPE_CHECKING:
    from resnet_tasks.structures.predictions import Classification


NUM_BINS = 15  # Guo et al. 2017, section 2

CHUNK = 1_000_000
"""Weights (`R x P`) that are looked at together, so that memory stays bounded."""

LARGEST_RANKED = 5_000_000
"""Probabilities (`P x K`) up to which AUROC and mAP are resampled: minutes for 1000 times."""

Values = dict[str, tuple[Floats, Floats | None]]
"""Metric -> `(R,)` values and, where it has them, `(K, R)` values per class."""


class BaseClassificationEvaluator(ABC):
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


def _sum_by_bin(confidence: Floats, values: NDArray[Any]) -> Floats:
    """`(P, M)` sums of `(P, D)` values over the bins of equal width that the confidences lie in."""
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    sums = np.zeros((len(confidence), NUM_BINS))
    rows = np.broadcast_to(np.arange(len(confidence))[:, None], bins.shape)
    np.add.at(sums, (rows, bins), values)
    return sums


def _nan_to_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
