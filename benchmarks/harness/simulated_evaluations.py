"""Simulated evaluations with known true values: detections and segmentations of unequal difficulty.

The images of a dataset differ in difficulty, and the objects of a difficult image are found less
often, with lower scores and lower IoU. Two models can be simulated on the same images. Average
precision is computed by this package; IoU and Dice are ratios of summed areas.

Shape glossary: `P` images, `R` resampled datasets, `K` classes, `C` found objects, `T` thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.coco.matching import THRESHOLDS
from resnet_tasks.evaluation.coco.precision_curves import NUM_SIZES, PrecisionCurves
from resnet_tasks.evaluation.numerics.weighted_means import average_defined

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_DATASETS_AT_ONCE = 512


class SimulatedEvaluation(Protocol):
    """Evaluation of one model on one dataset."""

    def resample(self, weights: NDArray[np.float32]) -> Floats:
        """Compute the metrics `(R, M)` of resampled datasets from the images' counts `(P, R)`."""
        ...


class Setting(Protocol):
    """Distribution of datasets and predictions."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the `M` metrics."""
        ...

    def simulate(
        self, rng: np.random.Generator, num_images: int, skills: tuple[float, ...] = (0.0,)
    ) -> list[SimulatedEvaluation]:
        """Draw a dataset and the predictions of one model for each of `skills` on it."""
        ...


@dataclass(frozen=True)
class DetectionSetting:
    """Distribution of objects and detections.

    Attributes:
        shares: Fractions of the objects that are of each class; the last class is the rarest.
        separation: Mean score of found objects; false positives have mean 0.
        false_positives: Mean number of false positives per image.
        objects: Mean number of objects per image.
        spread: Standard deviation of the difficulty of images.
        metrics: Names of the metrics.
    """

    shares: tuple[float, ...] = (0.6, 0.3, 0.1)
    separation: float = 1.5
    false_positives: float = 1.5
    objects: float = 3.0
    spread: float = 1.0
    metrics: tuple[str, ...] = ("AP", "AP50", "AP of the rarest class")

    def simulate(
        self, rng: np.random.Generator, num_images: int, skills: tuple[float, ...] = (0.0,)
    ) -> list[SimulatedEvaluation]:
        """Draw a dataset and the detections of one model for each of `skills` on it."""
        image_difficulty = rng.normal(size=num_images) * self.spread
        images = np.repeat(np.arange(num_images), rng.poisson(self.objects, size=num_images))
        labels = rng.choice(len(self.shares), size=len(images), p=self.shares)
        difficulty = image_difficulty[images] + 0.7 * rng.normal(size=len(images))
        return [
            self._detect(rng, image_difficulty, images, labels, difficulty - skill)
            for skill in skills
        ]

    def _detect(
        self,
        rng: np.random.Generator,
        image_difficulty: Floats,
        images: Ints,
        labels: Ints,
        difficulty: Floats,
    ) -> SimulatedEvaluation:
        is_found = rng.random(len(images)) < _to_fraction(2 - difficulty)
        iou = _to_fraction(1.6 - 0.6 * difficulty + 0.6 * rng.normal(size=len(images)))
        scores = self.separation - 0.6 * difficulty + 0.8 * rng.normal(size=len(images))
        rate = self.false_positives * np.exp(0.3 * image_difficulty - 0.045)
        false_images = np.repeat(np.arange(len(rate)), rng.poisson(rate))
        false_labels = rng.choice(len(self.shares), size=len(false_images), p=self.shares)
        false_scores = 0.9 * rng.normal(size=len(false_images))
        false_scores += 0.2 * image_difficulty[false_images]
        detections = _Detections(
            np.concatenate((images[is_found], false_images)),
            np.concatenate((labels[is_found], false_labels)),
            np.concatenate((scores[is_found], false_scores)),
            np.concatenate((iou[is_found], np.zeros(len(false_images)))),
        )
        return _DetectionEvaluation(
            [
                _ClassDetections(images[labels == label], detections, label, len(rate))
                for label in range(len(self.shares))
            ]
        )


@dataclass(frozen=True)
class SegmentationSetting:
    """Distribution of areas and of their overlap with the predictions.

    Attributes:
        presence: Probability that each class is in an image; the last class is the rarest.
        spread: Standard deviation of the difficulty of images.
        quality: Log odds of the fraction of an area that is found in an average image.
        metrics: Names of the metrics.
    """

    presence: tuple[float, ...] = (1.0, 0.6, 0.1)
    spread: float = 1.0
    quality: float = 1.5
    metrics: tuple[str, ...] = ("mIoU", "Dice", "IoU of the rarest class")

    def simulate(
        self, rng: np.random.Generator, num_images: int, skills: tuple[float, ...] = (0.0,)
    ) -> list[SimulatedEvaluation]:
        """Draw a dataset and the label maps of one model for each of `skills` on it."""
        presence = np.asarray(self.presence)
        shape = (num_images, len(presence))
        difficulty = rng.normal(size=(num_images, 1)) * self.spread
        is_present = rng.random(shape) < presence
        areas: Floats = np.where(is_present, np.exp(1.2 * rng.normal(size=shape)), 0.0)
        difficulty = difficulty + 0.5 * rng.normal(size=shape)
        evaluations: list[SimulatedEvaluation] = []
        for skill in skills:
            noise = 0.5 * rng.normal(size=shape)
            found = _to_fraction(self.quality + skill - difficulty + noise)
            spurious = (rng.random(shape) < 0.15) * presence * np.exp(rng.normal(size=shape)) * 0.3
            excess = areas * (1 - found) * np.exp(0.5 * rng.normal(size=shape)) * 0.8
            evaluations.append(_SegmentationEvaluation(areas * found, excess + spurious, areas))
        return evaluations


DETECTION_SETTINGS = {
    "one class": DetectionSetting(shares=(1.0,)),
    "60/30/10 %": DetectionSetting(),
    "rare class (2 %)": DetectionSetting(shares=(0.7, 0.28, 0.02)),
    "hard": DetectionSetting(separation=0.3, false_positives=4.0),
    "easy": DetectionSetting(separation=2.5, false_positives=0.5, spread=0.5),
    "1 object per image": DetectionSetting(
        separation=0.1, false_positives=0.5, objects=1.0, spread=1.5
    ),
}
SEGMENTATION_SETTINGS = {
    "three classes": SegmentationSetting((1.0, 0.8, 0.5), 1.0, 1.5),
    "rare class (10 %)": SegmentationSetting(),
    "hard images": SegmentationSetting(spread=2.0, quality=1.0),
    "easy images": SegmentationSetting(spread=1.5, quality=3.5),
    "many classes": SegmentationSetting((1.0,) * 6 + (0.5,) * 4 + (0.2, 0.1, 0.05), 1.0, 2.0),
}
SETTINGS: dict[str, Setting] = {**DETECTION_SETTINGS, **SEGMENTATION_SETTINGS}


def _to_fraction(log_odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-log_odds))


@dataclass(frozen=True)
class _Detections:
    images: Ints
    labels: Ints
    scores: Floats
    iou: Floats


class _ClassDetections:
    def __init__(
        self, object_images: Ints, detections: _Detections, label: int, num_images: int
    ) -> None:
        self._object_counts = np.bincount(object_images, minlength=num_images).astype(np.float32)
        members = np.flatnonzero(detections.labels == label)
        members = members[np.argsort(-detections.scores[members], kind="stable")]
        iou = detections.iou[members]
        candidates = np.flatnonzero(iou >= THRESHOLDS[0])
        # All objects count in the first size class only; the others stay empty.
        is_hit = np.zeros((len(candidates), len(THRESHOLDS), NUM_SIZES), bool)
        is_hit[:, :, 0] = iou[candidates, None] >= THRESHOLDS
        in_range = np.zeros((len(members), NUM_SIZES), bool)
        in_range[:, 0] = True
        self._curves = PrecisionCurves(
            is_hit, is_hit, detections.images[members], in_range, candidates, num_images
        )

    def compute_precision(self, weights: NDArray[np.float32]) -> Floats:
        """Compute the average precision `(T, R)`, NaN without an object."""
        total = (self._object_counts @ weights).astype(np.float64)
        totals = np.ones((NUM_SIZES, weights.shape[1]))
        totals[0] = np.maximum(total, 1)
        precision = self._curves.compute_precision(weights, totals)[:, 0]
        precision[:, total == 0] = np.nan
        return precision


class _DetectionEvaluation:
    def __init__(self, classes: list[_ClassDetections]) -> None:
        self._classes = classes

    def resample(self, weights: NDArray[np.float32]) -> Floats:
        """Compute the metrics `(R, M)` of resampled datasets from the images' counts `(P, R)`."""
        starts = range(_DATASETS_AT_ONCE, weights.shape[1], _DATASETS_AT_ONCE)
        parts = [
            self._resample(np.ascontiguousarray(part)) for part in np.split(weights, starts, axis=1)
        ]
        return np.concatenate(parts)

    def _resample(self, weights: NDArray[np.float32]) -> Floats:
        precision = np.stack([part.compute_precision(weights) for part in self._classes])
        class_ap = precision.mean(axis=1)
        columns = (
            average_defined(class_ap, axis=0),
            average_defined(precision[:, 0], axis=0),
            class_ap[-1],
        )
        return np.stack(columns, axis=1)


class _SegmentationEvaluation:
    def __init__(self, hits: Floats, false_areas: Floats, areas: Floats) -> None:
        self._areas = np.concatenate((hits, false_areas, areas), axis=1)

    def resample(self, weights: NDArray[np.float32]) -> Floats:
        """Compute the metrics `(R, M)` of resampled datasets from the images' counts `(P, R)`."""
        hits, false_areas, areas = np.split(weights.T.astype(np.float64) @ self._areas, 3, axis=1)
        is_defined = areas > 0
        union = np.where(is_defined, areas + false_areas, 1)
        iou = np.where(is_defined, hits / union, np.nan)
        dice = 2 * iou / (1 + iou)
        columns = (average_defined(iou, axis=1), average_defined(dice, axis=1), iou[:, -1])
        return np.stack(columns, axis=1)
