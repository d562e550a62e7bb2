"""COCO's twelve metrics of instances, once by their boxes and once by their masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.records import boxes_to_xywh
from resnet_tasks.evaluation.coco.detection import DetectionEvaluator
from resnet_tasks.evaluation.coco.instance_masks import InstanceMaskEvaluator
from resnet_tasks.number_formats import Count
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.evaluation import GroundTruth, Metric
from resnet_tasks.structures.run_lengths import encode_rectangle

Value = TypeVar("Value")

_UNMASKED_RULE = (
    "In the mask metrics, the box of an annotated object without a mask is a crowd region; images "
    "without any mask count in the box metrics only."
)


class InstanceSegmentationEvaluator:
    """Evaluator of instances: `mask_AP`, ... by masks and `box_AP`, ... by boxes.

    Both equal pycocotools for a results file in which every entry has a box and a mask. As in
    pycocotools, the size class of a detection is that of its box. Images with annotated boxes but
    no masks count in the box metrics only. In an image with masks, the box of an annotated object
    without a mask is a crowd region for the mask metrics: the object does not count as missed, and
    detections inside its box do not count as wrong.

    Args:
        classes: Class names in label order.
        backend: `hotcoco` (fast) or `pycocotools` (the reference); both give the same numbers.
        max_detections: Limits of detections per image and class for the recalls, ascending; the
            last one applies to all other metrics.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        backend: str = "hotcoco",
        max_detections: tuple[int, ...] = (1, 10, 100),
    ) -> None:
        self.classes = tuple(classes)
        self._boxes = DetectionEvaluator(classes, backend=backend, max_detections=max_detections)
        self._masks = InstanceMaskEvaluator(
            classes, backend=backend, max_detections=max_detections, keeps_masks=True
        )
        self._has_masks: list[bool] = []
        self._num_unmasked_objects = 0
        self._describe()

    @property
    def backend(self) -> str:
        """Backend of the tables; must be set before the first image.

        Raises:
            DataError: If the backend is unknown, or set after the first image.
        """
        return self._masks.backend

    @backend.setter
    def backend(self, name: str) -> None:
        self._masks.backend = name
        self._boxes.backend = name
        self._describe()

    def _describe(self) -> None:
        """Compose the sentences on the metrics of both parts."""
        masks, boxes = self._masks, self._boxes
        self.protocol = f"mask_*: {masks.protocol} {_UNMASKED_RULE} box_*: {boxes.protocol}"
        self.rules = f"mask_*: {masks.rules} {_UNMASKED_RULE} box_*: {boxes.rules}"

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the images added so far, in the order of the `P` columns of `resample`."""
        return self._boxes.image_ids

    def update(self, prediction: Any, truth: GroundTruth) -> None:
        """Add one image.

        Args:
            prediction: `boxes`, `scores`, `labels` and `segmentations` of the instances, pixels of
                the original image; equal scores keep their order.
            truth: Ground truth of the image, with annotated boxes.

        Raises:
            DataError: If the image was added before, its boxes are not annotated, or a box, mask,
                score or label is invalid.
        """
        boxes = boxes_to_xywh(prediction.boxes)
        labels = as_array(prediction.labels).astype(np.int64)
        scores = as_array(prediction.scores).astype(np.float64)
        self._boxes.update_xywh(boxes, labels, scores, truth)
        self._has_masks.append(has_masks(truth))
        if self._has_masks[-1]:
            truth_with_masks, number = ignore_unmasked_objects(truth)
            self._num_unmasked_objects += number
            self._masks.update_masks(
                prediction.segmentations, labels, scores, truth_with_masks, boxes=boxes
            )

    def compute(self) -> dict[str, Metric]:
        """Compute all metrics over the images added so far.

        Returns:
            The metrics of `CocoEvaluator.compute`, as `mask_AP`, ..., then as `box_AP`, ...
        """
        return _add_prefixes(self._masks.compute(), self._boxes.compute())

    def resample(self, counts: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Compute the metrics of resampled datasets; see `ResamplableEvaluator.resample`."""
        has_masks = np.asarray(self._has_masks, np.bool_)
        return _add_prefixes(
            self._masks.resample(np.asarray(counts)[:, has_masks]), self._boxes.resample(counts)
        )

    def details(self) -> dict[str, Any]:
        """Return curves and tables of the masks, or of the boxes if no image has masks."""
        num_images, num_masked = len(self._has_masks), sum(self._has_masks)
        details = (self._masks if num_masked or not num_images else self._boxes).details()
        notes = list(details["notes"])
        if num_masked < num_images:
            number = Count(num_images - num_masked)
            notes.append(
                f"{number:image of {num_images} has|images of {num_images} have} annotated boxes "
                f"but no masks and {'counts' if number == 1 else 'count'} in the box metrics only."
            )
        if num_images and not num_masked:
            notes.append("Curves, confusion matrix and error types are those of the boxes.")
        if self._num_unmasked_objects:
            notes.append(
                f"{Count(self._num_unmasked_objects):annotated object has} no mask in images that "
                "have masks; in the mask metrics, their boxes are crowd regions."
            )
        return {**details, "notes": notes}


def _add_prefixes(masks: dict[str, Value], boxes: dict[str, Value]) -> dict[str, Value]:
    parts = (("mask", masks), ("box", boxes))
    return {f"{prefix}_{name}": value for prefix, part in parts for name, value in part.items()}


def has_masks(truth: GroundTruth) -> bool:
    """Return whether the masks of an image are annotated.

    They count as not annotated if the image has objects and none of them has a mask.
    """
    segmentations = truth.segmentations
    return segmentations is not None and (
        not segmentations or any(segmentation is not None for segmentation in segmentations)
    )


def ignore_unmasked_objects(truth: GroundTruth) -> tuple[GroundTruth, int]:
    """Replace the objects without a mask by crowd regions that cover their boxes.

    Args:
        truth: Ground truth of an image with annotated masks.

    Returns:
        Ground truth in which every object has a mask, and the number of replaced objects.
    """
    assert truth.segmentations is not None, "only images with masks are evaluated by their masks"
    assert truth.boxes_xywh is not None, "every segmentation belongs to a box"
    is_unmasked = np.asarray([mask is None for mask in truth.segmentations], np.bool_)
    if not is_unmasked.any():
        return truth, 0
    low, sizes = truth.boxes_xywh[:, :2], truth.boxes_xywh[:, 2:]
    corners = np.concatenate((low, low + sizes), axis=1).tolist()
    crowd = np.zeros(len(is_unmasked), np.bool_) if truth.crowd is None else truth.crowd
    masks = tuple(
        encode_rectangle(box, truth.size) if mask is None else mask
        for mask, box in zip(truth.segmentations, corners, strict=True)
    )
    replaced = replace(truth, segmentations=masks, crowd=crowd | is_unmasked)
    return replaced, int(is_unmasked.sum())
