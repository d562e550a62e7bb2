"""Evaluators of each head, and the choice of the metric that selects checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_tasks.errors import RecipeError
from resnet_tasks.evaluation.protocols import froc, kitti
from resnet_tasks.evaluation.protocols import surface_distance as surfaces
from resnet_tasks.evaluation.protocols.registry import build_extra_evaluator
from resnet_tasks.registry import suggest_nearest
from resnet_tasks.structures.evaluation import BackendEvaluator, Evaluator
from resnet_tasks.structures.tasks import DescribedHead

Evaluators = Mapping[str, Sequence[Evaluator]]
"""Head name -> its evaluators; each of them receives every image that is annotated for the head."""


Extra = Mapping[str, Mapping[str, Mapping[str, Any] | None]]
"""Head name -> name of an additional evaluator -> its options; None: default options."""


BUILT_IN_EVALUATORS = (froc, kitti, surfaces)
"""Modules of the additional evaluators, which register themselves at import; add new ones here."""


def build_evaluators(
    heads: Mapping[str, DescribedHead], *, backend: str = "hotcoco", extra: Extra | None = None
) -> Evaluators:
    """Create the evaluators of every head: that of its task, then the additional ones.

    Args:
        heads: Head name -> head.
        backend: Backend of COCO's metrics, `hotcoco` or `pycocotools`; both give the same numbers.
        extra: Additional evaluators.

    Raises:
        RecipeError: If an additional evaluator or its head is unknown, or an option is invalid; the
            message lists all problems.
    """
    evaluators = {
        name: [head.task_spec.build_evaluator(head.classes)] for name, head in heads.items()
    }
    for evaluator, *_ in evaluators.values():
        if isinstance(evaluator, BackendEvaluator):
            evaluator.backend = backend
    problems = []
    for name, head_extra in (extra or {}).items():
        if name not in heads:
            problems.append(
                f"evaluation.extra.{name}: there is no head {name!r}; the heads are "
                f"{', '.join(heads)}"
            )
            continue
        classes, task = heads[name].classes, heads[name].task_spec
        for evaluator_name, options in head_extra.items():
            try:
                evaluator = build_extra_evaluator(
                    evaluator_name, options, classes=classes, task=task
                )
                evaluators[name].append(evaluator)
            except RecipeError as error:
                problems.append(f"evaluation.extra.{name}: {error}")
    if problems:
        raise RecipeError("\n".join(problems))
    return evaluators


def select_extra(heads: Mapping[str, DescribedHead], metric: str, extra: Extra) -> Extra:
    """Return the additional evaluator that provides a metric; empty if the default evaluator does.

    Args:
        heads: Head name -> head.
        metric: `head/metric`.
        extra: Additional evaluators of the recipe.
    """
    head, _, metric_name = metric.partition("/")
    for name, options in extra.get(head, {}).items():
        selected = {head: {name: options}}
        if any(
            metric_name in evaluator.compute()
            for evaluator in build_evaluators(heads, extra=selected)[head][1:]
        ):
            return selected
    return {}


def add_calibration_evaluators(
    evaluators: Evaluators, heads: Mapping[str, DescribedHead]
) -> Evaluators:
    """Add a calibration evaluator to every head whose task has a separate one."""
    added = {
        name: head.task_spec.build_calibration_evaluator(head.classes)
        for name, head in heads.items()
    }
    return {
        name: [*head_evaluators, extra]
        if (extra := added.get(name)) is not None
        else list(head_evaluators)
        for name, head_evaluators in evaluators.items()
    }


def choose_best_metric(
    heads: Mapping[str, DescribedHead], requested: str | None, extra: Extra | None = None
) -> str:
    """Choose the metric that selects the best checkpoint, before training starts.

    Args:
        heads: Head name -> head.
        requested: `head/metric` of a recipe; None: the main metric of the first head.
        extra: Additional evaluators, whose metrics can also be chosen.

    Returns:
        `head/metric`.

    Raises:
        RecipeError: If the requested metric does not exist, or an additional evaluator is invalid.
    """
    evaluators = build_evaluators(heads, extra=extra)
    main_metrics = {name: name_main_metric(name, head) for name, head in heads.items()}
    if requested is None:
        return next(iter(main_metrics.values()))
    if requested.split("/")[0] not in heads:
        raise RecipeError(
            f"evaluation.best is {requested!r}, but the heads are {', '.join(heads)}; write "
            "head/metric"
        )
    if requested in main_metrics.values():
        return requested
    metrics = [
        f"{name}/{metric}"
        for name in heads
        for evaluator in evaluators[name]
        for metric in evaluator.compute()
    ]
    if requested not in metrics:
        hint = suggest_nearest(requested, metrics)
        raise RecipeError(
            f"evaluation.best is {requested!r}, but the metrics are {', '.join(metrics)}{hint}"
        )
    return requested


def name_main_metric(name: str, head: DescribedHead) -> str:
    """Return the main metric of a head as `head/metric`."""
    return f"{name}/{head.task_spec.main_metric}"
