"""Task of heads that predict a box and a mask for every object.

Shape glossary: `B` images, `D` instances per image, `M` mask cells per side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from resnet_tasks.evaluation.coco.instance_segmentation import InstanceSegmentationEvaluator
from resnet_tasks.evaluation.uncertainty.temperature_scaling import DetectionDecisionCollector
from resnet_tasks.structures.evaluation import Evaluator
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.base import Prediction
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
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
from resnet_tasks.tasks.detection.merge_windows import DetectionMerger
from resnet_tasks.tasks.detection.task import DetectionTask, select_explained_score
from resnet_tasks.tasks.instance_segmentation.calibration import (
    MaskCalibration,
    extract_mask_decisions,
)
from resnet_tasks.tasks.instance_segmentation.merge_views import fuse_instances
from resnet_tasks.tasks.instance_segmentation.merge_windows import merge_instances
from resnet_tasks.tasks.instance_segmentation.pasting import decode_instances


@register_task
class InstanceSegmentationTask(Task):
    """Detection of objects by boxes and masks (COCO's AP of both)."""

    name: ClassVar[str] = "instance_segmentation"
    required_fields: ClassVar[tuple[str, ...]] = ("boxes", "labels")
    optional_fields: ClassVar[tuple[str, ...]] = ("masks",)
    outputs: ClassVar[Mapping[str, tuple[str | int, ...]]] = {
        **DetectionTask.outputs,
        "mask_logits": ("B", "D", "M", "M"),
    }
    output_types: ClassVar[Mapping[str, str]] = DetectionTask.output_types
    prediction: ClassVar[type[Prediction]] = InstanceSegmentation
    main_metric: ClassVar[str] = "mask_AP"
    evaluator_families: ClassVar[tuple[str, ...]] = ("detection",)
    includes_stuff: ClassVar[bool] = False
    pipeline_tag: ClassVar[str | None] = "image-segmentation"

    def decode(
        self, outputs: Outputs, geometries: Sequence[Geometry]
    ) -> list[InstanceSegmentation]:
        """Convert the boxes to original pixels and paste the masks into them, best first."""
        return decode_instances(outputs, geometries)

    def build_evaluator(self, classes: Sequence[str]) -> Evaluator:
        """Create the evaluator of COCO's mask and box metrics."""
        return InstanceSegmentationEvaluator(tuple(classes))

    def build_calibration_evaluator(self, classes: Sequence[str]) -> Evaluator:
        """Create the evaluator of the calibration error of scores, with hits by mask."""
        return MaskCalibration(classes)

    def build_decision_collector(self) -> DecisionCollector:
        """Create the collector of instances and their hits by mask."""
        return DetectionDecisionCollector(extract_mask_decisions)

    def merge_views(self, predictions: Sequence[InstanceSegmentation]) -> InstanceSegmentation:
        """Fuse the boxes of the views; every pixel of a mask is decided by vote."""
        return fuse_instances(predictions)

    def create_window_merger(self, head: str, layout: WindowLayout) -> WindowMerger:
        """Create the merger of instances: joins cut objects and drops duplicates."""
        del head
        return DetectionMerger(layout, self.decode, merge_instances)

    def select_explained(
        self, outputs: Outputs, geometry: Geometry, question: ExplainedQuestion
    ) -> ExplainedOutput:
        """Select the log-odds of the score of an instance."""
        return select_explained_score(outputs, geometry, question)
