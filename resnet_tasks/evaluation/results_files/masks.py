"""Results files of instance masks, evaluated image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from resnet_tasks.data.coco.columns.read_columns import read_result_columns, read_truth_columns
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.instance_masks import InstanceMaskEvaluator
from resnet_tasks.evaluation.results_files.file_evaluation import (
    FileEvaluation,
    build_file_evaluation,
    describe_problems,
)
from resnet_tasks.structures.evaluation import GroundTruth


def evaluate_file(truth: Path, results: Path, backend: str) -> FileEvaluation:
    """Evaluate the masks of a results file.

    Args:
        truth: Path of the annotation file, COCO JSON.
        results: Path of the COCO results JSON with `segmentation`s.
        backend: Key in `BOX_BACKENDS`.

    Raises:
        DataError: If a file is invalid; the message lists the first invalid entries.
    """
    expected = read_truth_columns(truth, kind="mask")
    detections = read_result_columns(results, expected, kind="mask")
    evaluator = InstanceMaskEvaluator(expected.categories.names, backend=backend, keeps_masks=True)
    number = len(expected.image_ids)
    truth_rows_by_image = _group_rows_by_image(expected.images, number)
    detection_rows_by_image = _group_rows_by_image(detections.images, number)
    for image, image_id in enumerate(expected.image_ids):
        truth_rows, detection_rows = truth_rows_by_image[image], detection_rows_by_image[image]
        height, width = expected.sizes[image].tolist()
        try:
            evaluator.update_masks(
                [detections.segmentations[row] for row in detection_rows],
                detections.labels[detection_rows],
                detections.scores[detection_rows],
                GroundTruth(
                    image_id,
                    (height, width),
                    expected.boxes[truth_rows],
                    expected.labels[truth_rows],
                    expected.crowd[truth_rows],
                    expected.areas[truth_rows],
                    segmentations=tuple(expected.segmentations[row] for row in truth_rows),
                ),
                boxes=None if detections.boxes is None else detections.boxes[detection_rows],
            )
        except DataError as error:  # The results were checked on reading.
            raise DataError(f"{truth}: {error}; fix the annotation") from None
    return build_file_evaluation(evaluator, backend, expected.groups, describe_problems(expected))


def _group_rows_by_image(images: np.ndarray[Any, Any], number: int) -> list[np.ndarray[Any, Any]]:
    order = np.argsort(images, kind="stable")
    return np.split(order, np.searchsorted(images[order], np.arange(1, number)))
