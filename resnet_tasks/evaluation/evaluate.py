"""Predictions of a model on a data set, judged head by head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset

from resnet_tasks.data.sampling.dataset_protocols import HasGroups
from resnet_tasks.errors import HeadError
from resnet_tasks.evaluation.evaluators import Evaluators, build_evaluators
from resnet_tasks.evaluation.ground_truth import build_truth, is_annotated
from resnet_tasks.evaluation.uncertainty.bootstrap import (
    Bootstrap,
    Resampling,
    attach_intervals,
    resample_heads,
)
from resnet_tasks.inference.predict_dataset import (
    ImagePrediction,
    ProcessGroup,
    SingleProcess,
    predict_dataset,
)
from resnet_tasks.inference.test_time_augmentation import Predictor, unwrap_model
from resnet_tasks.model import TaskModel
from resnet_tasks.structures.evaluation import DetailedEvaluator, Metric
from resnet_tasks.structures.samples import Sample


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on a data set.

    Attributes:
        metrics: `head/metric` -> value, with its interval where one was made. Heads whose truth is
            not annotated on any image are left out.
        protocols: Head -> how its numbers are counted.
        evaluators: Head -> those who judged it, with all that they have seen.
        image_ids: All images that were predicted, in order.
        resampling: How the intervals were made; None where none were asked for.
    """

    metrics: dict[str, Metric]
    protocols: dict[str, str]
    evaluators: Evaluators
    image_ids: tuple[int | str, ...]
    resampling: Resampling | None = None

    def details(self) -> dict[str, dict[str, Any]]:
        """Head -> curves and tables of all its evaluators as JSON values (`Detailed.details`).

        Where two evaluators of a head bring the same key, the first one's stands; notes are joined.
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
    model: Predictor,
    dataset: Dataset[Sample],
    *,
    batch_size: int = 8,
    precision: str = "auto",
    workers: int = 0,
    evaluators: Evaluators | None = None,
    bootstrap: Bootstrap | None = Bootstrap(),  # noqa: B008  # frozen
    on_image: Callable[[int, dict[str, Any]], None] | None = None,
    process_group: ProcessGroup = SingleProcess(),  # noqa: B008  # frozen
) -> Evaluation:
    """Metrics of every head of `model` on `dataset`, with 95 % intervals.

    Args:
        model: A `TaskModel` on its device, whose mode is kept, or `ManyViews` or `SlidingWindows`
            of one.
        dataset: Samples without augmentation. `CocoDataset` is judged on its files' own
            annotations, any other data set on its samples' targets, brought back to the original
            frame.
        batch_size: Images per forward; with `SlidingWindows` one after the other is predicted.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        workers: Loader processes.
        evaluators: Who judges each head; default: `evaluators_of` the model's heads.
        bootstrap: How intervals are made; None: no intervals.
        on_image: Called with (position, {head: prediction}) after each image.
        process_group: Processes that share the images, each predicted once. The first one
            judges; the
            others return an evaluation without metrics.

    Raises:
        HeadError: If two evaluators of a head give a metric of the same name.
    """
    heads = unwrap_model(model).named_heads
    evaluator_set = _EvaluatorSet(build_evaluators(heads) if evaluators is None else evaluators)
    predictions = predict_dataset(
        model,
        dataset,
        batch_size,
        precision=precision,
        workers=workers,
        process_group=process_group,
    )
    for prediction in predictions:
        evaluator_set.update(unwrap_model(model), dataset, prediction)
        if on_image is not None:
            on_image(prediction[0], prediction[2])
    return evaluator_set.build_evaluation(bootstrap)


def evaluate_folds(
    parts: Iterable[tuple[Predictor, Dataset[Sample]]],
    evaluators: Evaluators,
    *,
    batch_size: int = 8,
    precision: str = "auto",
    bootstrap: Bootstrap | None = Bootstrap(),  # noqa: B008  # frozen
) -> Evaluation:
    """Metrics over the images of several data sets together, each predicted by its own model.

    That is what the folds of a cross-validation give together: every image is judged once, by
    the model that has not seen it.

    Args:
        parts: Models of the same heads, each with its images, whose ids differ in all of them.
            One is asked for after the other, so that they need not be in memory together.
        evaluators: Who judges each head.
        batch_size: As in `evaluate`.
        precision: As in `evaluate`.
        bootstrap: As in `evaluate`.

    Raises:
        HeadError: As in `evaluate`.
    """
    evaluator_set = _EvaluatorSet(evaluators)
    for model, dataset in parts:
        for prediction in predict_dataset(model, dataset, batch_size, precision=precision):
            evaluator_set.update(unwrap_model(model), dataset, prediction)
    return evaluator_set.build_evaluation(bootstrap)


@dataclass
class _EvaluatorSet:
    """The evaluators of all heads, and the images that they were shown.

    Attributes:
        evaluators: By head.
        evaluated_heads: Heads that had something to judge.
        image_ids: Of the images, in order.
        groups: Id of an image -> its group, where it has one.
    """

    evaluators: Evaluators
    evaluated_heads: set[str] = field(default_factory=set)
    image_ids: list[int | str] = field(default_factory=list)
    groups: dict[int | str, str] = field(default_factory=dict)

    def update(
        self, model: TaskModel, dataset: Dataset[Sample], prediction: ImagePrediction
    ) -> None:
        """Takes the predictions for one image of a data set."""
        index, image_id, head_predictions = prediction
        self.image_ids.append(image_id)
        group = dataset.group(index) if isinstance(dataset, HasGroups) else None
        if group is not None:
            self.groups[image_id] = group
        for name, head in model.named_heads.items():
            truth = build_truth(dataset, index, model.label_tables[name])
            if is_annotated(head.task, truth):
                self.evaluated_heads.add(name)
                for evaluator in self.evaluators.get(name, ()):
                    evaluator.update(head_predictions[name], truth)

    def build_evaluation(self, bootstrap: Bootstrap | None) -> Evaluation:
        """All metrics over what was taken."""
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
        metrics = attach_intervals(metrics, resampling.values)
        return Evaluation(metrics, protocols, evaluators, tuple(self.image_ids), resampling)


def _compute_metrics(evaluators: Evaluators) -> dict[str, Metric]:
    """`head/metric` of all evaluators.

    Raises:
        HeadError: If two evaluators of a head give a metric of the same name.
    """
    metrics: dict[str, Metric] = {}
    for head, head_evaluators in evaluators.items():
        parts = [evaluator.compute() for evaluator in head_evaluators]
        names = Counter(name for part in parts for name in part)
        duplicates = [name for name, times in names.items() if times > 1]
        if duplicates:
            raise HeadError(
                f"head {head}: more than one of its evaluators "
                f"({', '.join(type(evaluator).__name__ for evaluator in head_evaluators)}) gives "
                f"{', '.join(duplicates)}; "
                "every metric of a head needs a name of its own"
            )
        metrics |= {f"{head}/{name}": value for part in parts for name, value in part.items()}
    return metrics
