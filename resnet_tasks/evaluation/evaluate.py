"""Predictions of a model on a data set, judged head by head."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset

from resnet_tasks.data.coco_records import boxes_to_xywh
from resnet_tasks.data.data_set_protocols import HasGroups, HasTruth
from resnet_tasks.data.loaders import make_loader, part_of
from resnet_tasks.data.transforms import decode_labels, encode_labels, resize_labels
from resnet_tasks.errors import DataError, HeadError, RecipeError
from resnet_tasks.evaluation import froc, kitti, surfaces
from resnet_tasks.evaluation.calibration import calibration_evaluator
from resnet_tasks.evaluation.classification import ClassificationEvaluator, MultiLabelEvaluator
from resnet_tasks.evaluation.detection import DetectionEvaluator
from resnet_tasks.evaluation.extra import extra_evaluator
from resnet_tasks.evaluation.intervals import (
    Bootstrap,
    Resampling,
    resample_heads,
    with_intervals,
)
from resnet_tasks.evaluation.segmentation import SegmentationEvaluator
from resnet_tasks.evaluation.sliding import HasPictures, SlidingWindows
from resnet_tasks.evaluation.views import (
    ManyViews,
    Predictor,
    at_scale,
    plain_model,
    predict_at,
    scales_of,
)
from resnet_tasks.heads.base import Head
from resnet_tasks.model import TaskModel, resolve_precision
from resnet_tasks.registry import did_you_mean
from resnet_tasks.structures import (
    Batch,
    Detailed,
    Evaluator,
    LabelTable,
    Metric,
    Sample,
    Task,
    Truth,
)

Found = tuple[int, int | str, dict[str, Any]]
"""Position of a picture, its id, and {head: prediction}."""
MAIN_METRIC = {
    "detection": "AP",
    "semantic_segmentation": "mIoU",
    "classification": "top1",
    "multi_label_classification": "AUROC",
}
"""Evaluator -> the metric that chooses the best checkpoint unless a recipe says otherwise."""

__all__ = [
    "MAIN_METRIC",
    "ClassificationEvaluator",
    "DetectionEvaluator",
    "Evaluation",
    "Evaluators",
    "MultiLabelEvaluator",
    "SegmentationEvaluator",
    "best_metric",
    "evaluate",
    "evaluate_in_turn",
    "evaluators_of",
    "extra_for",
    "truth_of",
    "with_calibration",
]


class Team(Protocol):
    """The processes that evaluate together; the first one judges what all of them predicted."""

    @property
    def index(self) -> int:
        """Which one this is, from 0."""
        ...

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def collect(self, value: list[Found]) -> list[list[Found]]:
        """The values of all of them, by index, in the first one; nothing in the others."""
        ...


@dataclass(frozen=True)
class _Alone:
    """A process that evaluates by itself."""

    index: int = 0
    count: int = 1

    def collect(self, value: list[Found]) -> list[list[Found]]:
        return [value]


Evaluators = Mapping[str, Sequence[Evaluator]]
"""Head -> those who judge it; each takes every picture that is annotated for the head."""

Extra = Mapping[str, Mapping[str, Mapping[str, Any] | None]]
"""Head -> name of an additional evaluator -> its options; None: its defaults."""

BUILT_IN_EVALUATORS = (froc, kitti, surfaces)
"""Importing their modules registers them; a new built-in one is added here."""


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth on a data set.

    Attributes:
        metrics: `head/metric` -> value, with its interval where one was made. Heads whose truth is
            not annotated on any picture are left out.
        protocols: Head -> how its numbers are counted.
        evaluators: Head -> those who judged it, with all that they have seen.
        picture_ids: All pictures that were predicted, in order.
        resampling: How the intervals were made; None where none were asked for.
    """

    metrics: dict[str, Metric]
    protocols: dict[str, str]
    evaluators: Evaluators
    picture_ids: tuple[int | str, ...]
    resampling: Resampling | None = None

    def details(self) -> dict[str, dict[str, Any]]:
        """Head -> curves and tables of all its evaluators as JSON values (`Detailed.details`).

        Where two evaluators of a head bring the same key, the first one's stands; notes are joined.
        """
        found: dict[str, dict[str, Any]] = {}
        for head, evaluators in self.evaluators.items():
            parts = [each.details() for each in evaluators if isinstance(each, Detailed)]
            merged = {key: value for part in reversed(parts) for key, value in part.items()}
            notes = [note for part in parts for note in part.get("notes", ())]
            found[head] = {**merged, "notes": notes} if notes else merged
        return found


def evaluators_of(
    heads: Mapping[str, Head], *, backend: str = "hotcoco", extra: Extra | None = None
) -> Evaluators:
    """Fresh evaluators of every head: its own, then the additional ones.

    Args:
        heads: Name -> head.
        backend: Evaluator of boxes: `hotcoco` or `pycocotools`; they give the same numbers.
        extra: Additional evaluators.

    Raises:
        RecipeError: If an additional evaluator or its head is unknown, or an option is wrong; all
            problems together.
    """
    evaluators = {name: [head.evaluator()] for name, head in heads.items()}
    for each in evaluators.values():
        if isinstance(each[0], DetectionEvaluator):
            each[0].backend = backend
    problems = []
    for name, wanted in (extra or {}).items():
        if name not in heads:
            problems.append(f"evaluation.extra.{name}: the heads are {', '.join(heads)}")
            continue
        classes, task = heads[name].classes, heads[name].task.name
        for each_name, options in wanted.items():
            try:
                made = extra_evaluator(each_name, options, classes=classes, task=task)
                evaluators[name].append(made)
            except RecipeError as error:
                problems.append(f"evaluation.extra.{name}: {error}")
    if problems:
        raise RecipeError("\n".join(problems))
    return evaluators


def extra_for(heads: Mapping[str, Head], metric: str, extra: Extra) -> Extra:
    """Those additional evaluators that give one metric; none where the head's own one does.

    Args:
        heads: Name -> head.
        metric: `head/metric`.
        extra: Of the recipe.
    """
    head, _, wanted = metric.partition("/")
    for name, options in extra.get(head, {}).items():
        chosen = {head: {name: options}}
        if any(wanted in each.compute() for each in evaluators_of(heads, extra=chosen)[head][1:]):
            return chosen
    return {}


def with_calibration(evaluators: Evaluators, heads: Mapping[str, Head]) -> Evaluators:
    """`evaluators`, and for heads judged by their task's own one a judge of its calibration."""
    added = {
        name: calibration_evaluator(head.task.name, head.classes)
        for name, head in heads.items()
        if not _has_own_evaluator(head)
    }
    return {
        name: [*each, extra] if (extra := added.get(name)) is not None else list(each)
        for name, each in evaluators.items()
    }


def evaluate(
    model: Predictor,
    dataset: Dataset[Sample],
    *,
    batch_size: int = 8,
    precision: str = "auto",
    workers: int = 0,
    evaluators: Evaluators | None = None,
    bootstrap: Bootstrap | None = Bootstrap(),  # noqa: B008  # frozen
    on_picture: Callable[[int, dict[str, Any]], None] | None = None,
    team: Team = _Alone(),
) -> Evaluation:
    """Metrics of every head of `model` on `dataset`, with 95 % intervals.

    Args:
        model: A `TaskModel` on its device, whose mode is kept, or `ManyViews` or `SlidingWindows`
            of one.
        dataset: Samples without augmentation. `CocoDataset` is judged on its files' own
            annotations, any other data set on its samples' targets, brought back to the original
            frame.
        batch_size: Pictures per forward; with `SlidingWindows` one after the other is predicted.
        precision: `auto`, `fp32`, `bf16` or `fp16`.
        workers: Loader processes.
        evaluators: Who judges each head; default: `evaluators_of` the model's heads.
        bootstrap: How intervals are made; None: no intervals.
        on_picture: Called with (position, {head: prediction}) after each picture.
        team: Processes that share the pictures, each predicted once. The first one judges; the
            others return an evaluation without metrics.

    Raises:
        HeadError: If two evaluators of a head give a metric of the same name.
    """
    heads = plain_model(model).named_heads
    jury = _Jury(evaluators_of(heads) if evaluators is None else evaluators)
    found = _found(model, dataset, batch_size, precision=precision, workers=workers, team=team)
    for each in found:
        jury.hear(plain_model(model), dataset, each)
        if on_picture is not None:
            on_picture(each[0], each[2])
    return jury.verdict(bootstrap)


def evaluate_in_turn(
    parts: Iterable[tuple[Predictor, Dataset[Sample]]],
    evaluators: Evaluators,
    *,
    batch_size: int = 8,
    precision: str = "auto",
    bootstrap: Bootstrap | None = Bootstrap(),  # noqa: B008  # frozen
) -> Evaluation:
    """Metrics over the pictures of several data sets together, each predicted by its own model.

    That is what the folds of a cross-validation give together: every picture is judged once, by
    the model that has not seen it.

    Args:
        parts: Models of the same heads, each with its pictures, whose ids differ in all of them.
            One is asked for after the other, so that they need not be in memory together.
        evaluators: Who judges each head.
        batch_size: As in `evaluate`.
        precision: As in `evaluate`.
        bootstrap: As in `evaluate`.

    Raises:
        HeadError: As in `evaluate`.
    """
    jury = _Jury(evaluators)
    for model, dataset in parts:
        for each in _found(model, dataset, batch_size, precision=precision):
            jury.hear(plain_model(model), dataset, each)
    return jury.verdict(bootstrap)


@dataclass
class _Jury:
    """The evaluators of all heads, and the pictures that they were shown.

    Attributes:
        judges: By head.
        seen: Heads that had something to judge.
        ids: Of the pictures, in order.
        groups: Id of a picture -> its group, where it has one.
    """

    judges: Evaluators
    seen: set[str] = field(default_factory=set)
    ids: list[int | str] = field(default_factory=list)
    groups: dict[int | str, str] = field(default_factory=dict)

    def hear(self, model: TaskModel, dataset: Dataset[Sample], found: Found) -> None:
        """Takes the predictions for one picture of a data set."""
        index, image_id, here = found
        self.ids.append(image_id)
        group = dataset.group(index) if isinstance(dataset, HasGroups) else None
        if group is not None:
            self.groups[image_id] = group
        for name, head in model.named_heads.items():
            truth = truth_of(dataset, index, model.label_tables[name])
            if _judges(head.task, truth):
                self.seen.add(name)
                for evaluator in self.judges.get(name, ()):
                    evaluator.update(here[name], truth)

    def verdict(self, bootstrap: Bootstrap | None) -> Evaluation:
        """All metrics over what was taken."""
        judged = {name: tuple(each) for name, each in self.judges.items() if name in self.seen}
        metrics = _metrics(judged)
        protocols = {name: " ".join(one.protocol for one in each) for name, each in judged.items()}
        if bootstrap is None or not bootstrap.resamples:
            return Evaluation(metrics, protocols, judged, tuple(self.ids))
        resampling = resample_heads(judged, self.groups, bootstrap)
        metrics = with_intervals(metrics, resampling.values)
        return Evaluation(metrics, protocols, judged, tuple(self.ids), resampling)


def _found(
    model: Predictor,
    dataset: Dataset[Sample],
    batch_size: int,
    *,
    precision: str,
    workers: int = 0,
    team: Team = _Alone(),
) -> Iterator[Found]:
    """What a model predicts for the pictures of a data set, in their order."""
    length = len(dataset)  # type: ignore[arg-type]
    together = team.count if isinstance(model, SlidingWindows) else batch_size
    batches = [list(range(i, min(i + together, length))) for i in range(0, length, together)]
    chosen = resolve_precision(precision, plain_model(model).device)
    parts = [part_of(each, team.index, team.count) for each in batches]
    for here in _predicted(model, dataset, parts, precision=chosen, workers=workers):
        yield from chain.from_iterable(team.collect(here))


def _predicted(
    model: Predictor,
    dataset: Dataset[Sample],
    parts: Sequence[Sequence[int]],
    *,
    precision: str,
    workers: int,
) -> Iterator[list[Found]]:
    """What is found on the pictures of every part, in order."""
    if isinstance(model, SlidingWindows):
        for part in parts:
            yield [_in_windows(model, dataset, index, precision) for index in part]
        return
    chosen = [each for each in parts if each]
    loaders = [
        iter(make_loader(at_scale(dataset, scale), chosen, workers=workers))
        for scale in scales_of(model)
    ]
    for part in parts:
        yield _in_views(model, part, [next(each) for each in loaders], precision) if part else []


def _in_views(
    model: TaskModel | ManyViews, positions: Sequence[int], views: Sequence[Batch], precision: str
) -> list[Found]:
    """What is found on every picture of a batch in all its sizes."""
    predictions = predict_at(model, views, precision=precision)
    return [
        (index, views[0].image_ids[i], {name: each[i] for name, each in predictions.items()})
        for i, index in enumerate(positions)
    ]


def _in_windows(
    model: SlidingWindows, dataset: Dataset[Sample], index: int, precision: str
) -> Found:
    """What is found on one picture, which is read window by window.

    Raises:
        DataError: If the data set cannot do that.
    """
    if not isinstance(dataset, HasPictures):
        raise DataError(
            f"{type(dataset).__name__} has no prepared(index), which sliding windows need; "
            "evaluate whole pictures"
        )
    return (
        index,
        dataset.image_id(index),
        model.predict(dataset.prepared(index), precision=precision),
    )


def best_metric(heads: Mapping[str, Head], wanted: str | None, extra: Extra | None = None) -> str:
    """The metric that chooses the best checkpoint, known before the first step.

    Args:
        heads: Name -> head.
        wanted: `head/metric` of a recipe; None: the main metric of the first head.
        extra: Additional evaluators, whose metrics can be chosen as well.

    Returns:
        `head/metric`; empty where no head says what it measures.

    Raises:
        RecipeError: If it is no metric of any head, or an additional evaluator is wrong.
    """
    evaluators = evaluators_of(heads, extra=extra)
    if wanted is not None and wanted.split("/")[0] not in heads:
        raise RecipeError(f"evaluation.best is {wanted!r}; the heads are {', '.join(heads)}")
    if wanted is not None and _has_own_evaluator(heads[wanted.split("/")[0]]):
        return wanted  # which need not be able to count nothing
    tasks = {
        f"{name}/{metric}": head.evaluator_name
        for name, head in heads.items()
        if not _has_own_evaluator(head)
        for evaluator in evaluators[name]
        for metric in evaluator.compute()
    }
    if wanted is None:
        mains = (each for each, task in tasks.items() if each.endswith(f"/{MAIN_METRIC.get(task)}"))
        return next(mains, next(iter(tasks), ""))
    if wanted not in tasks:
        hint = did_you_mean(wanted, tasks)
        raise RecipeError(f"evaluation.best is {wanted!r}; metrics are: {', '.join(tasks)}{hint}")
    return wanted


def _has_own_evaluator(head: Head) -> bool:
    return type(head).evaluator is not Head.evaluator


def _metrics(evaluators: Evaluators) -> dict[str, Metric]:
    """`head/metric` of all evaluators.

    Raises:
        HeadError: If two evaluators of a head give a metric of the same name.
    """
    metrics: dict[str, Metric] = {}
    for head, each in evaluators.items():
        parts = [evaluator.compute() for evaluator in each]
        names = Counter(name for part in parts for name in part)
        twice = [name for name, times in names.items() if times > 1]
        if twice:
            raise HeadError(
                f"head {head}: more than one of its evaluators "
                f"({', '.join(type(one).__name__ for one in each)}) gives {', '.join(twice)}; "
                "every metric of a head needs a name of its own"
            )
        metrics |= {f"{head}/{name}": value for part in parts for name, value in part.items()}
    return metrics


def _judges(task: Task, truth: Truth) -> bool:
    present = {
        "boxes": truth.boxes_xywh,
        "labels": truth.labels,
        "semantic": truth.semantic,
        "image_labels": truth.image_labels,
    }
    return all(present.get(name) is not None or name in truth.extra for name in task.target_fields)


def truth_of(dataset: Dataset[Sample], index: int, table: LabelTable) -> Truth:
    """What is annotated on picture `index`, in original pixels and the labels of one head."""
    if isinstance(dataset, HasTruth):
        return dataset.truth(index, table)
    sample = dataset[index]
    target = table.apply(sample.target)
    size = sample.geometry.original_size
    semantic = None
    if target.semantic is not None:
        flips = tuple(axis for axis, scale in enumerate(sample.geometry.scale) if scale < 0)
        upright = np.flip(target.semantic.numpy(), flips)
        semantic = decode_labels(resize_labels(encode_labels(upright), size))
    whole = None if target.image_labels is None else target.image_labels.numpy()
    known = Truth(sample.image_id, size, semantic=semantic, image_labels=whole, extra=target.extra)
    if target.boxes is None or target.labels is None:
        return known
    xywh = boxes_to_xywh(sample.geometry.boxes_to_original(target.boxes).numpy())
    crowd = target.ignore if target.ignore is not None else torch.zeros(len(xywh), dtype=torch.bool)
    return replace(
        known,
        boxes_xywh=xywh,
        labels=target.labels.numpy(),
        crowd=crowd.numpy(),
        areas=xywh[:, 2] * xywh[:, 3],
    )
