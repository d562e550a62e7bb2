"""Results files of boxes; a clean file is passed directly to the compiled evaluator."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from resnet_tasks.data.coco.results import ResultColumns, read_results
from resnet_tasks.data.coco.truth import TruthFile, read_truth
from resnet_tasks.evaluation.coco.detection import DetectionEvaluator
from resnet_tasks.evaluation.coco.image_blocks import ImageBlock
from resnet_tasks.evaluation.coco.matching import Objects
from resnet_tasks.evaluation.coco.metrics import build_coco_metrics, describe_protocol
from resnet_tasks.evaluation.results_files.fast_boxes import compute_tables_fast
from resnet_tasks.evaluation.results_files.file_evaluation import (
    FileEvaluation,
    build_file_evaluation,
    describe_problems,
)

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
    groups, notes = expected.images.list_groups(), describe_problems(expected)
    if backend == "hotcoco":
        tables = compute_tables_fast(expected, results, LIMITS)
        if tables is not None:
            return FileEvaluation(
                build_coco_metrics(tables, expected.categories.names, LIMITS),
                describe_protocol("box", "bbox", backend, LIMITS),
                backend,
                lambda: build_evaluator(expected, read_results(results, expected), backend),
                groups,
                notes,
            )
    detections = read_results(results, expected)
    evaluator = build_evaluator(expected, detections, backend)
    notes += _build_corner_note(expected, detections)
    return build_file_evaluation(evaluator, backend, groups, notes)


def build_evaluator(
    expected: TruthFile, results: ResultColumns, backend: str
) -> DetectionEvaluator:
    """Create an evaluator with all images of the files.

    Args:
        expected: Objects of the annotation file.
        results: Columns of the results file.
        backend: Key in `BOX_BACKENDS`.
    """
    assert results.boxes is not None, "box results have boxes"
    annotations = expected.annotations
    evaluator = DetectionEvaluator(expected.categories.names, backend=backend)
    evaluator.update_block(
        ImageBlock(
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
                results.boxes[:, 2] * results.boxes[:, 3],
                results.scores,
                np.zeros(len(results.scores), np.bool_),
            ),
            results.boxes,
        )
    )
    return evaluator


def _build_corner_note(truth: TruthFile, detections: ResultColumns) -> tuple[str, ...]:
    """Return a note if most boxes extend beyond their images, which suggests xyxy boxes."""
    assert detections.boxes is not None, "box results have boxes"
    if not len(detections.boxes):
        return ("the results are empty: nothing was detected in any image",)
    height, width = truth.images.sizes[detections.images].T
    ends = detections.boxes[:, :2] + detections.boxes[:, 2:]
    fraction = float(((ends[:, 0] > width + 1) | (ends[:, 1] > height + 1)).mean())
    if fraction < 0.5:
        return ()
    note = (
        f"{fraction:.0%} of the boxes extend beyond their images; boxes are read as [x, y, width, "
        "height]: are these corners [x1, y1, x2, y2], or pixels of a resized image?"
    )
    return (note,)
