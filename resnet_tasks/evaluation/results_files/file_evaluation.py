"""Results of the evaluation of a results file: metrics, backend and notes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from resnet_tasks.data.coco.results import ResultColumns
from resnet_tasks.data.coco.truth import TruthFile
from resnet_tasks.evaluation.coco.image_blocks import ImageBlock
from resnet_tasks.evaluation.coco.matching import Objects
from resnet_tasks.number_formats import Count
from resnet_tasks.structures.evaluation import Evaluator, Metric

if TYPE_CHECKING:
    from resnet_tasks.evaluation.subgroups.results import SubgroupMetrics


@dataclass(frozen=True)
class FileEvaluation:
    """Evaluation of a results file.

    Attributes:
        metrics: Metric name -> metric.
        protocol: Sentence that defines the metrics.
        backend: Name of the software that computed the metrics.
        make_evaluator: Function that returns the evaluator with all images, for `details` and
            `resample`.
        groups: Image id -> group, for images that have one.
        notes: Sentences on repaired defects and unusual values.
        find_hints: Function that returns sentences on how the results may have been meant; it may
            evaluate them again.
        subgroups: Metrics by subgroup of the images; None if they were not requested.
    """

    metrics: dict[str, Metric]
    protocol: str
    backend: str
    make_evaluator: Callable[[], Evaluator]
    groups: Mapping[int | str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    find_hints: Callable[[], tuple[str, ...]] = tuple
    subgroups: SubgroupMetrics | None = None


def build_file_evaluation(
    evaluator: Evaluator, backend: str, groups: Mapping[int | str, str], notes: tuple[str, ...]
) -> FileEvaluation:
    """Build the results of an evaluator to which all images were added.

    Args:
        evaluator: Evaluator; a reference to it is kept.
        backend: Name of the software that matches the objects.
        groups: Image id -> group, for images that have one.
        notes: Sentences on repaired defects and unusual values.
    """
    metrics = evaluator.compute()
    return FileEvaluation(metrics, evaluator.protocol, backend, lambda: evaluator, groups, notes)


def describe_problems(truth: TruthFile) -> tuple[str, ...]:
    """Describe repaired defects and unusual values of an annotation file, in sentences."""
    notes = [
        problem.message for problem in truth.problems if problem.severity in ("repaired", "warning")
    ]
    if not len(truth.annotations.areas):
        notes.append(f"{truth.path} contains no objects, so no metric is defined")
    negative = int((truth.annotations.boxes[:, 2:] < 0).any(axis=1).sum())
    if negative:
        notes.append(
            f"{truth.path}: {Count(negative):object has} a box of negative width or height, which "
            "no detection can match; boxes are [x, y, width, height]"
        )
    return tuple(notes)


def build_block(expected: TruthFile, results: ResultColumns) -> ImageBlock:
    """Build the block of all images of the files.

    Args:
        expected: Objects of the annotation file.
        results: Columns of the results file.
    """
    annotations, number = expected.annotations, len(results.scores)
    return ImageBlock(
        expected.images.list_ids(),
        Objects(
            annotations.image_positions,
            annotations.labels,
            annotations.areas,
            np.zeros(len(annotations.areas)),
            annotations.crowd,
        ),
        annotations.boxes,
        Objects(
            results.images,
            results.labels,
            results.areas,
            results.scores,
            np.zeros(number, np.bool_),
        ),
        np.zeros((number, 4)) if results.boxes is None else results.boxes,
    )
