"""Results files of boxes; a clean file is passed directly to the compiled evaluator."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.results import ResultColumns, read_results
from resnet_tasks.data.coco.truth import TruthFile, read_truth
from resnet_tasks.evaluation.coco.backends import CocoTables
from resnet_tasks.evaluation.coco.detection import DetectionEvaluator
from resnet_tasks.evaluation.coco.metrics import build_coco_metrics, describe_protocol
from resnet_tasks.evaluation.results_files.fast_boxes import compute_tables_fast
from resnet_tasks.evaluation.results_files.file_evaluation import (
    FileEvaluation,
    build_block,
    describe_problems,
)
from resnet_tasks.evaluation.results_files.hints import find_box_format_hints, find_hints

LIMITS = (1, 10, 100)
"""COCO's limits of detections per image and class."""


def evaluate_file(truth: Path, results: Path, backend: str) -> FileEvaluation:
    """Evaluate the boxes of a results file.

    Args:
        truth: Path of the annotation file, COCO JSON.
        results: Path of the COCO results JSON.
        backend: Key in `BOX_BACKENDS`.

    Raises:
        DataError: If a file is invalid; the message lists the first invalid entries.
    """
    expected = read_truth(truth)
    load = cache(lambda: read_results(results, expected))
    tables = compute_tables_fast(expected, results, LIMITS) if backend == "hotcoco" else None
    make_evaluator = cache(lambda: build_evaluator(expected, load(), backend, tables=tables))
    metrics = (
        make_evaluator().compute()
        if tables is None
        else build_coco_metrics(tables, expected.categories.names, LIMITS)
    )
    ap50 = metrics["AP50"].value

    def find_all_hints() -> tuple[str, ...]:
        return (
            *load().notes,
            *find_box_format_hints(
                expected, load(), ap50, lambda boxes: _evaluate_boxes(expected, load(), boxes)
            ),
            *find_hints(expected, load(), make_evaluator(), ap50),
        )

    return FileEvaluation(
        metrics,
        describe_protocol("box", "bbox", backend, LIMITS),
        backend,
        make_evaluator,
        expected.images.list_groups(),
        describe_problems(expected),
        find_all_hints,
    )


def _evaluate_boxes(
    expected: TruthFile, results: ResultColumns, boxes: NDArray[np.float64]
) -> tuple[float, float]:
    """Compute the AP, and the AP at IoU 0.5, of results with other boxes."""
    metrics = build_evaluator(expected, replace(results, boxes=boxes), "hotcoco").compute()
    return metrics["AP"].value or 0.0, metrics["AP50"].value or 0.0


def build_evaluator(
    expected: TruthFile,
    results: ResultColumns,
    backend: str,
    *,
    tables: CocoTables | None = None,
) -> DetectionEvaluator:
    """Create an evaluator with all images of the files.

    Args:
        expected: Objects of the annotation file.
        results: Columns of the results file.
        backend: Key in `BOX_BACKENDS`.
        tables: Tables of the same files, if they were already computed by the backend.
    """
    assert results.boxes is not None, "box results have boxes"
    evaluator = DetectionEvaluator(expected.categories.names, backend=backend)
    evaluator.update_block(build_block(expected, results))
    if tables is not None:
        evaluator.reuse_tables(tables)
    return evaluator
