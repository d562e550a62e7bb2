"""Tasks of heads that classify whole images.

Shape glossary: `B` images, `K` classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.classification.multi_label import MultiLabelEvaluator
from resnet_tasks.evaluation.classification.single_label import ClassificationEvaluator
from resnet_tasks.evaluation.uncertainty.temperature_scaling import ClassDecisionCollector
from resnet_tasks.structures.arrays import as_array, as_float32, sigmoid, softmax
from resnet_tasks.structures.evaluation import Evaluator
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.base import Prediction
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.tasks import (
    DecisionCollector,
    ExplainedOutput,
    ExplainedQuestion,
    Outputs,
    Task,
    register_task,
)


@register_task
class ClassificationTask(Task):
    """Classification of an image as exactly one of several classes (top-1 accuracy)."""

    name: ClassVar[str] = "classification"
    required_fields: ClassVar[tuple[str, ...]] = ("image_labels",)
    outputs: ClassVar[Mapping[str, tuple[str | int, ...]]] = {"logits": ("B", "K")}
    prediction: ClassVar[type[Prediction]] = Classification
    main_metric: ClassVar[str] = "top1"
    evaluator_families: ClassVar[tuple[str, ...]] = ("classification",)
    is_whole_image: ClassVar[bool] = True
    pipeline_tag: ClassVar[str | None] = "image-classification"

    def decode(self, outputs: Outputs, geometries: Sequence[Geometry]) -> list[Classification]:
        """Convert the logits to probabilities that sum to 1."""
        del geometries
        return [Classification(probs) for probs in softmax(as_float32(outputs["logits"]), 1)]

    def build_evaluator(self, classes: Sequence[str]) -> Evaluator:
        """Create the evaluator of accuracy and calibration error."""
        return ClassificationEvaluator(tuple(classes))

    def build_decision_collector(self) -> DecisionCollector:
        """Create the collector of images and their labels."""
        return ClassDecisionCollector()

    def merge_views(self, predictions: Sequence[Classification]) -> Classification:
        """Average the probabilities of the views."""
        total: Any = sum(prediction.probs for prediction in predictions[1:])
        return replace(predictions[0], probs=(predictions[0].probs + total) / len(predictions))

    def select_explained(
        self, outputs: Outputs, geometry: Geometry, question: ExplainedQuestion
    ) -> ExplainedOutput:
        """Select the logit of a class of the whole image."""
        if question.box is not None:
            raise DataError("a head that classifies whole images has no boxes; remove the box")
        logits = as_float32(outputs["logits"][0])
        label = int(logits.argmax()) if question.label is None else question.label
        (prediction,) = self.decode(outputs, [geometry])
        score = float(as_array(prediction.probs)[label])
        return ExplainedOutput(logits[label], label, score=score)


@register_task
class MultiLabelClassificationTask(ClassificationTask):
    """Classification of an image with any number of labels, each an independent decision."""

    name: ClassVar[str] = "multi_label_classification"
    main_metric: ClassVar[str] = "AUROC"
    evaluator_families: ClassVar[tuple[str, ...]] = ("multi_label_classification", "classification")

    def decode(self, outputs: Outputs, geometries: Sequence[Geometry]) -> list[Classification]:
        """Convert the logit of every class to a probability."""
        del geometries
        probs = sigmoid(as_float32(outputs["logits"]))
        return [Classification(image_probs, is_multi_label=True) for image_probs in probs]

    def build_evaluator(self, classes: Sequence[str]) -> Evaluator:
        """Create the evaluator of AUROC, mAP, F1 and calibration error."""
        return MultiLabelEvaluator(tuple(classes))
