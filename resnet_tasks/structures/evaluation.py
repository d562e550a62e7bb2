"""Ground truth, metrics and the contract of evaluators, free of torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

VOID = -1
"""Semantic label of pixels that are not evaluated and teach nothing."""
UNLABELED = -2
"""Semantic label of pixels outside everything annotated: background if a head has one, else
void."""
BACKGROUND = "background"
"""Name of the class that a head's `background: true` puts first."""
IGNORED = -1
"""In a `LabelTable`: the head does not know this category (ignore region, void pixels); also what
such a category becomes among the image-level labels that the head sees."""
ABSENT = -2
"""In a `LabelTable`: objects of this category count as background for the head."""

HEADLINE = (
    "AP",
    "AP50",
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
"""Metrics that people look at first, the most telling first."""


@dataclass(frozen=True)
class GroundTruth:
    """What is annotated on one image, in original pixels and the labels of one head.

    Attributes:
        image_id: The image's id in its data set.
        size: (height, width) of the original image.
        boxes_xywh: `(N, 4)` float64, exactly as in the file; None where boxes are not annotated.
        labels: `(N,)` int64.
        crowd: `(N,)` bool.
        areas: `(N,)` float64, the file's `area` (pixels²), which COCO's size classes use.
        semantic: `(height, width)` int64 label map with `VOID`; None where pixels are not
            annotated.
        image_labels: `(L,)` int64, each once, `IGNORED` for labels that the head does not know;
            None where the image as a whole is not annotated.
        group: Patient, study or sequence of the image; None where it stands for itself.
        spacing: (y, x) millimeters per pixel; None where the file does not say.
        occluded: `(N,)` float64, KITTI's degrees: 0 visible, 1 partly, 2 largely occluded, 3
            unknown; NaN where the file does not say. None: it never says.
        truncated: `(N,)` float64, share 0..1 that lies outside the image; NaN and None as above.
        other_boxes_xywh: `(M, 4)` float64 boxes of categories that the head does not know.
        other_categories: `(M,)` names of their categories.
        segmentations: One per object, as COCO writes them (polygons or run lengths), None for those
            without; None where masks are not annotated.
        extra: Fields of the user's own.
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
    segmentations: tuple[Any, ...] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """One number of an evaluation.

    Attributes:
        value: 0..1 unless `unit` says otherwise; None where it is not defined (no such object in
            the truth).
        per_class: The same by class name.
        interval: Low and high end of its 95 % interval; None where none was made.
        per_class_interval: The same by class name.
        unit: `px`, `mm`, ...; empty for a share of 1.
        lower_is_better: As for distances and errors.
    """

    value: float | None
    per_class: Mapping[str, float | None] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    per_class_interval: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    unit: str = ""
    lower_is_better: bool = False


class Evaluator(Protocol):
    """Compares predictions with the truth, image by image."""

    protocol: str
    """One sentence for the metrics file: which numbers these are, and how things are counted."""

    def update(self, prediction: Any, truth: GroundTruth) -> None:
        """Takes one image's prediction, as the head's `decode` gives it."""
        ...

    def compute(self) -> dict[str, Metric]:
        """All metrics over the images seen so far, under the project's fixed names."""
        ...


@runtime_checkable
class ResamplableEvaluator(Protocol):
    """An evaluator whose metrics can be computed again with images drawn more or less often.

    It is what intervals and paired comparisons need: images are matched once, then weighted.
    """

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the images seen so far; the `P` columns of `resample`, in this order."""
        ...

    def resample(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Metrics of resampled data sets.

        Args:
            counts: `(R, P)` how often each image occurs in each of `R` data sets.

        Returns:
            `metric` and `metric/class` (names of `compute`) -> `(R,)` values, NaN where not
            defined. A row of ones gives the values of `compute`.
        """
        ...


@runtime_checkable
class DetailedEvaluator(Protocol):
    """An evaluator that has more to show than numbers."""

    def details(self) -> dict[str, Any]:
        """Curves and tables as plain JSON values, each key optional.

        Returns:
            `pr_curves`: class name (`all`: their mean) -> `{"recall": [..], "precision": [..]}` at
            IoU 0.5. `confusion`: `{"labels": [..], "matrix": [[..]]}`, truth by row, prediction by
            column. `error_types`: name -> AP lost to it. `froc`: `{"false_positives": [..],
            "sensitivity": [..]}` per image. `reliability`: `{"confidence": [..], "accuracy":
            [..], "count": [..]}`. `images`: per image `{"image_id", "quality", "surprise"}`,
            both 0..1: how good the prediction is, and the highest confidence of anything wrong in
            it. `notes`: sentences.
        """
        ...


def as_array(values: Any) -> NDArray[Any]:
    """The numpy array of a tensor on any device, or of anything that numpy takes."""
    detach = getattr(values, "detach", None)
    return np.asarray(values if detach is None else detach().cpu().numpy())
