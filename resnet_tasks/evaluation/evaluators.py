"""Who judges each head of a model, and by which of their metrics checkpoints are chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_tasks.errors import RecipeError
from resnet_tasks.evaluation import classification, detection, froc, kitti, segmentation, surfaces
from resnet_tasks.evaluation.calibration import calibration_evaluator
from resnet_tasks.evaluation.detection import DetectionEvaluator
from resnet_tasks.evaluation.extra import extra_evaluator
from resnet_tasks.heads.base import Head
from resnet_tasks.registry import did_you_mean
from resnet_tasks.structures import Evaluator

MAIN_METRIC = {
    "detection": "AP",
    "semantic_segmentation": "mIoU",
    "classification": "top1",
    "multi_label_classification": "AUROC",
}
"""Evaluator -> the metric that chooses the best checkpoint unless a recipe says otherwise."""


Evaluators = Mapping[str, Sequence[Evaluator]]
"""Head -> those who judge it; each takes every picture that is annotated for the head."""


Extra = Mapping[str, Mapping[str, Mapping[str, Any] | None]]
"""Head -> name of an additional evaluator -> its options; None: its defaults."""


BUILT_IN_EVALUATORS = (classification, detection, segmentation, froc, kitti, surfaces)
"""Importing their modules registers them; a new built-in one is added here."""


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
