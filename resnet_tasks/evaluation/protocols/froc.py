"""FROC: sensitivity for lesions as a function of the false positives per image.

The protocol is that of LUNA16 (Setio et al., Medical Image Analysis 2017) and CAMELYON16 (Ehteshami
Bejnordi et al., JAMA 2017). It reports the sensitivity at 1/8 to 8 false positives per image and
the mean of the seven (CPM, van Ginneken et al., Medical Image Analysis 2010). A lesion is found if
any detection hits it.

Shape glossary: `L` lesions, `F` false positives, `P` images, `R` resampled datasets, `K` classes,
`T` thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.numerics.box_overlap import (
    ImageBoxes,
    build_image_boxes,
    compute_overlaps,
)
from resnet_tasks.evaluation.numerics.ranking import auroc
from resnet_tasks.evaluation.numerics.weighted_means import (
    Counts,
    average_defined,
    build_metrics,
    flatten_class_values,
    ratio,
)
from resnet_tasks.evaluation.protocols.registry import EvaluatorOptions
from resnet_tasks.number_formats import Count
from resnet_tasks.registry import EXTRA_EVALUATORS
from resnet_tasks.structures.evaluation import GroundTruth, Metric

if TYPE_CHECKING:
    from resnet_tasks.structures.predictions.detections import Detections

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # LUNA16, CAMELYON16: 1/8 to 8 per scan
CURVE_POINTS = 400
"""Maximum number of points of the curve in `details`."""


class FrocOptions(EvaluatorOptions):
    """Criterion for a hit.

    Attributes:
        hit: `iou`: the boxes overlap by at least `iou`; `center`: the center of the detection lies
            inside the lesion's box.
        iou: Minimum overlap for `hit: iou`, above 0, at most 1.
    """

    hit: Literal["iou", "center"] = "iou"
    iou: Annotated[float, Field(gt=0, le=1)] = 0.5


@dataclass(frozen=True)
class _RankedScores:
    """Ranked lesions with the best score of a detection that hits them, or ranked false positives.

    Attributes:
        scores: `(N,)`, descending; -inf for lesions without a hit.
        images: `(N,)` position of the image of each entry.
    """

    scores: Floats
    images: Ints

    @classmethod
    def from_unsorted(cls, scores: Floats, images: Ints) -> _RankedScores:
        """Create the ranking of unsorted scores."""
        order = np.argsort(-scores, kind="stable")
        return cls(scores[order], images[order])


class FrocEvaluator:
    """Evaluator of the FROC of lesions and patients, and of the AUROC of images.

    Args:
        classes: Class names in label order.
        options: Criterion for a hit.
    """

    Options: ClassVar[type[EvaluatorOptions]] = FrocOptions
    task: ClassVar[str] = "detection"

    def __init__(self, classes: Sequence[str], options: FrocOptions | None = None) -> None:
        self.classes = tuple(classes)
        self.options = options or FrocOptions()
        self._ids: dict[int | str, None] = {}
        self._groups: list[str | None] = []
        # Rows of (image, label, score).
        self._lesions: list[Floats] = []
        self._false_positives: list[Floats] = []
        self._best_scores: list[Floats] = []
        self._has_lesion: list[Floats] = []
        rule = (
            f"IoU >= {self.options.iou:g}"
            if self.options.hit == "iou"
            else "the detection's center lies inside the lesion's box"
        )
        self.protocol = (
            f"FROC (LUNA16, CAMELYON16), hit if {rule}, class by class: a lesion is found at a "
            "threshold if any detection with at least that score hits it; further hits of the same "
            "lesion are ignored; a detection that hits nothing is a false positive, and one that "
            "hits only crowd regions is ignored; sensitivity_at_F is the sensitivity at the lowest "
            "threshold with at most F false positives per image, without interpolation; CPM is "
            "the mean over 1/8, 1/4, 1/2, 1, 2, 4 and 8; a patient (a group, or an image without a "
            "group) is found if any of its lesions is found; image_AUROC ranks images by their "
            "highest score, ties count half; the value over all classes counts the lesions and "
            "false positives of all classes together."
        )

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the images added so far."""
        return tuple(self._ids)

    def update(self, prediction: Detections, truth: GroundTruth) -> None:
        """Add one image.

        Raises:
            DataError: If the image was added before, its boxes are not annotated, a score or box is
                not finite, or a label is not an index into the classes.
        """
        if truth.image_id in self._ids:
            raise DataError(
                f"image {truth.image_id!r} is evaluated twice; add each image only once"
            )
        boxes = build_image_boxes(prediction, truth, len(self.classes))
        lesion_scores, is_false = self._match_lesions(boxes)
        position = len(self._ids)
        self._ids[truth.image_id] = None
        self._groups.append(truth.group)
        real = ~boxes.crowd
        self._lesions.append(_build_rows(position, boxes.truth_labels[real], lesion_scores[real]))
        self._false_positives.append(
            _build_rows(position, boxes.detection_labels[is_false], boxes.scores[is_false])
        )
        best = np.full(len(self.classes), -np.inf)
        np.maximum.at(best, boxes.detection_labels, boxes.scores)
        has = np.zeros(len(self.classes))
        has[boxes.truth_labels[boxes.crowd]] = np.nan
        has[boxes.truth_labels[real]] = 1.0
        self._best_scores.append(best)
        self._has_lesion.append(has)

    def _match_lesions(self, boxes: ImageBoxes) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the best score that hits each object, and a mask of the detections without hit."""
        overlap, inside = compute_overlaps(boxes.detection_boxes, boxes.truth_boxes)
        if self.options.hit == "iou":
            # A crowd region holds several objects, so IoU is undefined: use COCO's rule for crowds.
            overlap = np.where(boxes.crowd[None], inside, overlap)
            hits = np.asarray(overlap >= self.options.iou, np.bool_)
        else:
            centers = (boxes.detection_boxes[:, None, :2] + boxes.detection_boxes[:, None, 2:]) / 2
            low, high = boxes.truth_boxes[None, :, :2], boxes.truth_boxes[None, :, 2:]
            hits = np.asarray(((centers >= low) & (centers <= high)).all(axis=2), np.bool_)
        hits &= boxes.detection_labels[:, None] == boxes.truth_labels[None]
        scores = np.where(hits, boxes.scores[:, None], -np.inf).max(axis=0, initial=-np.inf)
        return scores, np.asarray(~hits.any(axis=1), np.bool_)

    def compute(self) -> dict[str, Metric]:
        """Compute all metrics over the images added so far.

        Returns:
            `CPM`, `sensitivity_at_0.125` ... `sensitivity_at_8`, `patient_CPM`,
            `patient_sensitivity_at_0.125` ..., `image_AUROC`, each with its value per class; None
            if there is no lesion (for AUROC: no image with a lesion or none without).
        """
        return build_metrics(self.resample(np.ones((1, len(self._ids)), np.int64)))

    def resample(self, counts: Counts) -> dict[str, Floats]:
        """Compute the metrics of resampled datasets; see `ResamplableEvaluator.resample`."""
        parts = [
            self._compute_class_values(label, counts) for label in (None, *range(len(self.classes)))
        ]
        values: dict[str, Floats] = {}
        for name, overall in parts[0].items():
            per_class = np.stack([part[name] for part in parts[1:]], axis=1)
            values |= flatten_class_values(name, overall, per_class, self.classes)
        return values

    def _compute_class_values(self, label: int | None, counts: Counts) -> dict[str, Floats]:
        """Compute the metrics of one class, or of all classes together, `(R,)` each."""
        lesions, false = (
            self._rank_scores(self._lesions, label),
            self._rank_scores(self._false_positives, label),
        )
        thresholds = _compute_thresholds(false, counts)
        values: dict[str, Floats] = {}
        for prefix, sensitivity in (
            ("", _compute_lesion_sensitivity(lesions, thresholds, counts)),
            ("patient_", self._compute_patient_sensitivity(lesions, thresholds, counts)),
        ):
            values[f"{prefix}CPM"] = average_defined(sensitivity, axis=1)
            for i, rate in enumerate(RATES):
                values[f"{prefix}sensitivity_at_{rate:g}"] = sensitivity[:, i]
        best, has = self._summarize_images(label)
        is_defined = ~np.isnan(has)
        weights = counts[:, is_defined].astype(np.float64)
        values["image_AUROC"] = auroc(best[is_defined], has[is_defined] > 0, weights)
        return values

    def _rank_scores(self, rows: Sequence[Floats], label: int | None) -> _RankedScores:
        table = np.concatenate(rows) if rows else np.zeros((0, 3))
        if label is not None:
            table = table[table[:, 1] == label]
        return _RankedScores.from_unsorted(table[:, 2], table[:, 0].astype(np.int64))

    def _summarize_images(self, label: int | None) -> tuple[Floats, Floats]:
        """Return the highest score and the presence of a lesion for every image, `(P,)` each.

        The presence is 1, 0, or NaN for an image that has only crowds.
        """
        shape = (len(self._ids), len(self.classes))
        best, has = np.reshape(self._best_scores, shape), np.reshape(self._has_lesion, shape)
        if label is not None:
            return best[:, label], has[:, label]
        some = np.where(np.isnan(has), 0.0, has).max(axis=1, initial=0.0) > 0
        overall = np.where(some, 1.0, np.where(np.isnan(has).any(axis=1), np.nan, 0.0))
        return best.max(axis=1, initial=-np.inf), overall

    def _compute_patient_sensitivity(
        self, lesions: _RankedScores, thresholds: Floats, counts: Counts
    ) -> Floats:
        """Compute the fraction of patients with a lesion above the threshold, `(R, rates)`."""
        patient_keys = [
            ("group", group) if group is not None else ("image", str(i))
            for i, group in enumerate(self._groups)
        ]
        numbers = {name: i for i, name in enumerate(dict.fromkeys(patient_keys))}
        patient_by_image = np.asarray([numbers[name] for name in patient_keys], np.int64)
        patients = patient_by_image[lesions.images]
        order = np.argsort(patients, kind="stable")  # stable: keeps the ranking of lesions
        if not len(order):
            return np.full(thresholds.shape, np.nan)
        starts = np.flatnonzero(np.diff(patients[order], prepend=-1))
        scores, images = lesions.scores[order], lesions.images[order]
        sensitivity = np.empty(thresholds.shape)
        for row, (weights, limits) in enumerate(zip(counts, thresholds, strict=True)):
            weight = weights[images]
            sampled = np.maximum.reduceat(weight, starts).astype(np.float64)
            best = np.maximum.reduceat(np.where(weight > 0, scores, -np.inf), starts)
            detected = (best[:, None] > limits[None]).astype(np.float64)
            sensitivity[row] = ratio(sampled @ detected, sampled.sum())
        return sensitivity

    def get_decision_scores(self, label: int | None = None) -> tuple[Floats, Floats]:
        """Return the scores that a threshold is compared with.

        Args:
            label: Index of a class; None: all classes together.

        Returns:
            `(L,)` best score of a hit of every lesion, -inf without a hit, and `(F,)` scores of the
            false positives; both descending.
        """
        lesions, false = (
            self._rank_scores(self._lesions, label),
            self._rank_scores(self._false_positives, label),
        )
        return lesions.scores, false.scores

    def details(self) -> dict[str, Any]:
        """Return `froc` over all classes, and the counts; see `DetailedEvaluator.details`."""
        lesions, false = self.get_decision_scores()
        patients = len({group for group in self._groups if group is not None})
        notes = [
            f"FROC: {Count(len(lesions)):lesion} in {Count(len(self._ids)):image}"
            + (f" of {Count(patients):group}." if patients else ", none with a group.")
        ]
        if not len(lesions):
            return {"notes": notes}
        rates, sensitivity = compute_froc_curve(lesions, false, len(self._ids))
        kept_indices = np.unique(
            np.linspace(0, len(rates) - 1, CURVE_POINTS).round().astype(np.int64)
        )
        froc = {
            "false_positives": rates[kept_indices].tolist(),
            "sensitivity": sensitivity[kept_indices].tolist(),
        }
        return {"froc": froc, "notes": notes}


def _build_rows(position: int, labels: Ints, scores: Floats) -> Floats:
    return np.column_stack((np.full(len(labels), position), labels, scores)).astype(np.float64)


def _compute_thresholds(false: _RankedScores, counts: Counts) -> Floats:
    """Compute the scores that a lesion must exceed at each rate, `(R, rates)`.

    The threshold is the score of the first false positive beyond the allowed number, -inf if there
    is none. Lesions and false positives with exactly this score are not counted.
    """
    limits = np.full((len(counts), len(RATES)), -np.inf)
    allowed = np.asarray(RATES)[None] * counts.sum(axis=1)[:, None]
    padded = np.append(false.scores, -np.inf)
    for row, weights in enumerate(counts):
        cumulative_weights = np.cumsum(weights[false.images])
        limits[row] = padded[np.searchsorted(cumulative_weights, allowed[row], side="right")]
    return limits


def _compute_lesion_sensitivity(
    lesions: _RankedScores, thresholds: Floats, counts: Counts
) -> Floats:
    """Compute the fraction of lesions above the threshold, `(R, rates)`."""
    sensitivity = np.full(thresholds.shape, np.nan)
    for row, (weights, limits) in enumerate(zip(counts, thresholds, strict=True)):
        cumulative_weights = np.append(0, np.cumsum(weights[lesions.images]))
        above = np.searchsorted(-lesions.scores, -limits, side="left")
        sensitivity[row] = ratio(cumulative_weights[above], cumulative_weights[-1])
    return sensitivity


def compute_froc_curve(lesions: Floats, false: Floats, num_images: int) -> tuple[Floats, Floats]:
    """Compute false positives per image and sensitivity at every threshold, the highest first.

    Args:
        lesions: `(L,)` best score of every lesion, -inf without a hit; at least one lesion.
        false: `(F,)` scores of the false positives.
        num_images: Number of all images, including those without lesions.

    Returns:
        Two `(T + 1,)` arrays, both ascending, starting with (0, 0).
    """
    hit = np.sort(lesions[np.isfinite(lesions)])
    false_scores = np.sort(false)
    levels = np.unique(np.concatenate((hit, false_scores)))[::-1]
    num_hits = len(hit) - np.searchsorted(hit, levels, side="left")
    num_false = len(false_scores) - np.searchsorted(false_scores, levels, side="left")
    start = np.zeros(1)
    return (
        np.concatenate((start, num_false / num_images)),
        np.concatenate((start, num_hits / len(lesions))),
    )


EXTRA_EVALUATORS.register("froc")(FrocEvaluator)
