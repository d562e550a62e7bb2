"""Task of heads that assign a class to every pixel.

Shape glossary: `B` images, `K` classes, `H, W` the padded batch, `h, w` the original image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.segmentation import SegmentationEvaluator
from resnet_tasks.evaluation.uncertainty.calibration_error import PixelCalibration
from resnet_tasks.evaluation.uncertainty.temperature_scaling import PixelDecisionCollector
from resnet_tasks.structures.arrays import array_like, as_array, as_float32, softmax
from resnet_tasks.structures.evaluation import BACKGROUND, Evaluator
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.base import Prediction
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap
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
from resnet_tasks.tasks.semantic_segmentation.merge_windows import BlendedMap


@register_task
class SemanticSegmentationTask(Task):
    """Semantic segmentation: one class for every pixel (mIoU)."""

    name: ClassVar[str] = "semantic_segmentation"
    required_fields: ClassVar[tuple[str, ...]] = ("semantic",)
    outputs: ClassVar[Mapping[str, tuple[str | int, ...]]] = {"logits": ("B", "K", "H", "W")}
    prediction: ClassVar[type[Prediction]] = SegmentationMap
    main_metric: ClassVar[str] = "mIoU"
    evaluator_families: ClassVar[tuple[str, ...]] = ("semantic_segmentation",)
    has_background: ClassVar[bool] = True
    pipeline_tag: ClassVar[str | None] = "image-segmentation"

    def decode(self, outputs: Outputs, geometries: Sequence[Geometry]) -> list[SegmentationMap]:
        """Resize the logits to the original image, then choose the most probable class.

        The logits are resized before the softmax, because resized probabilities blur the borders.
        """
        maps = []
        for logits, geometry in zip(outputs["logits"], geometries, strict=True):
            probs = softmax(geometry.map_to_original(logits), 0)
            maps.append(SegmentationMap(labels=probs.argmax(0), probs=probs))
        return maps

    def build_evaluator(self, classes: Sequence[str]) -> Evaluator:
        """Create the evaluator of IoU, Dice and pixel accuracy."""
        return SegmentationEvaluator(tuple(classes))

    def build_calibration_evaluator(self, classes: Sequence[str]) -> Evaluator:
        """Create the evaluator of the calibration error of pixels."""
        return PixelCalibration(classes)

    def build_decision_collector(self) -> DecisionCollector:
        """Create the collector of a sample of every image's pixels."""
        return PixelDecisionCollector()

    def merge_views(self, predictions: Sequence[SegmentationMap]) -> SegmentationMap:
        """Average the probabilities of the views."""
        total: Any = sum(prediction.probs for prediction in predictions[1:])
        probs = (predictions[0].probs + total) / len(predictions)
        return SegmentationMap(labels=probs.argmax(0), probs=probs)

    def create_window_merger(self, head: str, layout: WindowLayout) -> WindowMerger:
        """Create the merger that blends the logits of overlapping windows."""
        return BlendedMap(head, layout)

    def select_explained(
        self, outputs: Outputs, geometry: Geometry, question: ExplainedQuestion
    ) -> ExplainedOutput:
        """Select the mean logit of a class over its pixels, inside a box if one is given."""
        height, width = geometry.input_size
        logits = as_float32(outputs["logits"][0, :, :height, :width])
        labels = as_array(logits).argmax(axis=0)
        region = np.ones(labels.shape, np.bool_)
        if question.box is not None:
            box = geometry.boxes_to_input(np.asarray([question.box], np.float32))[0]
            left, top, right, bottom = np.round(box).astype(int).tolist()
            region[:] = False
            region[top:bottom, left:right] = True
        if not region.any():
            raise DataError(
                f"the box {list(question.box or ())} contains no pixel of the image; choose a box "
                "inside it"
            )
        label = question.label
        if label is None:
            counts = np.bincount(labels[region], minlength=len(question.classes))
            if question.classes[0] == BACKGROUND and counts[1:].any():
                counts[0] = 0
            label = int(counts.argmax())
        pixels = region & (labels == label)
        if not pixels.any():
            raise DataError(
                f"no pixel of this image or box is predicted as {question.classes[label]}; choose "
                "another class or box"
            )
        # Multiplied by a mask instead of indexed, because indexing needs a mask of the same library
        # (NumPy or torch).
        weights = array_like(logits, pixels.astype(np.float32))
        value = (logits[label] * weights).sum() / int(pixels.sum())
        probs = as_array(softmax(logits, 0)[label])
        return ExplainedOutput(value, label, question.box, float(probs[pixels].mean()))
