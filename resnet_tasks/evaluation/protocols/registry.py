"""Additional evaluators of a head, selected by name and configured by options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from pydantic import ConfigDict

from resnet_tasks.errors import RecipeError, ResnetTasksError
from resnet_tasks.options import DescribedModel, validate_options
from resnet_tasks.registry import EXTRA_EVALUATORS
from resnet_tasks.structures.evaluation import Evaluator
from resnet_tasks.structures.tasks import Task


class EvaluatorOptions(DescribedModel):
    """Base class of evaluator options: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ExtraEvaluator(Protocol):
    """Type of the entries of `EXTRA_EVALUATORS`: a class of evaluators with options, for one task.

    Attributes:
        Options: Class of its options.
        task: Name of the task whose predictions it evaluates.
    """

    Options: ClassVar[type[EvaluatorOptions]]
    task: ClassVar[str]

    def __call__(self, classes: Sequence[str], options: Any) -> Evaluator:
        """Create an evaluator for a head with these classes."""
        ...


def build_extra_evaluator(
    name: str, options: Mapping[str, Any] | None, *, classes: Sequence[str], task: Task
) -> Evaluator:
    """Create an additional evaluator for one head.

    Args:
        name: Key in `EXTRA_EVALUATORS`.
        options: Options of the evaluator; None: its defaults.
        classes: Class names of the head, in label order.
        task: Task of the head.

    Raises:
        RecipeError: If the evaluator does not exist or belongs to another task, or an option is
            invalid; the message lists all invalid options.
    """
    try:
        evaluator_class: ExtraEvaluator = EXTRA_EVALUATORS.get(name)
    except ResnetTasksError as error:
        raise RecipeError(str(error)) from None
    accepted_tasks = (task.name, *task.evaluator_families)
    if evaluator_class.task not in accepted_tasks:
        fitting = [
            evaluator_name
            for evaluator_name in EXTRA_EVALUATORS
            if EXTRA_EVALUATORS.get(evaluator_name).task in accepted_tasks
        ]
        raise RecipeError(
            f"evaluator {name!r} evaluates {evaluator_class.task}, but the task of the head is "
            f"{task.name}; its evaluators are: {', '.join(fitting) or 'none'}"
        )
    return evaluator_class(
        classes,
        validate_options(evaluator_class.Options, options, RecipeError, f"evaluator {name!r}"),
    )
