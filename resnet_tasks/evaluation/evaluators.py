"""Evaluators of each head, and the choice of the metric that selects checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resnet_tasks.best_metric import BEST_FORM, join_best_metric, split_best_metric
from resnet_tasks.errors import RecipeError
from resnet_tasks.evaluation.protocols import froc, kitti
from resnet_tasks.evaluation.protocols import surface_distance as surfaces
from resnet_tasks.evaluation.protocols.registry import build_extra_evaluator
from resnet_tasks.registry import suggest_nearest
from resnet_tasks.structures.evaluation import BackendEvaluator, Evaluator, Metric
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


def select_extra(heads: Mapping[str, DescribedHead], best: str, extra: Extra) -> Extra:
    """Return the additional evaluators that the metric of the best checkpoint needs.

    Args:
        heads: Head name -> head.
        best: `evaluation.best`: `head/metric`, or the mean of several.
        extra: Additional evaluators of the recipe.

    Returns:
        The part of `extra` that provides these metrics; empty if the evaluators of the tasks do.
    """
    selected: dict[str, dict[str, Mapping[str, Any] | None]] = {}
    for metric in split_best_metric(best):
        head, _, metric_name = metric.partition("/")
        for name, options in extra.get(head, {}).items():
            evaluators = build_evaluators(heads, extra={head: {name: options}})[head]
            if any(metric_name in evaluator.compute() for evaluator in evaluators[1:]):
                selected.setdefault(head, {})[name] = options
                break
    return selected


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
        requested: `head/metric` of a recipe, or the mean of several; None: the main metric of the
            first head.
        extra: Additional evaluators, whose metrics can also be chosen.

    Returns:
        `head/metric`, or `mean(head/metric, ...)`.

    Raises:
        RecipeError: If a requested metric does not exist, the mean is not defined, or an additional
            evaluator is invalid.
    """
    evaluators = build_evaluators(heads, extra=extra)
    if requested is None:
        return next(name_main_metric(name, head) for name, head in heads.items())
    try:
        names = split_best_metric(requested)
    except ValueError as error:
        raise RecipeError(str(error)) from None
    metrics: dict[str, Metric] = {}
    for head, head_evaluators in evaluators.items():
        for evaluator in head_evaluators:
            metrics |= {f"{head}/{name}": value for name, value in evaluator.compute().items()}
    for name in names:
        if name.split("/")[0] not in heads:
            raise RecipeError(
                f"evaluation.best is {requested!r}, but the heads are {', '.join(heads)}; write "
                f"{BEST_FORM}"
            )
        if name not in metrics:
            hint = suggest_nearest(name, metrics)
            raise RecipeError(
                f"evaluation.best is {requested!r}, but the metrics are {', '.join(metrics)}{hint}"
            )
    _require_same_scale({name: metrics[name] for name in names})
    return join_best_metric(names)


def _require_same_scale(metrics: Mapping[str, Metric]) -> None:
    """Require that the mean of metrics is defined.

    Raises:
        RecipeError: If they have different units, or lower values are better for some of them only.
    """
    first, *others = metrics
    for other in others:
        one, two = metrics[first], metrics[other]
        if (one.unit, one.lower_is_better) != (two.unit, two.lower_is_better):
            descriptions = (
                f"{name} is {f'in {metric.unit}' if metric.unit else 'a fraction'}"
                f" ({'lower' if metric.lower_is_better else 'higher'} is better)"
                for name, metric in ((first, one), (other, two))
            )
            raise RecipeError(
                f"evaluation.best: the mean of {first} and {other} is not defined, because "
                f"{' and '.join(descriptions)}; choose metrics of the same kind"
            )


def compute_best_metric(best: str, metrics: Mapping[str, Metric]) -> Metric:
    """Compute the value that selects the best checkpoint.

    Args:
        best: Result of `choose_best_metric`.
        metrics: `head/metric` -> metric of an evaluation.

    Returns:
        The metric, or the mean; its value is None if one of the metrics is undefined or missing.
    """
    parts = [metrics.get(name, Metric(None)) for name in split_best_metric(best)]
    values = [part.value for part in parts if part.value is not None]
    value = sum(values) / len(values) if len(values) == len(parts) else None
    return Metric(value, unit=parts[0].unit, lower_is_better=parts[0].lower_is_better)


def name_main_metric(name: str, head: DescribedHead) -> str:
    """Return the main metric of a head as `head/metric`."""
    return f"{name}/{head.task_spec.main_metric}"
