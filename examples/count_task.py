"""Object counting, as an example of a custom task with prediction, evaluator and head.

The ground truth is the number of boxes in a COCO file, without crowds and other ignore regions.

Shape glossary: `B` images, `K` classes, `P` evaluated images, `R` resampled datasets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.numerics.weighted_means import (
    average_over_images,
    build_metrics,
    flatten_class_values,
)
from resnet_tasks.heads.base import Head, register_head
from resnet_tasks.layers.anchors import generate_points
from resnet_tasks.layers.matchers import extract_objects, find_points_in_regions
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.evaluation import GroundTruth, Metric
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.loss_term import LossTerm
from resnet_tasks.structures.predictions.base import Canvas, Prediction
from resnet_tasks.structures.predictions.comparison import OutputDifference, Tolerance
from resnet_tasks.structures.samples import BatchView
from resnet_tasks.structures.tasks import (
    ExplainedOutput,
    ExplainedQuestion,
    Outputs,
    Task,
    register_task,
)


@dataclass(frozen=True)
class ObjectCounts(Prediction):
    """Predicted number of objects in one image.

    Attributes:
        counts: `(K,)` float32, at least 0.
    """

    counts: Any

    def draw(
        self, canvas: Canvas, classes: Sequence[str], min_score: float, prefix: str = ""
    ) -> None:
        """Write one line per class."""
        del min_score
        for label, count in enumerate(as_array(self.counts).tolist()):
            canvas.write_line(f"{prefix}{classes[label]}: {count:.1f}", label)

    def compare(self, other: Any, tolerance: Tolerance, difference: OutputDifference) -> None:
        """Compare the counts."""
        del tolerance
        difference.add_score_gap(np.abs(as_array(self.counts) - as_array(other.counts)).max())

    def to_results(
        self, image_id: int | str, category_ids: Sequence[int], min_score: float = 0.0
    ) -> list[dict[str, Any]]:
        """Return one entry `{image_id, category_id, count}` per class."""
        del min_score
        counts = as_array(self.counts).tolist()
        return [
            {"image_id": image_id, "category_id": category_ids[label], "count": round(count, 4)}
            for label, count in enumerate(counts)
        ]


class CountEvaluator:
    """Evaluator of the mean absolute error, which also supports intervals and details."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.protocol = "MAE: mean absolute error of the number of objects, mean over classes."
        self._errors: dict[int | str, NDArray[np.float64]] = {}

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the images added so far."""
        return tuple(self._errors)

    def update(self, prediction: ObjectCounts, truth: GroundTruth) -> None:
        """Add one image.

        Raises:
            DataError: If its boxes are not annotated.
        """
        if truth.labels is None:
            raise DataError(f"image {truth.image_id!r} has no annotated boxes; skip it")
        labels = truth.labels if truth.crowd is None else truth.labels[~truth.crowd]
        expected = np.bincount(labels, minlength=len(self.classes))
        self._errors[truth.image_id] = np.abs(as_array(prediction.counts) - expected)

    def compute(self) -> dict[str, Metric]:
        """Return `MAE` and its values per class."""
        ones = np.ones((1, len(self._errors)), np.int64)
        return build_metrics(self.resample(ones), unit="objects", lower_is_better=True)

    def resample(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Compute the metrics of `(R, P)` resampled datasets."""
        errors = np.reshape(list(self._errors.values()), (-1, len(self.classes)))
        per_class = average_over_images(errors, counts)
        return flatten_class_values("MAE", per_class.mean(axis=1), per_class, self.classes)

    def details(self) -> dict[str, Any]:
        """Return the quality of every image, from which a report chooses images."""
        return {
            "images": [
                {"image_id": image_id, "quality": 1 / (1 + error.mean()), "surprise": 0.0}
                for image_id, error in self._errors.items()
            ]
        }


@register_task
class CountingTask(Task):
    """Counting of the objects of every class in an image."""

    name: ClassVar[str] = "object_counting"
    required_fields: ClassVar[tuple[str, ...]] = ("boxes", "labels")
    outputs: ClassVar[Mapping[str, tuple[str | int, ...]]] = {"counts": ("B", "K")}
    prediction: ClassVar[type[Prediction]] = ObjectCounts
    main_metric: ClassVar[str] = "MAE"
    is_whole_image: ClassVar[bool] = True  # windows would count objects at their borders twice
    includes_stuff: ClassVar[bool] = False

    def decode(self, outputs: Outputs, geometries: Sequence[Geometry]) -> list[ObjectCounts]:
        """Return the counts of every image, which do not depend on its geometry."""
        del geometries
        return [ObjectCounts(counts) for counts in outputs["counts"]]

    def build_evaluator(self, classes: Sequence[str]) -> CountEvaluator:
        """Create the evaluator of the mean absolute error."""
        return CountEvaluator(classes)

    def merge_views(self, predictions: Sequence[ObjectCounts]) -> ObjectCounts:
        """Average the counts of the views."""
        total: Any = sum(prediction.counts for prediction in predictions)
        return ObjectCounts(total / len(predictions))

    def select_explained(
        self, outputs: Outputs, geometry: Geometry, question: ExplainedQuestion
    ) -> ExplainedOutput:
        """Select the count of a class, by default of the most frequent one.

        Raises:
            DataError: If a box is to be explained.
        """
        del geometry
        if question.box is not None:
            raise DataError("counts have no boxes; remove the box")
        counts = outputs["counts"][0]
        label = int(counts.argmax()) if question.label is None else question.label
        return ExplainedOutput(counts[label], label)


@register_head("counter")
class Counter(Head):
    """Head that predicts the density of objects in every cell of C5; its sum is their number.

    Cells in ignore regions do not enter the loss, because the number of objects there is unknown.
    """

    task = "object_counting"
    in_levels = ("C5",)

    def __init__(self, specs: Any, classes: Sequence[str], options: Any = None) -> None:
        super().__init__(specs, classes, options)
        self.density = nn.Conv2d(self.specs["C5"].channels, len(self.classes), 1)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the densities `(B, K, H5, W5)` float32, padding included."""
        return {"densities": F.softplus(self.density(features["C5"]).float())}

    def outputs(self, raw: Mapping[str, Tensor], sizes: Tensor) -> dict[str, Tensor]:
        """Sum the densities over the cells of the image, `(B, K)`."""
        return {"counts": self._sum_cells(raw["densities"], self._find_cells(raw, sizes))}

    def _find_cells(self, raw: Mapping[str, Tensor], sizes: Tensor) -> Tensor:
        """Return whether a part of the image lies in each cell, `(B, H5, W5)` bool."""
        densities, stride = raw["densities"], self.specs["C5"].stride
        rows, columns = (
            torch.arange(densities.shape[axis], device=densities.device) * stride for axis in (2, 3)
        )
        return (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])

    def _sum_cells(self, densities: Tensor, cells: Tensor) -> Tensor:
        return (densities * cells[:, None]).sum(dim=(2, 3))

    def loss(self, features: Mapping[str, Tensor], view: BatchView) -> dict[str, LossTerm]:
        """Compute the absolute error of the counts, over pairs of image and annotated class."""
        raw = self(features)
        cells = self._find_cells(raw, torch.tensor(view.image_sizes, device=features["C5"].device))
        (centers,) = generate_points([features["C5"]], [self.specs["C5"].stride])
        expected = torch.zeros(len(view), len(self.classes), device=centers.device)
        is_annotated = torch.ones_like(expected)
        for i, target in enumerate(view.targets):
            _, labels, ignored = extract_objects(target)
            expected[i] = torch.bincount(labels, minlength=len(self.classes))
            cells[i] &= ~find_points_in_regions(centers, ignored).view(cells[i].shape)
            if target.unannotated is not None:
                is_annotated[i, target.unannotated] = 0.0
        errors = (self._sum_cells(raw["densities"], cells) - expected).abs() * is_annotated
        return {"absolute_error": LossTerm(errors.sum(), is_annotated.sum())}
