"""Evaluators beside a head's own: by name, with options of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from resnet_tasks.errors import RecipeError, ResnetTasksError
from resnet_tasks.metrics import Evaluator
from resnet_tasks.registry import EXTRA_EVALUATORS, did_you_mean


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


def extra_evaluator(
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
        made: ExtraEvaluator = EXTRA_EVALUATORS.get(name)
    except ResnetTasksError as error:
        raise RecipeError(str(error)) from None
    if made.task != task:
        fitting = [each for each in EXTRA_EVALUATORS if EXTRA_EVALUATORS.get(each).task == task]
        raise RecipeError(
            f"evaluator {name!r} judges {made.task}, the head does {task}; for it there are: "
            f"{', '.join(fitting) or 'none'}"
        )
    try:
        return made(classes, made.Options.model_validate(dict(options or {})))
    except ValidationError as error:
        problems = "; ".join(_problem(each, made.Options) for each in error.errors())
        allowed = ", ".join(made.Options.model_fields) or "none"
        raise RecipeError(
            f"options of evaluator {name!r}: {problems} (options are: {allowed})"
        ) from None


def _problem(error: Any, options: type[EvaluatorOptions]) -> str:
    key = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        return ": ".join(part for part in (key, f"{error['msg']}, got {error['input']!r}") if part)
    hint = did_you_mean(key, options.model_fields)
    return f"{key} is no option of it{hint}"
