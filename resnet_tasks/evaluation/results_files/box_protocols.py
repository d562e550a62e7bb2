"""Results files of boxes, evaluated by the protocols of other fields than COCO's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resnet_tasks.data.coco.results import read_results
from resnet_tasks.data.coco.truth import read_complete_truth
from resnet_tasks.data.datasets.ground_truth import build_truth
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.image_blocks import group_rows_by_image
from resnet_tasks.evaluation.numerics.box_overlap import xywh_to_xyxy
from resnet_tasks.evaluation.protocols.froc import FrocEvaluator, FrocOptions
from resnet_tasks.evaluation.protocols.kitti import KittiEvaluator, KittiOptions
from resnet_tasks.evaluation.results_files.file_evaluation import (
    FileEvaluation,
    build_file_evaluation,
    describe_problems,
)
from resnet_tasks.evaluation.results_files.hints import find_missing_images
from resnet_tasks.options import validate_options
from resnet_tasks.structures.predictions.detections import Detections


def evaluate_froc(truth: Path, results: Path, options: Mapping[str, Any]) -> FileEvaluation:
    """Evaluate the boxes of a results file by FROC.

    Args:
        truth: Path of the annotation file, COCO JSON; `group` of an image is its patient.
        results: Path of the COCO results JSON.
        options: Values of `FrocOptions`.

    Raises:
        DataError: If an option or a file is invalid.
    """
    checked = validate_options(FrocOptions, options, DataError, "task 'froc'")
    return _evaluate(truth, results, lambda classes: FrocEvaluator(classes, checked), "CPM")


def evaluate_kitti(truth: Path, results: Path, options: Mapping[str, Any]) -> FileEvaluation:
    """Evaluate the boxes of a results file by KITTI's average precision.

    Args:
        truth: Path of the annotation file, COCO JSON, with `occluded` and `truncated`.
        results: Path of the COCO results JSON.
        options: Values of `KittiOptions`.

    Raises:
        DataError: If an option or a file is invalid.
    """
    checked = validate_options(KittiOptions, options, DataError, "task 'kitti'")
    return _evaluate(
        truth, results, lambda classes: KittiEvaluator(classes, checked), "KITTI_AP_hard"
    )


def _evaluate(
    truth: Path,
    results: Path,
    build_evaluator: Callable[[Sequence[str]], FrocEvaluator | KittiEvaluator],
    main_metric: str,
) -> FileEvaluation:
    """Add all images of the ground truth to an evaluator, and compute its metrics."""
    expected, coco = read_complete_truth(truth)
    detections = read_results(results, expected)
    assert detections.boxes is not None, "box results have boxes"
    classes = expected.categories.names
    evaluator = build_evaluator(classes)
    boxes: Any = xywh_to_xyxy(detections.boxes)
    labels: Any = detections.labels
    scores: Any = detections.scores
    rows_by_image = group_rows_by_image(detections.images, len(coco.images))
    for record, rows in zip(coco.images, rows_by_image, strict=True):
        evaluator.update(
            # In the order of the file, on which KITTI's matching depends.
            Detections(boxes[rows], scores[rows], labels[rows]),
            build_truth(coco, record, record.id, range(len(classes))),
        )
    notes = (*describe_problems(expected), *detections.notes, *evaluator.details().get("notes", ()))
    evaluation = build_file_evaluation(
        evaluator, f"resnet_tasks {type(evaluator).__name__}", expected.images.list_groups(), notes
    )
    return replace(
        evaluation,
        find_hints=lambda: find_missing_images(expected, detections, evaluator, main_metric),
    )
