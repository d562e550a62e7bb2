"""HD95 and normalized surface Dice: distances between the outlines of ground truth and prediction.

The outline of a class consists of its pixels with one of the 4 neighbors outside it. Distances are
between pixel centers, as in MONAI and MedPy; SciPy's exact Euclidean distance transform computes
them. HD95: the larger of the two directed 95th percentiles (Maier-Hein et al., Metrics Reloaded,
Nature Methods 2024). Surface Dice: the fraction of both outlines within a tolerance of the other
one (Nikolov et al., JMIR 2021).

Shape glossary: `h, w` an original image, `K` classes, `P` images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.numerics.weighted_means import (
    Counts,
    average_defined,
    average_over_images,
    build_metrics,
    flatten_class_values,
)
from resnet_tasks.evaluation.protocols.registry import EvaluatorOptions
from resnet_tasks.evaluation.segmentation import prepare_label_maps
from resnet_tasks.number_formats import Count
from resnet_tasks.registry import EXTRA_EVALUATORS
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.evaluation import BACKGROUND, VOID, GroundTruth, Metric

if TYPE_CHECKING:
    from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class SurfaceOptions(EvaluatorOptions):
    """Tolerance and unit of distances.

    Attributes:
        tolerance: Distance up to which outlines agree, in the unit of the distances.
        unit: `px`, `mm`, or `auto`: mm if the images have a `spacing`, else px.
    """

    tolerance: Annotated[float, Field(ge=0)] = 2.0
    unit: Literal["auto", "px", "mm"] = "auto"


class SurfaceEvaluator:
    """Evaluator of HD95 and surface Dice per image and class, averaged over images.

    Args:
        classes: Class names in label order; `background` as the first class is not evaluated.
        options: Tolerance and unit of distances.
    """

    Options: ClassVar[type[EvaluatorOptions]] = SurfaceOptions
    task: ClassVar[str] = "semantic_segmentation"

    def __init__(self, classes: Sequence[str], options: SurfaceOptions | None = None) -> None:
        self.classes = tuple(classes)
        self.options = options or SurfaceOptions()
        self._first = int(bool(self.classes) and self.classes[0] == BACKGROUND)
        self._unit = "" if self.options.unit == "auto" else self.options.unit
        self._ids: dict[int | str, None] = {}
        self._distances: list[Floats] = []
        self._dice: list[Floats] = []
        self._one_sided = 0

    @property
    def evaluated_classes(self) -> tuple[str, ...]:
        """Names of the evaluated classes."""
        return self.classes[self._first :]

    @property
    def unit(self) -> str:
        """Unit of the distances: `mm` or `px`."""
        return self._unit or "px"

    @property
    def protocol(self) -> str:
        """Sentence for the metrics file that defines the metrics."""
        return (
            f"Outlines of {'all classes but the background' if self._first else 'all classes'} in "
            f"each image at original size, distances in {self.unit} between centers of pixels "
            "that have one of 4 neighbors outside the class (outside the image counts as outside "
            "the class), void pixels removed from ground truth and prediction; HD95 is the larger "
            "of the two directed 95th percentiles, NSD the share of both outlines that lies within "
            f"{self.options.tolerance:g} {self.unit} of the other outline; a class that is absent "
            "from both ground truth and prediction of an image is not counted there, and one that "
            "is absent from only one of them gets NSD 0 and the image's diagonal as HD95; per "
            "class the mean over images, overall the mean over classes."
        )

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the images added so far."""
        return tuple(self._ids)

    def update(self, prediction: SegmentationMap, truth: GroundTruth) -> None:
        """Add one image.

        Raises:
            DataError: See `update_labels`.
        """
        self.update_labels(as_array(prediction.labels), truth)

    def update_labels(self, labels: NDArray[np.generic], truth: GroundTruth) -> None:
        """Add the label map of one image.

        Args:
            labels: `(h, w)` indices into `classes`, at the original size of the image.
            truth: Ground truth of the image, with annotated pixels.

        Raises:
            DataError: If the image was added before, its pixels are not annotated, the sizes
                differ, a label is not an index into the classes, or the image has no spacing
                although distances are in mm.
        """
        if truth.image_id in self._ids:
            raise DataError(
                f"image {truth.image_id!r} is evaluated twice; add each image only once"
            )
        expected, predicted = prepare_label_maps(labels, truth, len(self.classes))
        spacing = self._get_spacing(truth)
        predicted = np.where(expected == VOID, VOID, predicted)
        present = {int(label) for labels in (expected, predicted) for label in np.unique(labels)}
        distances = np.full(len(self.evaluated_classes), np.nan)
        dice = np.full(len(self.evaluated_classes), np.nan)
        for label in sorted(present - {VOID} - set(range(self._first))):
            class_index = label - self._first
            directed_distances = compute_surface_distances(
                expected == label, predicted == label, spacing
            )
            if directed_distances is None:
                self._one_sided += 1
                height, width = expected.shape
                distances[class_index] = math.hypot(height * spacing[0], width * spacing[1])
                dice[class_index] = 0.0
            else:
                distances[class_index] = max(
                    float(np.percentile(one_way_distances, 95))
                    for one_way_distances in directed_distances
                )
                both = np.concatenate(directed_distances)
                # The margin accepts distances that equal the tolerance up to rounding.
                dice[class_index] = np.mean(both <= self.options.tolerance * (1 + 1e-9))
        self._ids[truth.image_id] = None
        self._distances.append(distances)
        self._dice.append(dice)

    def _get_spacing(self, truth: GroundTruth) -> tuple[float, float]:
        if not self._unit:
            self._unit = "px" if truth.spacing is None else "mm"
        elif self.options.unit == "auto" and (truth.spacing is None) != (self._unit == "px"):
            has = "has no spacing" if truth.spacing is None else "has a spacing"
            raise DataError(
                f"image {truth.image_id!r} {has}, unlike the images before it: distances in px "
                "and mm cannot be averaged; add a `spacing` to every image, or set unit: px"
            )
        if self._unit == "px":
            return (1.0, 1.0)
        if truth.spacing is None:
            raise DataError(
                f"image {truth.image_id!r} has no spacing, but distances are requested in mm; "
                "write `spacing: [y, x]` (mm per pixel) into its image record, or set unit: px"
            )
        return truth.spacing

    def compute(self) -> dict[str, Metric]:
        """Compute all metrics over the images added so far.

        Returns:
            `HD95` (in px or mm, lower is better) and `NSD`, each with its value per class.
        """
        values = self.resample(np.ones((1, len(self._ids)), np.int64))
        distances = {key: value for key, value in values.items() if key.startswith("HD95")}
        dice_values = {key: value for key, value in values.items() if key.startswith("NSD")}
        return build_metrics(distances, unit=self.unit, lower_is_better=True) | build_metrics(
            dice_values
        )

    def resample(self, counts: Counts) -> dict[str, Floats]:
        """Compute the metrics of resampled datasets; see `ResamplableEvaluator.resample`."""
        metrics: dict[str, Floats] = {}
        for name, rows in (("HD95", self._distances), ("NSD", self._dice)):
            table = np.reshape(rows, (len(rows), len(self.evaluated_classes))).astype(np.float64)
            per_class = average_over_images(table, counts)
            overall = average_defined(per_class, axis=1)
            metrics |= flatten_class_values(name, overall, per_class, self.evaluated_classes)
        return metrics

    def details(self) -> dict[str, Any]:
        """Return the number of outlines without a counterpart; see `DetailedEvaluator.details`."""
        table = np.reshape(self._dice, (len(self._dice), len(self.evaluated_classes)))
        counted = int((~np.isnan(table.astype(np.float64))).sum())
        note = (
            f"Surfaces: {Count(counted):outline} of a class in an image; {self._one_sided} of them "
            "are only in the ground truth or only in the prediction (NSD 0, HD95 is the diagonal)."
        )
        return {"notes": [note]}


def extract_outline(mask: Mask) -> Mask:
    """Return the pixels of a mask with one of 4 neighbors outside the mask or the image."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask), np.bool_)


def compute_surface_distances(
    first: Mask, second: Mask, spacing: tuple[float, float] = (1.0, 1.0)
) -> tuple[Floats, Floats] | None:
    """Compute the distances between the outlines of two masks.

    Args:
        first: `(h, w)` bool.
        second: `(h, w)` bool.
        spacing: (y, x) size of a pixel.

    Returns:
        Distance of every outline pixel of `first` to the nearest one of `second`, and the reverse;
        None if a mask is empty.
    """
    if not (first.any() and second.any()):
        return None
    # Both outlines, and therefore all nearest neighbors, lie inside this box.
    box = ndimage.find_objects((first | second).astype(np.uint8))[0]
    one, other = extract_outline(first[box]), extract_outline(second[box])
    to_other = ndimage.distance_transform_edt(~other, sampling=spacing)
    to_one = ndimage.distance_transform_edt(~one, sampling=spacing)
    return to_other[one], to_one[other]


EXTRA_EVALUATORS.register("surface")(SurfaceEvaluator)
