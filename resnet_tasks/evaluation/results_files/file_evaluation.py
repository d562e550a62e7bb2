"""A results file, matched to its truth: numbers, who made them, and what else is to be said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from resnet_tasks.data.coco.columns.object_columns import TruthColumns
from resnet_tasks.structures.evaluation import Evaluator, Metric


@dataclass(frozen=True)
class FileEvaluation:
    """A results file, matched to its truth.

    Attributes:
        metrics: All numbers.
        protocol: How they are counted, in one sentence.
        backend: Who made them.
        make_evaluator: Gives the evaluator that has seen all images, for `details` and
            `resample`.
        groups: Id of an image -> its group, where it has one.
        notes: What was repaired or looks odd, in sentences.
    """

    metrics: dict[str, Metric]
    protocol: str
    backend: str
    make_evaluator: Callable[[], Evaluator]
    groups: Mapping[int | str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def build_file_evaluation(
    evaluator: Evaluator, backend: str, groups: Mapping[int | str, str], notes: tuple[str, ...]
) -> FileEvaluation:
    """What an evaluator that has seen all images says.

    Args:
        evaluator: Is kept.
        backend: Who does the matching.
        groups: Id of an image -> its group, where it has one.
        notes: What was repaired or looks odd, in sentences.
    """
    metrics = evaluator.compute()
    return FileEvaluation(metrics, evaluator.protocol, backend, lambda: evaluator, groups, notes)


def describe_problems(columns: TruthColumns) -> tuple[str, ...]:
    """What was repaired in a truth of boxes or masks, and what looks odd, in sentences."""
    notes = [
        problem.message
        for problem in columns.problems
        if problem.severity in ("repaired", "warning")
    ]
    if not len(columns.labels):
        notes.append(f"{columns.path} holds no object: there is nothing to find, and no metric")
    negative = int((columns.boxes[:, 2:] < 0).any(axis=1).sum())
    if negative:
        notes.append(
            f"{columns.path}: {negative} object(s) have a box of negative width or height, which "
            "nothing can find; boxes are [x, y, width, height]"
        )
    return tuple(notes)
