"""Temperature scaling: one or two parameters per head that calibrate its confidence.

Logits are divided by a temperature (Guo et al., On Calibration of Modern Neural Networks, ICML
2017, section 4.2). Scores of detections, which are also biased, pass through a logistic function of
their logits (Platt 1999; Küppers et al., CVPR workshops 2020). Both preserve the order: no class
and no ranking of detections changes, hence no AP and no mIoU. The parameters are fitted on decoded
predictions and applied to the outputs that the head's task declares, before they are decoded.

Shape glossary: `N` decisions (pixels, detections, images), `K` classes.
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

# SciPy imports its subpackages lazily. Tasks import this module, also in processes that only
# predict with an exported model; importing the subpackages here would delay their start by 0.5 s.
import scipy
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.uncertainty.calibration_error import (
    Decisions,
    extract_detection_decisions,
    extract_pixel_decisions,
)
from resnet_tasks.structures.arrays import as_array, as_float32, sigmoid, where
from resnet_tasks.structures.arrays import logit as array_logit
from resnet_tasks.structures.evaluation import GroundTruth, Metric
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.structures.tasks import Outputs

LEAST_DECISIONS = 50
"""Minimum number of decisions for a fit."""
PIXELS_PER_IMAGE = 500
"""Maximum number of pixels per image; neighboring pixels are similar, so more add little
information."""
LARGEST_FIT = 500_000
"""Maximum number of decisions in one softmax fit; if there are more, only every k-th one is used.
"""
SCALED_FIELDS = ("logits", "scores")
"""Names of the outputs that can be scaled."""
STEEPEST = 20.0
"""Maximum slope of the fit, whose inverse is the minimum: a perfect model has no finite optimum."""
TINY = 1e-7  # probabilities closer to 0 or 1 have no finite logit in float32

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TemperatureScaling:
    """Scaling of one head's outputs.

    Attributes:
        field: Name of the scaled output: `logits` or `scores`.
        slope: Factor of the logits, 1 / temperature; above 0.
        intercept: Offset added to the scaled logits; 0 for `logits`.
    """

    field: str
    slope: float
    intercept: float = 0.0

    @property
    def temperature(self) -> float:
        """Temperature, 1 / slope; above 1 if the model is overconfident."""
        return 1 / self.slope

    def __call__(self, outputs: Outputs) -> dict[str, Any]:
        """Return the outputs of the head, arrays or tensors, with the field scaled.

        Scores are scaled only where the output `valid` is True; without it, where they are above 0.

        Raises:
            DataError: If the head has no such output.
        """
        if self.field not in outputs:
            raise DataError(
                f"the head has no output {self.field!r} to calibrate (it has "
                f"{', '.join(outputs)}); calibrate the run again, or continue without calibration"
            )
        values = as_float32(outputs[self.field])
        if self.field == "logits":
            return {**outputs, "logits": values * self.slope}
        logits = array_logit(values.clip(TINY, 1 - TINY))
        scaled = sigmoid(logits * self.slope + self.intercept)
        return {**outputs, "scores": where(outputs.get("valid", values > 0), scaled, values)}

    def to_json(self) -> dict[str, Any]:
        """Convert the scaling to its entry in `calibration.json`."""
        return {
            "field": self.field,
            "slope": self.slope,
            "intercept": self.intercept,
            "temperature": self.temperature,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> TemperatureScaling:
        """Create the scaling from the output of `to_json`.

        Raises:
            ValueError: If a value is not allowed; the message begins with its key.
        """
        scaling = cls(str(plain["field"]), float(plain["slope"]), float(plain["intercept"]))
        if scaling.field not in SCALED_FIELDS:
            allowed = " or ".join(SCALED_FIELDS)
            raise ValueError(f"field is {scaling.field!r}, allowed: {allowed}")
        if not (math.isfinite(scaling.slope) and scaling.slope > 0):
            raise ValueError(f"slope is {scaling.slope}, allowed: a finite number above 0")
        if not math.isfinite(scaling.intercept):
            raise ValueError(f"intercept is {scaling.intercept}, allowed: a finite number")
        return scaling


class TemperatureCollector(ABC):
    """Collector of a head's decisions, to which a scaling is fitted.

    It has the interface of an evaluator, so that `evaluate` can fill it.
    """

    protocol = "Decisions are collected to fit a temperature scaling."

    def __init__(self) -> None:
        self.number = 0

    @abstractmethod
    def update(self, prediction: Any, truth: GroundTruth) -> None:
        """Add one image."""

    @abstractmethod
    def fit(self) -> TemperatureScaling:
        """Fit the scaling that minimizes the negative log-likelihood.

        Raises:
            DataError: If there are too few decisions, or all are correct or all wrong.
        """

    def compute(self) -> dict[str, Metric]:
        """Return no metrics, because decisions are only collected."""
        return {}

    def _require_decisions(self, is_correct: NDArray[np.bool_] | None = None) -> None:
        if self.number < LEAST_DECISIONS:
            raise DataError(
                f"there are only {self.number} decisions to calibrate on, but {LEAST_DECISIONS} "
                "are needed; use more images"
            )
        if is_correct is not None and (is_correct.all() or not is_correct.any()):
            raise DataError(
                f"all {self.number} decisions to calibrate on are "
                f"{'correct' if is_correct.all() else 'wrong'}, so no scaling can be fitted; use "
                "other images or another checkpoint"
            )


class PixelDecisionCollector(TemperatureCollector):
    """Collector of a random sample of each image's pixels, seeded by the image id."""

    def __init__(self) -> None:
        super().__init__()
        self._probs: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.int64]] = []

    def update(self, prediction: SegmentationMap, truth: GroundTruth) -> None:
        """Add one image."""
        _, _, valid = extract_pixel_decisions(prediction, truth)
        assert truth.semantic is not None
        pixel_indices = np.flatnonzero(valid)
        if len(pixel_indices) > PIXELS_PER_IMAGE:
            pixel_indices = _create_generator(truth.image_id).choice(
                pixel_indices, PIXELS_PER_IMAGE, replace=False
            )
        if prediction.probs is None:
            raise DataError(
                f"image {truth.image_id!r}: the label map was predicted without the probabilities "
                "of all classes, which calibration needs; create SlidingWindowPredictor with "
                "keep='probs'"
            )
        probs = as_array(prediction.probs)
        self._probs.append(probs.reshape(len(probs), -1)[:, pixel_indices].T.astype(np.float32))
        self._labels.append(truth.semantic.ravel()[pixel_indices])
        self.number += len(pixel_indices)

    def fit(self) -> TemperatureScaling:
        """Fit one temperature for all classes."""
        self._require_decisions()
        return TemperatureScaling(
            "logits", _fit_softmax_slope(np.concatenate(self._probs), self._labels)
        )


class ClassDecisionCollector(TemperatureCollector):
    """Collector of images of a classifier, or of image-class pairs of a multi-label classifier."""

    def __init__(self) -> None:
        super().__init__()
        self._probs: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.int64]] = []
        self._is_multi_label = False

    def update(self, prediction: Classification, truth: GroundTruth) -> None:
        """Add one image; a single-label image without exactly one known label is skipped."""
        assert truth.image_labels is not None
        known_labels = np.unique(truth.image_labels[truth.image_labels >= 0])
        self._is_multi_label = prediction.is_multi_label
        if not prediction.is_multi_label and len(known_labels) != 1:
            return
        self._probs.append(as_array(prediction.probs).astype(np.float32)[None])
        self._labels.append(known_labels)
        self.number += len(prediction.probs) if prediction.is_multi_label else 1

    def fit(self) -> TemperatureScaling:
        """Fit one temperature for all classes."""
        self._require_decisions()
        probs = np.concatenate(self._probs)
        if not self._is_multi_label:
            return TemperatureScaling("logits", _fit_softmax_slope(probs, self._labels))
        truth = np.zeros(probs.shape, np.bool_)
        for row, labels in zip(truth, self._labels, strict=True):
            row[labels] = True
        self._require_decisions(truth)
        return TemperatureScaling(
            "logits", _fit_logistic(probs.ravel(), truth.ravel(), has_intercept=False)[0]
        )


class DetectionDecisionCollector(TemperatureCollector):
    """Collector of detections and their hits, as counted by `DetectionCalibration`.

    Args:
        extract: Function from the prediction and the ground truth of an image to the scores and
            hits of its detections.
    """

    def __init__(
        self, extract: Callable[[Any, GroundTruth], Decisions] = extract_detection_decisions
    ) -> None:
        super().__init__()
        self._extract = extract
        self._scores: list[Floats] = []
        self._hits: list[NDArray[np.bool_]] = []

    def update(self, prediction: Detections, truth: GroundTruth) -> None:
        """Add one image."""
        scores, hits = self._extract(prediction, truth)
        self._scores.append(scores)
        self._hits.append(hits)
        self.number += len(scores)

    def fit(self) -> TemperatureScaling:
        """Fit slope and intercept for all classes."""
        hits = np.concatenate(self._hits) if self._hits else np.zeros(0, np.bool_)
        self._require_decisions(hits)
        return TemperatureScaling(
            "scores", *_fit_logistic(np.concatenate(self._scores), hits, has_intercept=True)
        )


def _create_generator(image_id: int | str) -> np.random.Generator:
    digest = hashlib.blake2b(repr(image_id).encode(), digest_size=8).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def _fit_softmax_slope(probs: NDArray[np.float32], labels: Sequence[NDArray[np.int64]]) -> float:
    """Fit 1 / temperature by minimizing the cross-entropy; log probabilities serve as logits."""
    thin = slice(None, None, -(-len(probs) // LARGEST_FIT))
    logits = np.log(np.maximum(probs[thin].astype(np.float64), np.finfo(np.float32).tiny))
    target_labels = np.concatenate(labels)[thin]
    rows = np.arange(len(target_labels))

    def compute_loss(log_slope: float) -> float:
        return float(
            -scipy.special.log_softmax(logits * np.exp(log_slope), axis=1)[
                rows, target_labels
            ].mean()
        )

    limit = np.log(STEEPEST)
    optimum = scipy.optimize.minimize_scalar(compute_loss, bounds=(-limit, limit), method="bounded")
    return float(np.exp(optimum.x))


def _fit_logistic(
    scores: NDArray[np.floating[Any]], is_correct: NDArray[np.bool_], *, has_intercept: bool
) -> tuple[float, float]:
    """Fit slope and intercept by minimizing the mean cross-entropy of `(N,)` decisions."""
    logits = scipy.special.logit(np.clip(scores.astype(np.float64), TINY, 1 - TINY))
    signs = np.where(is_correct, 1.0, -1.0)

    def compute_loss(parameters: Floats) -> tuple[float, Floats]:
        # The slope is optimized as its logarithm, which keeps it positive.
        margins = signs * (np.exp(parameters[0]) * logits + parameters[1])
        pull = -signs * np.exp(scipy.special.log_expit(-margins)) / len(signs)
        slope = (pull * logits).sum() * np.exp(parameters[0])
        return float(-scipy.special.log_expit(margins).mean()), np.array([slope, pull.sum()])

    limit, offset = np.log(STEEPEST), 20.0 if has_intercept else 0.0
    bounds = [(-limit, limit), (-offset, offset)]
    optimum = scipy.optimize.minimize(
        compute_loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=bounds
    )
    return float(np.exp(optimum.x[0])), float(optimum.x[1])
