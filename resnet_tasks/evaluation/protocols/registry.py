"""Evaluators beside a head's own: by name, with options of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from resnet_tasks.errors import RecipeError, ResnetTasksError
from resnet_tasks.registry import EXTRA_EVALUATORS, suggest_nearest
from resnet_tasks.structures.evaluation import Evaluator


class EvaluatorOptions(BaseModel):
    """Base of the options of evaluators: frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ExtraEvaluator(Protocol):
    """What `EXTRA_EVALUATORS` holds: an `Evaluator` class with options, for heads of one task.

    Attributes:
        Options: Its options.
        task: Name of the task whose predictions it takes.
    """

    Options: ClassVar[type[EvaluatorOptions]]
    task: ClassVar[str]

    def __call__(self, classes: Sequence[str], options: Any) -> Evaluator:
        """A fresh one for a head with these classes."""
        ...


def build_extra_evaluator(
    name: str, options: Mapping[str, Any] | None, *, classes: Sequence[str], task: str
) -> Evaluator:
    """An additional evaluator for one head.

    Args:
        name: In `EXTRA_EVALUATORS`.
        options: Of that evaluator; None: its defaults.
        classes: Of the head.
        task: Name of the head's task.

    Raises:
        RecipeError: If there is no such evaluator, it is for another task, or an option is wrong;
            all problems of the options in one message.
    """
    try:
        evaluator_class: ExtraEvaluator = EXTRA_EVALUATORS.get(name)
    except ResnetTasksError as error:
        raise RecipeError(str(error)) from None
    if evaluator_class.task != task:
        fitting = [
            evaluator_name
            for evaluator_name in EXTRA_EVALUATORS
            if EXTRA_EVALUATORS.get(evaluator_name).task == task
        ]
        raise RecipeError(
            f"evaluator {name!r} judges {evaluator_class.task}, the head does {task}; for it there "
            "are: "
            f"{', '.join(fitting) or 'none'}"
        )
    try:
        return evaluator_class(classes, evaluator_class.Options.model_validate(dict(options or {})))
    except ValidationError as error:
        problems = "; ".join(
            _describe_problem(issue, evaluator_class.Options) for issue in error.errors()
        )
        allowed = ", ".join(evaluator_class.Options.model_fields) or "none"
        raise RecipeError(
            f"options of evaluator {name!r}: {problems} (options are: {allowed})"
        ) from None


def _describe_problem(error: Any, options: type[EvaluatorOptions]) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        return ": ".join(part for part in (key, f"{error['msg']}, got {error['input']!r}") if part)
    hint = suggest_nearest(key, options.model_fields)
    return f"{key} is no option of it{hint}"
