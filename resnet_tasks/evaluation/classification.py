"""Top-1, top-5, AUROC and calibration error of single-label and multi-label classification.

Every number is computed for many weightings of the pictures at once; the plain numbers are those of
the weighting that takes each picture once.

Shape glossary: `P` pictures, `K` classes, `R` weightings (resampled data sets), `M` bins.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.ranking import (
    Floats,
    auroc,
    average_precision,
    divided,
    mean_of_defined,
)
from resnet_tasks.metrics import Metric, Truth, as_array
from resnet_tasks.registry import EVALUATORS

if TYPE_CHECKING:
    from resnet_tasks.structures import Classification

NUM_BINS = 15  # Guo et al. 2017, section 2
LARGEST_CONFUSION = 200
"""Classes up to which `details` holds the confusion matrix."""
CHUNK = 1_000_000
"""Weights (`R x P`) that are looked at together, so that memory stays bounded."""

LARGEST_RANKED = 5_000_000
"""Probabilities (`P x K`) up to which AUROC and mAP are resampled: minutes for 1000 times."""

Values = dict[str, tuple[Floats, Floats | None]]
"""Metric -> `(R,)` values and, where it has them, `(K, R)` values per class."""


class _Classified(ABC):
    """Pictures seen so far, and what their numbers have in common.

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
        self._left_out = 0

    @property
    def picture_ids(self) -> tuple[int | str, ...]:
        """Ids of the judged pictures, in the order in which they came."""
        return tuple(self._ids)

    def update(self, prediction: Classification, truth: Truth) -> None:
        """Takes one picture.

        Raises:
            DataError: If the picture as a whole is not annotated, its labels do not fit the task,
                or the probabilities are not one per class in 0..1.
        """
        where = f"image {truth.image_id!r}"
        if truth.image_labels is None:
            raise DataError(f"{where} has no annotated image-level labels; leave it out")
        probs = as_array(prediction.probs).astype(np.float32)
        if probs.shape != (len(self.classes),) or not ((probs >= 0) & (probs <= 1)).all():
            raise DataError(
                f"{where}: the prediction must be {len(self.classes)} probabilities in 0..1, one "
                f"per class; it has shape {probs.shape} and values {probs.ravel()[:5].tolist()}"
            )
        known = tuple(sorted({int(each) for each in truth.image_labels if each >= 0}))
        if known and known[-1] >= len(self.classes):
            raise DataError(
                f"{where}: its truth holds label {known[-1]}; allowed are 0 to "
                f"{len(self.classes) - 1}, indices into the evaluator's classes"
            )
        if not self._fits(known, num_labels=len(truth.image_labels), where=where):
            self._left_out += 1
            return
        self._ids.append(truth.image_id)
        self._probs.append(probs)
        self._labels.append(known)

    def compute(self) -> dict[str, Metric]:
        """All numbers over the pictures seen so far; None where the truth does not define one."""
        ones = np.ones((1, len(self._ids)))
        values = {**self._counted(ones), **self._ranked(ones)}
        return {
            name: Metric(
                _number(value[0]),
                {each: _number(row[0]) for each, row in self._named(per_class)},
                lower_is_better=name in self.lower_is_better,
            )
            for name, (value, per_class) in values.items()
        }

    def resample(self, counts: NDArray[np.int64]) -> dict[str, Floats]:
        """Metrics of resampled data sets; see `resnet_tasks.metrics.Resampled`.

        Beyond `LARGEST_RANKED` probabilities those that need them ranked are left out, and get no
        interval.
        """
        step = max(1, CHUNK // max(1, len(self._ids)))
        starts = range(0, max(1, len(counts)), step)
        # A picture's weights side by side: rows are gathered much faster than columns.
        chunks = (counts[start : start + step] for start in starts)
        parts = [self._flat(np.asarray(each, np.float64, order="F")) for each in chunks]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def details(self) -> dict[str, Any]:
        """Reliability, pictures and notes; see `resnet_tasks.metrics.Detailed`."""
        made = {"reliability": self._reliability(), "pictures": self._pictures()}
        if self._left_out:
            note = f"{self._left_out} pictures left out, whose labels are no classes of this head"
            made["notes"] = [note]
        return made

    @abstractmethod
    def _fits(self, known: tuple[int, ...], *, num_labels: int, where: str) -> bool:
        """Whether a picture is judged; DataError where its labels do not fit the task."""

    @abstractmethod
    def _counted(self, weights: Floats) -> Values:
        """Metrics of sums over pictures, for `(R, P)` weights."""

    @abstractmethod
    def _ranked(self, weights: Floats) -> Values:
        """Metrics of the order of pictures, for `(R, P)` weights."""

    @abstractmethod
    def _calibration(self) -> tuple[Floats, NDArray[np.bool_]]:
        """`(P, D)` confidence of each decision on each picture, and whether it came true."""

    @abstractmethod
    def _judged(self) -> tuple[Floats, Floats]:
        """`(P,)` quality and `(P,)` surprise."""

    def _matrix(self) -> NDArray[np.float32]:
        """`(P, K)` probabilities."""
        return np.asarray(self._probs, np.float32).reshape(-1, len(self.classes))

    def _truth(self) -> NDArray[np.bool_]:
        """`(P, K)` whether the picture has the label."""
        truth = np.zeros((len(self._labels), len(self.classes)), dtype=np.bool_)
        for row, labels in zip(truth, self._labels, strict=True):
            row[list(labels)] = True
        return truth

    def _flat(self, weights: Floats) -> dict[str, Floats]:
        flat = {}
        values = self._counted(weights)
        if len(self._ids) * len(self.classes) <= LARGEST_RANKED:
            values |= self._ranked(weights)
        for name, (value, per_class) in values.items():
            flat[name] = value
            flat |= {f"{name}/{each}": row for each, row in self._named(per_class)}
        return flat

    def _named(self, per_class: Floats | None) -> Iterable[tuple[str, Floats]]:
        """(class, `(R,)` values) pairs; none where a metric has no values per class."""
        return () if per_class is None else zip(self.classes, per_class, strict=True)

    def _auroc(self, weights: Floats) -> tuple[Floats, Floats]:
        probs, truth = self._matrix(), self._truth()
        rows = [
            auroc(p.astype(np.float64), t, weights) for p, t in zip(probs.T, truth.T, strict=True)
        ]
        per_class = np.stack(rows)
        return mean_of_defined(per_class), per_class

    def _calibration_error(self, weights: Floats) -> Floats:
        """Expected calibration error, `(R,)`: Guo et al. 2017, equation 3."""
        confidence, came_true = self._calibration()
        gaps = _by_bin(confidence, came_true - confidence)
        totals = weights.sum(axis=1) * confidence.shape[1]
        return divided(np.abs(weights @ gaps).sum(axis=1), totals)

    def _reliability(self) -> dict[str, list[float]]:
        confidence, came_true = self._calibration()
        ones = np.ones_like(confidence)
        counts, sums, hits = (
            _by_bin(confidence, each).sum(axis=0) for each in (ones, confidence, came_true * ones)
        )
        filled = counts > 0
        return {
            "confidence": (sums[filled] / counts[filled]).tolist(),
            "accuracy": (hits[filled] / counts[filled]).tolist(),
            "count": counts[filled].astype(int).tolist(),
        }

    def _pictures(self) -> list[dict[str, Any]]:
        quality, surprise = self._judged()
        return [
            {"image_id": image_id, "quality": float(q), "surprise": float(s)}
            for image_id, q, s in zip(self._ids, quality, surprise, strict=True)
        ]


class ClassificationEvaluator(_Classified):
    """One class per picture.

    Pictures whose labels are all unknown to the head are left out and counted.

    Args:
        classes: Names in label order.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self._has_top5 = len(self.classes) > 5
        top5 = "top5 likewise among the best five; " if self._has_top5 else ""
        self.protocol = (
            "top1: share of pictures whose most probable class is the true one (first in class "
            f"order among equals), per class: of the pictures of that class; {top5}AUROC: one "
            "class against the rest, ties count half, mean over the classes with both outcomes; "
            f"ECE: {NUM_BINS} equal bins of the top probability (Guo et al. 2017)."
        )

    def details(self) -> dict[str, Any]:
        """Confusion, reliability and pictures; quality is the probability of the true class."""
        made = super().details()
        num_classes = len(self.classes)
        if num_classes > LARGEST_CONFUSION:
            note = f"no confusion matrix is kept for more than {LARGEST_CONFUSION} classes"
            made["notes"] = [*made.get("notes", ()), note]
            return made
        pairs = self._single() * num_classes + self._found()
        matrix = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
        made["confusion"] = {"labels": list(self.classes), "matrix": matrix.tolist()}
        return made

    def _fits(self, known: tuple[int, ...], *, num_labels: int, where: str) -> bool:
        if len(known) > 1 or not num_labels:
            raise DataError(
                f"{where} has {len(known) or 'no'} image-level labels among the classes of this "
                "head, but single-label classification needs exactly one; mend the file, or set "
                "multi_label: true"
            )
        return bool(known)

    def _counted(self, weights: Floats) -> Values:
        better = self._num_better()
        values: Values = {"top1": self._share(better < 1, weights)}
        if self._has_top5:
            values["top5"] = self._share(better < 5, weights)
        return {**values, "ECE": (self._calibration_error(weights), None)}

    def _ranked(self, weights: Floats) -> Values:
        return {"AUROC": self._auroc(weights)}

    def _share(self, hits: NDArray[np.bool_], weights: Floats) -> tuple[Floats, Floats]:
        """`(R,)` share of pictures that are hits, and `(K, R)` that of each class."""
        labels = self._single()
        per_class = [
            divided(weights[:, chosen] @ hits[chosen], weights[:, chosen].sum(axis=1))
            for chosen in (labels == label for label in range(len(self.classes)))
        ]
        return divided(weights @ hits, weights.sum(axis=1)), np.stack(per_class)

    def _single(self) -> NDArray[np.int64]:
        return np.asarray([labels[0] for labels in self._labels], np.int64)

    def _found(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = self._matrix().argmax(axis=1)
        return found

    def _of_truth(self) -> NDArray[np.float32]:
        """`(P,)` probability of the true class."""
        return self._matrix()[np.arange(len(self._ids)), self._single()]

    def _num_better(self) -> NDArray[np.int64]:
        """`(P,)` classes before the true one: more probable, or equal and first in class order."""
        probs, own = self._matrix(), self._of_truth()[:, None]
        is_first = np.arange(len(self.classes)) < self._single()[:, None]
        better: NDArray[np.int64] = ((probs > own) | ((probs == own) & is_first)).sum(axis=1)
        return better

    def _calibration(self) -> tuple[Floats, NDArray[np.bool_]]:
        best = self._matrix().max(axis=1, initial=0.0).astype(np.float64)
        return best[:, None], (self._found() == self._single())[:, None]

    def _judged(self) -> tuple[Floats, Floats]:
        best, is_right = self._calibration()
        return self._of_truth().astype(np.float64), np.where(is_right, 0.0, best)[:, 0]


class MultiLabelEvaluator(_Classified):
    """Any number of labels per picture.

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
            "subset_accuracy: share of pictures with every label right; ECE: "
            f"{NUM_BINS} equal bins of the probabilities of all pairs of picture and class."
        )

    def details(self) -> dict[str, Any]:
        """Reliability and pictures; quality is the mean probability of the right answers."""
        return super().details()

    def _fits(self, known: tuple[int, ...], *, num_labels: int, where: str) -> bool:  # noqa: ARG002
        return True

    def _counted(self, weights: Floats) -> Values:
        probs, truth = self._matrix(), self._truth()
        found = probs >= self.THRESHOLD
        f1 = np.stack([_f1(f, t, weights) for f, t in zip(found.T, truth.T, strict=True)])
        whole = (found == truth).all(axis=1)
        return {
            "F1": (mean_of_defined(f1), f1),
            "subset_accuracy": (divided(weights @ whole, weights.sum(axis=1)), None),
            "ECE": (self._calibration_error(weights), None),
        }

    def _ranked(self, weights: Floats) -> Values:
        columns = zip(self._matrix().T.astype(np.float64), self._truth().T, strict=True)
        precision = np.stack([average_precision(p, t, weights) for p, t in columns])
        return {
            "AUROC": self._auroc(weights),
            "mAP": (mean_of_defined(precision), precision),
        }

    def _calibration(self) -> tuple[Floats, NDArray[np.bool_]]:
        return self._matrix().astype(np.float64), self._truth()

    def _judged(self) -> tuple[Floats, Floats]:
        probs, truth = self._calibration()
        is_wrong = (probs >= self.THRESHOLD) != truth
        confidence = np.where(is_wrong, np.maximum(probs, 1 - probs), 0.0)
        quality = np.where(truth, probs, 1 - probs).mean(axis=1)
        return quality, confidence.max(axis=1, initial=0.0)


def _by_bin(confidence: Floats, values: NDArray[Any]) -> Floats:
    """`(P, M)` sums of `(P, D)` values over the bins of equal width that the confidences lie in."""
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    sums = np.zeros((len(confidence), NUM_BINS))
    rows = np.broadcast_to(np.arange(len(confidence))[:, None], bins.shape)
    np.add.at(sums, (rows, bins), values)
    return sums


def _f1(found: NDArray[np.bool_], truth: NDArray[np.bool_], weights: Floats) -> Floats:
    """`(R,)` F1 of one class; NaN where the truth does not hold it."""
    present = weights @ truth
    f1 = divided(2 * (weights @ (found & truth)), present + weights @ found)
    return np.where(present > 0, f1, np.nan)


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


@EVALUATORS.register("classification")
def classification_evaluator(classes: tuple[str, ...]) -> ClassificationEvaluator:
    """The evaluator of single-label heads."""
    return ClassificationEvaluator(classes)


@EVALUATORS.register("multi_label_classification")
def multi_label_evaluator(classes: tuple[str, ...]) -> MultiLabelEvaluator:
    """The evaluator of multi-label heads."""
    return MultiLabelEvaluator(classes)
