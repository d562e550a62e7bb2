"""Task of box detectors.

Shape glossary: `B` images, `D` detections per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.detection import DetectionEvaluator
from resnet_tasks.evaluation.numerics.box_overlap import compute_overlaps
from resnet_tasks.evaluation.uncertainty.calibration_error import DetectionCalibration
from resnet_tasks.evaluation.uncertainty.temperature_scaling import DetectionDecisionCollector
from resnet_tasks.structures.arrays import argsort_descending, as_array, as_float32, logit
from resnet_tasks.structures.evaluation import Evaluator
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.base import Prediction, are_labels
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.tasks import (
    DecisionCollector,
    ExplainedOutput,
    ExplainedQuestion,
    Outputs,
    Task,
    WindowLayout,
    WindowMerger,
    register_task,
)
from resnet_tasks.tasks.detection.merge_views import fuse_detections
from resnet_tasks.tasks.detection.merge_windows import DetectionMerger, merge_detections

MIN_OVERLAP = 0.5
"""Minimum IoU of a detection with the box that is to be explained."""
SATURATED = 1e-6
"""Distance of a score from 0 or 1 below which its float32 gradient is lost to rounding."""


@register_task
class DetectionTask(Task):
    """Detection of objects by boxes (COCO's AP)."""

    name: ClassVar[str] = "detection"
    required_fields: ClassVar[tuple[str, ...]] = ("boxes", "labels")
    outputs: ClassVar[Mapping[str, tuple[str | int, ...]]] = {
        "boxes": ("B", "D", 4),
        "scores": ("B", "D"),
        "labels": ("B", "D"),
        "valid": ("B", "D"),
    }
    output_types: ClassVar[Mapping[str, str]] = {"labels": "int64", "valid": "bool"}
    prediction: ClassVar[type[Prediction]] = Detections
    main_metric: ClassVar[str] = "AP"
    evaluator_families: ClassVar[tuple[str, ...]] = ("detection",)
    includes_stuff: ClassVar[bool] = False
    pipeline_tag: ClassVar[str | None] = "object-detection"

    def decode(self, outputs: Outputs, geometries: Sequence[Geometry]) -> list[Detections]:
        """Convert the boxes to original pixels, best first; boxes without an area are dropped."""
        return [
            select_valid(outputs, index, geometry)[0] for index, geometry in enumerate(geometries)
        ]

    def find_output_problem(
        self, outputs: Outputs, sizes: Sequence[tuple[int, int]], num_classes: int
    ) -> str | None:
        """Check the boxes, scores and labels of all valid slots."""
        for index, (height, width) in enumerate(sizes):
            valid = as_array(outputs["valid"][index])
            boxes, scores, labels = (
                as_array(outputs[name][index])[valid] for name in ("boxes", "scores", "labels")
            )
            if not (boxes[:, :2] <= boxes[:, 2:]).all():
                return "output 'boxes' must be xyxy, with x1 <= x2 and y1 <= y2"
            if not ((boxes >= 0) & (boxes <= [width, height] * 2)).all():
                return (
                    "output 'boxes' must lie inside the image of "
                    f"{height} x {width} pixels, without its padding; clip them to `sizes`"
                )
            if not ((scores >= 0) & (scores <= 1)).all():
                return "output 'scores' must lie in 0..1"
            if len(boxes) and boxes.max() <= 1:
                return (
                    "output 'boxes' must be in pixels of the batch; all corners of an image are "
                    "at most 1, as if they were fractions of its size"
                )
            if not are_labels(labels, num_classes):
                return f"output 'labels' must be indices into the {num_classes} classes"
        return None

    def build_evaluator(self, classes: Sequence[str]) -> Evaluator:
        """Create the evaluator of COCO's box metrics."""
        return DetectionEvaluator(tuple(classes))

    def build_calibration_evaluator(self, classes: Sequence[str]) -> Evaluator:
        """Create the evaluator of the calibration error of scores."""
        return DetectionCalibration(classes)

    def build_decision_collector(self) -> DecisionCollector:
        """Create the collector of detections and their hits."""
        return DetectionDecisionCollector()

    def merge_views(self, predictions: Sequence[Detections]) -> Detections:
        """Fuse the boxes of the views."""
        return fuse_detections(predictions)

    def create_window_merger(self, head: str, layout: WindowLayout) -> WindowMerger:
        """Create the merger of boxes: joins cut objects and drops duplicates."""
        del head
        return DetectionMerger(layout, self.decode, merge_detections)

    def select_explained(
        self, outputs: Outputs, geometry: Geometry, question: ExplainedQuestion
    ) -> ExplainedOutput:
        """Select the log-odds of a detection's score.

        Unlike the gradient of the score, the gradient of the log-odds does not vanish for scores
        near 1.
        """
        return select_explained_score(outputs, geometry, question)


def select_valid(outputs: Outputs, index: int, geometry: Geometry) -> tuple[Detections, Any]:
    """Return the detections of image `index` in original pixels, and their slots, best first.

    Args:
        outputs: Declared outputs of a detector, for a batch.
        index: Position of the image in the batch.
        geometry: Mapping of the image to its original.
    """
    slots = outputs["valid"][index].nonzero()
    slots = slots[0] if isinstance(slots, tuple) else slots[:, 0]
    boxes = geometry.boxes_to_original(as_float32(outputs["boxes"][index][slots]))
    scores = as_float32(outputs["scores"][index][slots])
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
    slots, boxes, scores = slots[has_area], boxes[has_area], scores[has_area]
    order = argsort_descending(scores)
    slots = slots[order]
    return Detections(boxes[order], scores[order], outputs["labels"][index][slots]), slots


def select_explained_score(
    outputs: Outputs, geometry: Geometry, question: ExplainedQuestion
) -> ExplainedOutput:
    """Select the log-odds of the score of the detection that matches a question.

    Raises:
        DataError: If no detection matches, or its score has no gradient.
    """
    usable = as_array(outputs["valid"][0])
    labels = as_array(outputs["labels"][0])
    is_valid = usable
    if question.label is not None:
        usable = usable & (labels == question.label)
    class_name = "object" if question.label is None else question.classes[question.label]
    if not usable.any():
        raise DataError(
            f"the head detects no {class_name} in this image; choose another class or box"
        )
    boxes = geometry.boxes_to_original(as_array(outputs["boxes"][0]).astype(np.float32))
    rank = as_array(outputs["scores"][0]).astype(np.float32)
    if question.box is not None:
        overlap = compute_overlaps(
            np.asarray([question.box], np.float64), boxes.astype(np.float64)
        )[0][0]
        usable = usable & (overlap >= MIN_OVERLAP)
        if not usable.any():
            best = overlap[is_valid].max()
            class_hint = "" if question.label is None else f" of {class_name}"
            raise DataError(
                f"no detection{class_hint} overlaps the box {list(question.box)} by {MIN_OVERLAP} "
                f"or more (best overlap: {best:.2f}); copy a box from the output of predict"
            )
        rank = overlap
    index = int(np.where(usable, rank, -1.0).argmax())
    score = as_float32(outputs["scores"][0][index])
    corners = boxes[index].tolist()
    value = float(as_array(score))
    if not SATURATED < value < 1 - SATURATED:
        raise DataError(
            f"the score of the {question.classes[int(labels[index])]} at "
            f"{[round(coordinate, 1) for coordinate in corners]} is {value:.7f}, where "
            "float32 leaves no gradient to explain it with; choose another box or class"
        )
    return ExplainedOutput(
        logit(score),
        int(labels[index]),
        (corners[0], corners[1], corners[2], corners[3]),
        value,
    )
