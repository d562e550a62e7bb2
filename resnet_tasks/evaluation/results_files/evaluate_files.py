"""Evaluation of results files from any source, without model, images and torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.backends import BOX_BACKENDS
from resnet_tasks.evaluation.results_files.file_evaluation import FileEvaluation
from resnet_tasks.structures.evaluation import Metric

_BOXES = "resnet_tasks.evaluation.results_files.boxes"
_MASKS = "resnet_tasks.evaluation.results_files.masks"
_SEMANTIC = "resnet_tasks.evaluation.results_files.semantic"
_BOX_PROTOCOLS = "resnet_tasks.evaluation.results_files.box_protocols"
"""Modules imported on demand: their imports (Pillow, safetensors, threads) take 10 to 20 ms, as
long as evaluating a small file of boxes."""

_FUNCTIONS = {
    "box": (_BOXES, "evaluate_file"),
    "mask": (_MASKS, "evaluate_file"),
    "semantic": (_SEMANTIC, "evaluate_file"),
    "surface": (_SEMANTIC, "evaluate_surfaces"),
    "froc": (_BOX_PROTOCOLS, "evaluate_froc"),
    "kitti": (_BOX_PROTOCOLS, "evaluate_kitti"),
}
"""Task -> module and name of the function that evaluates its files."""
TASKS = tuple(_FUNCTIONS)
"""Supported contents and metrics of a results file."""
COCO_TASKS = ("box", "mask")
"""Tasks that are evaluated by a backend."""
TASKS_WITH_OPTIONS = ("surface", "froc", "kitti")
"""Tasks whose metrics have options, those of the evaluators of the same name in a recipe."""


def evaluate_results(
    truth: str | Path,
    results: str | Path,
    *,
    task: str = "box",
    backend: str = "hotcoco",
    options: Mapping[str, Any] | None = None,
) -> dict[str, Metric]:
    """Compute the metrics of a results file.

    Args:
        truth: Path of the annotation file, COCO JSON; small defects (missing `info`, `iscrowd`,
            `area`, ids) are repaired on reading.
        results: Path of the COCO results JSON: a list of `{image_id, category_id, bbox: [x, y, w,
            h], score}`; for masks with `segmentation`. For `semantic` and `surface`, path of a
            folder of PNGs of category ids, named like the `sem_seg_file_name`s of the annotation
            file.
        task: `box` or `mask` (COCO's metrics), `semantic` (mIoU, Dice), `surface` (HD95, NSD),
            `froc` (sensitivity by false positives per image) or `kitti` (KITTI's AP).
        backend: `hotcoco` or `pycocotools` for COCO's metrics; both give the same numbers.
        options: Options of `surface`, `froc` or `kitti`, as in `evaluation.extra` of a recipe;
            None: the defaults.

    Returns:
        The 12 COCO metrics, or the metrics of the evaluator of the task, each with its value per
        category.

    Raises:
        DataError: If the task, backend or an option is invalid, or a file is; the message lists the
            first invalid entries.
    """
    return _evaluate(Path(truth), Path(results), task, backend, options or {}).metrics


def evaluate_results_file(
    truth: str | Path,
    results: str | Path,
    *,
    task: str = "box",
    backend: str = "hotcoco",
    options: Mapping[str, Any] | None = None,
) -> FileEvaluation:
    """Evaluate a results file, and keep the matches for `details` and `resample`.

    The notes contain hints if the results were probably meant differently than they are read.

    Args:
        truth: Path of the annotation file; see `evaluate_results`.
        results: Path of the results file or folder; see `evaluate_results`.
        task: Content and metrics of the results; see `evaluate_results`.
        backend: `hotcoco` or `pycocotools` for COCO's metrics; both give the same numbers.
        options: Options of the task; see `evaluate_results`.

    Raises:
        DataError: If the task, backend or an option is invalid, or a file is.
    """
    evaluation = _evaluate(Path(truth), Path(results), task, backend, options or {})
    return replace(evaluation, notes=evaluation.notes + evaluation.find_hints())


def _evaluate(
    truth: Path, results: Path, task: str, backend: str, options: Mapping[str, Any]
) -> FileEvaluation:
    if backend not in BOX_BACKENDS:
        raise DataError(f"evaluator {backend!r} is unknown; known: {', '.join(BOX_BACKENDS)}")
    if task not in TASKS:
        raise DataError(f"task {task!r} is unknown; known: {', '.join(TASKS)}")
    if options and task not in TASKS_WITH_OPTIONS:
        raise DataError(
            f"task {task!r} has no options, got {', '.join(options)}; tasks with options: "
            f"{', '.join(TASKS_WITH_OPTIONS)}"
        )
    module, name = _FUNCTIONS[task]
    function: Callable[..., FileEvaluation] = getattr(import_module(module), name)
    if task in COCO_TASKS:
        return function(truth, results, backend)
    return function(truth, results, *([options] if task in TASKS_WITH_OPTIONS else []))
