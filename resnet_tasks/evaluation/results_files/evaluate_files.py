"""Evaluation of results files from any source, without model, images and torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.backends import BOX_BACKENDS
from resnet_tasks.evaluation.results_files import boxes, masks
from resnet_tasks.evaluation.results_files.file_evaluation import FileEvaluation
from resnet_tasks.structures.evaluation import Metric

_SEMANTIC_MODULE = "resnet_tasks.evaluation.results_files.semantic"
"""Module imported on demand: its imports (Pillow, safetensors) take 20 ms, as long as evaluating a
small file of boxes."""


def evaluate_results(
    truth: str | Path, results: str | Path, *, task: str = "box", backend: str = "hotcoco"
) -> dict[str, Metric]:
    """Compute the metrics of a results file.

    Args:
        truth: Path of the annotation file, COCO JSON; small defects (missing `info`, `iscrowd`,
            `area`, ids) are repaired on reading.
        results: Path of the COCO results JSON: a list of `{image_id, category_id, bbox: [x, y, w,
            h], score}`; for masks with `segmentation`. For `semantic`, path of a folder of PNGs of
            category ids, named like the `sem_seg_file_name`s of the annotation file.
        task: `box`, `mask` or `semantic`.
        backend: `hotcoco` or `pycocotools`; both give the same numbers.

    Returns:
        The 12 COCO metrics, or the metrics of `SegmentationEvaluator`, each with its value per
        category.

    Raises:
        DataError: If a file is invalid; the message lists the first invalid entries.
    """
    return _evaluate(truth, results, task, backend).metrics


def evaluate_results_file(
    truth: str | Path, results: str | Path, *, task: str = "box", backend: str = "hotcoco"
) -> FileEvaluation:
    """Evaluate a results file, and keep the matches for `details` and `resample`.

    The notes contain hints if the results were probably meant differently than they are read.

    Args:
        truth: Path of the annotation file; see `evaluate_results`.
        results: Path of the results file or folder; see `evaluate_results`.
        task: `box`, `mask` or `semantic`.
        backend: `hotcoco` or `pycocotools`; both give the same numbers.

    Raises:
        DataError: If the backend or task is unknown, or a file is invalid.
    """
    evaluation = _evaluate(truth, results, task, backend)
    return replace(evaluation, notes=evaluation.notes + evaluation.find_hints())


def _evaluate(truth: str | Path, results: str | Path, task: str, backend: str) -> FileEvaluation:
    if backend not in BOX_BACKENDS:
        raise DataError(f"evaluator {backend!r} is unknown; known: {', '.join(BOX_BACKENDS)}")
    if task not in _EVALUATE_FUNCTIONS:
        raise DataError(f"task {task!r} is unknown; known: {', '.join(TASKS)}")
    return _EVALUATE_FUNCTIONS[task](Path(truth), Path(results), backend)


def _evaluate_semantic_maps(truth: Path, results: Path, backend: str) -> FileEvaluation:
    evaluation: FileEvaluation = import_module(_SEMANTIC_MODULE).evaluate_file(
        truth, results, backend
    )
    return evaluation


_EVALUATE_FUNCTIONS: Mapping[str, Callable[[Path, Path, str], FileEvaluation]] = {
    "box": boxes.evaluate_file,
    "mask": masks.evaluate_file,
    "semantic": _evaluate_semantic_maps,
}
TASKS = tuple(_EVALUATE_FUNCTIONS)
"""Supported contents of a results file."""
