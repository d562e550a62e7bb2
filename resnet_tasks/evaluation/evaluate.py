"""Evaluation of a model on a dataset, head by head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset

from resnet_tasks.data.sampling.dataset_protocols import HasGroups
from resnet_tasks.errors import HeadError
from resnet_tasks.evaluation.evaluators import Evaluators, build_evaluators
from resnet_tasks.evaluation.ground_truth import build_truth, get_label_table
from resnet_tasks.evaluation.uncertainty.bootstrap import (
    Bootstrap,
    Resampling,
    resample_heads,
)
from resnet_tasks.inference.predict_dataset import (
    ProcessGroup,
    SingleProcess,
    predict_dataset,
)
from resnet_tasks.inference.predict_images import as_predictor
from resnet_tasks.inference.predictor import Predictor
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.evaluation import DetailedEvaluator, Metric
from resnet_tasks.structures.image_result import ImageResult
from resnet_tasks.structures.input_images import HeadInfo
from resnet_tasks.structures.predictions.base import Prediction
from resnet_tasks.structures.samples import Sample


@dataclass(frozen=True)
class Evaluation:
    """Results of the evaluation of a model on a dataset.

    Attributes:
        metrics: `head/metric` -> metric, with its interval if one was computed. Heads without an
            annotated image are excluded.
        protocols: Head name -> sentences that define its metrics.
        evaluators: Head name -> its evaluators, which contain all evaluated images.
        image_ids: Ids of all predicted images, in order.
        resampling: Resampled metrics from which the intervals were computed; None if no intervals
            were requested.
    """

    metrics: dict[str, Metric]
    protocols: dict[str, str]
    evaluators: Evaluators
    image_ids: tuple[int | str, ...]
    resampling: Resampling | None = None

    def details(self) -> dict[str, dict[str, Any]]:
        """Return curves and tables of all evaluators; see `DetailedEvaluator.details`.

        If several evaluators of a head return the same key, the first one takes precedence; notes
        are concatenated.

        Returns:
            Head name -> details as JSON values.
        """
        head_details: dict[str, dict[str, Any]] = {}
        for head, evaluators in self.evaluators.items():
            parts = [
                evaluator.details()
                for evaluator in evaluators
                if isinstance(evaluator, DetailedEvaluator)
            ]
            merged = {key: value for part in reversed(parts) for key, value in part.items()}
            notes = [note for part in parts for note in part.get("notes", ())]
            head_details[head] = {**merged, "notes": notes} if notes else merged
        return head_details


def evaluate(
    model: TaskModel | Predictor,
    dataset: Dataset[Sample],
    *,
    batch_size: int = 8,
    precision: str = "auto",
    workers: int = 0,
    evaluators: Evaluators | None = None,
    bootstrap: Bootstrap | None = Bootstrap(),  # noqa: B008  # frozen
    on_image: Callable[[int, Mapping[str, Prediction]], None] | None = None,
    process_group: ProcessGroup = SingleProcess(),  # noqa: B008  # frozen
) -> Evaluation:
    """Compute the metrics of every head of `model` on `dataset`, with 95 % intervals.

    Args:
        model: `TaskModel` on its device, whose mode is restored afterwards, or a predictor.
        dataset: Samples without augmentation. The ground truth of a `CocoDataset` is read from its
            annotation files; that of any other dataset is the targets of its samples, mapped back
            to the original frame.
        batch_size: Images per forward pass; a predictor of windows predicts one image at a time.
        precision: `auto`, `fp32`, `bf16` or `fp16` for a `TaskModel`; ignored for a predictor.
        workers: Number of loader processes.
        evaluators: Evaluators of each head; default: `build_evaluators` of the model's heads.
        bootstrap: Options of the intervals; None: no intervals.
        on_image: Function called with (position, {head: prediction}) after each image.
        process_group: Processes that share the images, each of which is predicted once. Process 0
            evaluates; the others return an evaluation without metrics.

    Raises:
        HeadError: If two evaluators of a head have a metric with the same name.
    """
    predictor = as_predictor(model, precision)
    heads = predictor.heads
    evaluator_set = _EvaluatorSet(build_evaluators(heads) if evaluators is None else evaluators)
    for index, result in predict_dataset(
        predictor, dataset, batch_size, workers=workers, process_group=process_group
    ):
        evaluator_set.update(heads, dataset, index, result)
        if on_image is not None:
            on_image(index, result)
    return evaluator_set.build_evaluation(bootstrap)


def evaluate_folds(
    parts: Iterable[tuple[TaskModel | Predictor, Dataset[Sample]]],
    evaluators: Evaluators,
    *,
    batch_size: int = 8,
    precision: str = "auto",
    bootstrap: Bootstrap | None = Bootstrap(),  # noqa: B008  # frozen
) -> Evaluation:
    """Compute joint metrics over several datasets, each predicted by its own model.

    This is the evaluation of a cross-validation: every image is evaluated once, by the model that
    was not trained on it.

    Args:
        parts: Pairs of a model and its held-out dataset. All models have the same heads; image ids
            are unique across the datasets. The pairs are consumed one by one, so a generator can
            load one model at a time.
        evaluators: Evaluators of each head.
        batch_size: Images per forward pass.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        bootstrap: Options of the intervals; None: no intervals.

    Raises:
        HeadError: If two evaluators of a head have a metric with the same name.
    """
    evaluator_set = _EvaluatorSet(evaluators)
    for model, dataset in parts:
        predictor = as_predictor(model, precision)
        for index, result in predict_dataset(predictor, dataset, batch_size):
            evaluator_set.update(predictor.heads, dataset, index, result)
    return evaluator_set.build_evaluation(bootstrap)


@dataclass
class _EvaluatorSet:
    """Evaluators of all heads, and the images added to them.

    Attributes:
        evaluators: Head name -> its evaluators.
        evaluated_heads: Names of the heads with at least one annotated image.
        image_ids: Ids of the images, in order.
        groups: Image id -> group, for images that have one.
    """

    evaluators: Evaluators
    evaluated_heads: set[str] = field(default_factory=set)
    image_ids: list[int | str] = field(default_factory=list)
    groups: dict[int | str, str] = field(default_factory=dict)

    def update(
        self,
        heads: Mapping[str, HeadInfo],
        dataset: Dataset[Sample],
        index: int,
        result: ImageResult,
    ) -> None:
        """Add the predictions for one image of a dataset."""
        self.image_ids.append(result.image_id)
        group = dataset.group(index) if isinstance(dataset, HasGroups) else None
        if group is not None:
            self.groups[result.image_id] = group
        for name, head in heads.items():
            truth = build_truth(dataset, index, get_label_table(head))
            if head.task_spec.is_annotated(truth):
                self.evaluated_heads.add(name)
                for evaluator in self.evaluators.get(name, ()):
                    evaluator.update(result[name], truth)

    def build_evaluation(self, bootstrap: Bootstrap | None) -> Evaluation:
        """Compute all metrics over the added images."""
        evaluators = {
            name: tuple(head_evaluators)
            for name, head_evaluators in self.evaluators.items()
            if name in self.evaluated_heads
        }
        metrics = _compute_metrics(evaluators)
        protocols = {
            name: " ".join(evaluator.protocol for evaluator in head_evaluators)
            for name, head_evaluators in evaluators.items()
        }
        if bootstrap is None or not bootstrap.resamples:
            return Evaluation(metrics, protocols, evaluators, tuple(self.image_ids))
        resampling = resample_heads(evaluators, self.groups, bootstrap)
        metrics = resampling.attach_intervals(metrics)
        return Evaluation(metrics, protocols, evaluators, tuple(self.image_ids), resampling)


def _compute_metrics(evaluators: Evaluators) -> dict[str, Metric]:
    """Compute `head/metric` -> metric with all evaluators.

    Raises:
        HeadError: If two evaluators of a head have a metric with the same name.
    """
    metrics: dict[str, Metric] = {}
    for head, head_evaluators in evaluators.items():
        parts = [evaluator.compute() for evaluator in head_evaluators]
        names = Counter(name for part in parts for name in part)
        duplicates = [name for name, times in names.items() if times > 1]
        if duplicates:
            raise HeadError(
                f"head {head}: more than one of its evaluators "
                f"({', '.join(type(evaluator).__name__ for evaluator in head_evaluators)}) "
                f"computes {', '.join(duplicates)}; every metric of a head needs a unique name"
            )
        metrics |= {f"{head}/{name}": value for part in parts for name, value in part.items()}
    return metrics
