"""Ground truth, metrics and the evaluator protocols, without torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

VOID = -1
"""Semantic label of pixels that are excluded from the loss and from the evaluation."""
UNLABELED = -2
"""Semantic label of pixels outside all annotations: background if the head has that class, else
void."""
BACKGROUND = "background"
"""Name of the class that the option `background: true` of a head inserts at label 0."""
IGNORED = -1
"""Entry of a `LabelTable` for categories that are unknown to the head: their objects become ignore
regions, their pixels void, their image-level labels `IGNORED`."""
ABSENT = -2
"""Entry of a `LabelTable` for categories whose objects count as background for the head."""

HEADLINE = (
    "mask_AP",
    "mask_AP50",
    "AP",
    "AP50",
    "box_AP",
    "box_AP50",
    "mIoU",
    "Dice",
    "top1",
    "AUROC",
    "mAP",
    "F1",
    "CPM",
    "KITTI_AP_moderate",
    "pixel_accuracy",
)
"""Metrics that are reported first, the most informative first."""
CLASS_METRICS = {
    "mIoU": "IoU",
    "mIoU_per_image": "IoU_per_image",
    "mAP": "AP",
    "pixel_accuracy": "recall",
}
"""Metrics over all classes -> name of their value for one class."""


def select_headline(names: Iterable[str]) -> list[str]:
    """Return the metrics of a head that are reported first, the most informative first.

    A head of a plugin may have no metric of `HEADLINE`; then all of its metrics are returned.

    Args:
        names: Names of the head's metrics, without the name of the head.
    """
    metrics = list(names)
    return [name for name in HEADLINE if name in metrics] or metrics


def get_class_metric_name(name: str) -> str:
    """Return the name of a metric for a single class: of `mIoU`, the mean over classes, `IoU`."""
    return CLASS_METRICS.get(name, name)


@dataclass(frozen=True)
class GroundTruth:
    """Annotations of one image, in pixels of the original image and labels of one head.

    Attributes:
        image_id: Id of the image in its dataset.
        size: (height, width) of the original image, pixels.
        boxes_xywh: `(N, 4)` float64 xywh, exactly as in the file; None if boxes are not annotated.
        labels: `(N,)` int64, indices into the head's classes.
        crowd: `(N,)` bool, True for crowd regions.
        areas: `(N,)` float64, `area` of the file (pixels²), which defines COCO's size classes.
        semantic: `(height, width)` int64 label map with `VOID`; None if pixels are not annotated.
        image_labels: `(L,)` int64, unique, `IGNORED` for labels unknown to the head; None if
            image-level labels are not annotated.
        group: Patient, study or sequence of the image; None for an image without a group.
        spacing: (y, x) millimeters per pixel; None if the file does not give it.
        occluded: `(N,)` float64, KITTI's degrees of occlusion: 0 visible, 1 partly, 2 largely
            occluded, 3 unknown. NaN for objects without the field; None if no object of the dataset
            has it.
        truncated: `(N,)` float64, fraction 0..1 of the object outside the image; NaN and None as in
            `occluded`.
        other_boxes_xywh: `(M, 4)` float64 xywh boxes of categories unknown to the head.
        other_categories: `(M,)` category names of `other_boxes_xywh`.
        other_positions: `(M,)` int64, number of objects of `boxes_xywh` that stand before each of
            `other_boxes_xywh` in the file; None: all of them.
        segmentations: COCO segmentation of every object (polygons or RLE), None for objects without
            one; None if masks are not annotated.
        extra: User-defined fields.
    """

    image_id: int | str
    size: tuple[int, int]
    boxes_xywh: NDArray[np.float64] | None = None
    labels: NDArray[np.int64] | None = None
    crowd: NDArray[np.bool_] | None = None
    areas: NDArray[np.float64] | None = None
    semantic: NDArray[np.int64] | None = None
    image_labels: NDArray[np.int64] | None = None
    group: str | None = None
    spacing: tuple[float, float] | None = None
    occluded: NDArray[np.float64] | None = None
    truncated: NDArray[np.float64] | None = None
    other_boxes_xywh: NDArray[np.float64] | None = None
    other_categories: tuple[str, ...] = ()
    other_positions: NDArray[np.int64] | None = None
    segmentations: tuple[Any, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """Single number of an evaluation.

    Attributes:
        value: Value, 0..1 unless `unit` is set; None if undefined (no such object in the ground
            truth).
        per_class: Class name -> value.
        interval: (low, high) ends of the 95 % interval; None if none was computed.
        per_class_interval: Class name -> interval.
        unit: Unit (`px`, `mm`, ...); empty for fractions 0..1.
        lower_is_better: Whether lower values are better, as for distances and errors.
    """

    value: float | None
    per_class: Mapping[str, float | None] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    per_class_interval: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    unit: str = ""
    lower_is_better: bool = False


class Evaluator(Protocol):
    """Evaluator that compares predictions with the ground truth, image by image."""

    @property
    def protocol(self) -> str:
        """Sentence for the metrics file that defines the metrics and the counting rules."""
        ...

    def update(self, prediction: Any, truth: GroundTruth) -> None:
        """Add the prediction (from `decode` of the head's task) and ground truth of one image."""
        ...

    def compute(self) -> dict[str, Metric]:
        """Return all metrics over the images added so far, under the project's fixed names.

        Without any image, the names are the same and the values None.
        """
        ...


@runtime_checkable
class BackendEvaluator(Protocol):
    """Evaluator that several backends can compute, all with the same numbers.

    Attributes:
        backend: Name of the backend; set before the first image.
    """

    backend: str


@runtime_checkable
class ResamplableEvaluator(Protocol):
    """Evaluator whose metrics can be recomputed with resampled images.

    Intervals and paired comparisons need it: images are matched once, then weighted.
    """

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the images added so far, in the order of the `P` columns of `resample`."""
        ...

    def resample(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Compute the metrics of resampled datasets.

        Args:
            counts: `(R, P)` int64, number of times each image occurs in each of `R` datasets.

        Returns:
            `metric` and `metric/class` (names of `compute`) -> `(R,)` values, NaN where undefined.
            A row of ones gives the values of `compute`.
        """
        ...


@runtime_checkable
class DetailedEvaluator(Protocol):
    """Evaluator that also provides curves and tables."""

    def details(self) -> dict[str, Any]:
        """Return curves and tables as plain JSON values, each key optional.

        Returns:
            `pr_curves`: class name (`all`: mean of the classes) -> `{"recall": [..], "precision":
            [..]}` at IoU 0.5. `confidence_curves`: `{"confidence": [..], "precision": [..],
            "recall": [..], "f1": [..], "classes": {..}}` of the detections from each confidence.
            `confusion`: `{"labels": [..], "matrix": [[..]]}`, ground truth by
            row, prediction by column. `error_types`: name -> AP lost to that error. `froc`:
            `{"false_positives": [..], "sensitivity": [..]}`, false positives per image.
            `reliability`: `{"confidence": [..], "accuracy": [..], "count": [..]}`. `images`: list
            of `{"image_id", "quality", "surprise"}`, both 0..1: quality of the prediction, and
            highest confidence of any error in it. `notes`: list of sentences.
        """
        ...
