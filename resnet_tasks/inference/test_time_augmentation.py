"""Test-time augmentation: several views of an image are predicted and merged into one prediction.

A view is a sample that is mirrored horizontally or prepared at another size, with the geometry that
maps back to the original. Predictions are decoded in the frame of the original image and merged
there: probabilities are averaged, boxes fused.

Shape glossary: `V` views, `N` detections of all views, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from resnet_tasks.errors import DataError
from resnet_tasks.inference.sliding_window import SlidingWindows
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
from resnet_tasks.structures.samples import Batch, Sample

SCALES = (0.75, 1.0, 1.25)
KINDS = ("flips", "scales", "flips+scales")
FUSION_IOU = 0.55  # Solovyev et al. 2021


@dataclass(frozen=True)
class TtaViews:
    """Test-time augmentation views of an image.

    Attributes:
        has_flips: Whether to add horizontally flipped views.
        scales: Sizes of the views, relative to the size of the plain prediction.
    """

    has_flips: bool = False
    scales: tuple[float, ...] = (1.0,)

    @classmethod
    def from_name(cls, kind: str | None) -> TtaViews:
        """Create the views of `flips`, `scales` or `flips+scales`; None: the plain view only.

        Raises:
            DataError: If the name is unknown.
        """
        if kind is None:
            return cls()
        if kind not in KINDS:
            raise DataError(
                f"test-time augmentation {kind!r} is unknown; allowed: {', '.join(KINDS)}"
            )
        return cls("flips" in kind, SCALES if "scales" in kind else (1.0,))

    def __len__(self) -> int:
        return len(self.scales) * (2 if self.has_flips else 1)


@runtime_checkable
class ScalableDataset(Protocol):
    """Dataset that can prepare its images at another size."""

    def at_scale(self, factor: float) -> Dataset[Sample]:
        """Return the same dataset with images scaled by `factor`."""
        ...


def rescale_dataset(dataset: Dataset[Sample], factor: float) -> Dataset[Sample]:
    """Return `dataset` with images scaled by `factor`.

    Raises:
        DataError: If the dataset has no `at_scale`.
    """
    if factor == 1.0:
        return dataset
    if not isinstance(dataset, ScalableDataset):
        raise DataError(
            f"{type(dataset).__name__} has no at_scale(factor), which views at other sizes need; "
            "use flips only"
        )
    return dataset.at_scale(factor)


class TtaPredictor:
    """Predictor that runs a model on every view of an image and merges the predictions.

    `evaluate` and `predict_images` accept it instead of a `TaskModel`.

    Args:
        model: Model that predicts each view.
        views: Views to predict.
    """

    def __init__(self, model: TaskModel, views: TtaViews) -> None:
        self.model = model
        self.views = views

    def predict(self, batches: Sequence[Batch], *, precision: str = "fp32") -> dict[str, list[Any]]:
        """Predict and merge all views, in pixels of the original images.

        Args:
            batches: The same images, prepared at each of `views.scales`.
            precision: `fp32`, `bf16` or `fp16`.

        Returns:
            Head name -> merged prediction of each image.
        """
        view_predictions = []
        for batch in batches:
            view_predictions.append(self.model.predict(batch, precision=precision))
            if self.views.has_flips:
                view_predictions.append(self.model.predict(flip_batch(batch), precision=precision))
        return {
            name: [
                merge_views(image_predictions)
                for image_predictions in zip(
                    *(view[name] for view in view_predictions), strict=True
                )
            ]
            for name in view_predictions[0]
        }


Predictor = TaskModel | TtaPredictor | SlidingWindows


def unwrap_model(predictor: Predictor) -> TaskModel:
    """Return the model that a predictor wraps."""
    return predictor if isinstance(predictor, TaskModel) else predictor.model


def get_scales(predictor: Predictor) -> tuple[float, ...]:
    """Return the scales at which a predictor needs its images."""
    return predictor.views.scales if isinstance(predictor, TtaPredictor) else (1.0,)


def predict_batches(
    predictor: TaskModel | TtaPredictor, batches: Sequence[Batch], *, precision: str
) -> dict[str, list[Any]]:
    """Predict images that are prepared at each of `get_scales(predictor)`."""
    if isinstance(predictor, TtaPredictor):
        return predictor.predict(batches, precision=precision)
    return predictor.predict(batches[0], precision=precision)


def flip_batch(batch: Batch) -> Batch:
    """Flip the images of a batch horizontally; the padding stays in place.

    Targets are not flipped, because predictions do not read them.
    """
    images = batch.images.clone()
    geometries = []
    for image, geometry in zip(images, batch.geometries, strict=True):
        height, width = geometry.input_size
        image[:, :height, :width] = image[:, :height, :width].flip(-1)
        (scale_y, scale_x), (offset_y, offset_x) = geometry.scale, geometry.offset
        scale, offset = (scale_y, -scale_x), (offset_y, width - offset_x)
        geometries.append(replace(geometry, scale=scale, offset=offset))
    return replace(batch, images=images, geometries=tuple(geometries))


def merge_views(predictions: Sequence[Any]) -> Any:
    """Merge the predictions of all views of an image; a single view is returned unchanged.

    Raises:
        DataError: If predictions of that type cannot be merged.
    """
    first = predictions[0]
    if len(predictions) == 1:
        return first
    if isinstance(first, Detections):
        return fuse_detections(predictions)
    if isinstance(first, SegmentationMap):
        probs = torch.stack([prediction.probs for prediction in predictions]).mean(dim=0)
        return SegmentationMap(labels=probs.argmax(dim=0), probs=probs)
    if isinstance(first, Classification):
        probs = torch.stack([prediction.probs for prediction in predictions]).mean(dim=0)
        return replace(first, probs=probs)
    raise DataError(
        f"predictions of type {type(first).__name__} cannot be merged over views; predict without "
        "test-time augmentation"
    )


def fuse_detections(views: Sequence[Detections]) -> Detections:
    """Fuse detections of several views by weighted boxes fusion.

    Boxes of one object are replaced by their mean, weighted by score. The score is the sum over the
    views divided by the number of views, so that an object that only some views detect gets a lower
    score (Solovyev et al., Weighted boxes fusion, Image and Vision Computing 2021). One deviation:
    a view contributes only its best box to an object, so that scores stay at most 1 and boxes of
    one view are never fused with each other.

    Args:
        views: Detections of the same image, one or more views.

    Returns:
        Detections sorted by falling score; at most as many as the view with the most detections.
    """
    boxes = np.concatenate([as_array(view.boxes).reshape(-1, 4) for view in views]).astype(float)
    scores = np.concatenate([as_array(view.scores) for view in views]).astype(float)
    labels = np.concatenate([as_array(view.labels) for view in views])
    sources = np.repeat(np.arange(len(views)), [len(view) for view in views])
    objects = _FusedObjects(len(scores), len(views))
    for i in np.argsort(-scores, kind="stable"):
        objects.add(boxes[i], scores[i], labels[i], sources[i])
    totals = objects.totals[: objects.number] / len(views)
    best = np.argsort(-totals, kind="stable")[: max(len(view) for view in views)]
    like = views[0]
    return Detections(
        torch.from_numpy(objects.boxes[best]).to(like.boxes),
        torch.from_numpy(totals[best]).to(like.scores),
        torch.from_numpy(objects.labels[best]).to(like.labels),
    )


class _FusedObjects:
    """Objects fused so far, each with its mean box.

    Args:
        capacity: Maximum number of objects.
        num_views: Number of views, V.
    """

    def __init__(self, capacity: int, num_views: int) -> None:
        self.number = 0
        self.boxes = np.zeros((capacity, 4))
        self.totals = np.zeros(capacity)
        self.labels = np.zeros(capacity, np.int64)
        self.has_view = np.zeros((capacity, num_views), np.bool_)

    def add(self, box: NDArray[np.float64], score: float, label: int, view: int) -> None:
        """Add a box to the object of its class that it overlaps most, or create a new object."""
        overlaps = _compute_iou(self.boxes[: self.number], box)
        overlaps[self.labels[: self.number] != label] = 0.0
        overlaps[self.has_view[: self.number, view]] = 0.0
        index = int(overlaps.argmax()) if self.number else 0
        if not self.number or overlaps[index] <= FUSION_IOU:
            index, self.number = self.number, self.number + 1
            self.labels[index], self.boxes[index] = label, box
        total = self.totals[index] + score
        if total > 0:
            # Running weighted mean: the scores sum to `total`.
            self.boxes[index] += (box - self.boxes[index]) * (score / total)
        self.totals[index] = total
        self.has_view[index, view] = True


def _compute_iou(boxes: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the `(N,)` intersection over union of `(N, 4)` xyxy boxes with one box."""
    size = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = size.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return np.asarray(shared / np.maximum(areas - shared, 1e-12))
