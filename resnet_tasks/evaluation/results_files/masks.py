"""Results files of instance masks, evaluated image by image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from resnet_tasks.data.coco.results import read_results
from resnet_tasks.data.coco.truth import read_truth
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.instance_masks import InstanceMaskEvaluator
from resnet_tasks.evaluation.results_files.file_evaluation import (
    FileEvaluation,
    build_file_evaluation,
    describe_problems,
    group_rows_by_image,
)
from resnet_tasks.evaluation.results_files.hints import find_hints
from resnet_tasks.files.json_files import disable_gc
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
    with disable_gc():  # None of the many small objects is part of a cycle.
        return _evaluate_file(truth, results, backend)


def _evaluate_file(truth: Path, results: Path, backend: str) -> FileEvaluation:
    expected = read_truth(truth, masks=True)
    detections = read_results(results, expected, kind="mask")
    evaluator = InstanceMaskEvaluator(expected.categories.names, backend=backend, keeps_masks=True)
    annotations, sizes = expected.annotations, expected.images.sizes.tolist()
    labels = annotations.labels
    detection_rows_by_image = group_rows_by_image(detections.images, len(sizes))
    for image, image_id in enumerate(expected.images.list_ids()):
        rows, detection_rows = annotations.get_rows(image), detection_rows_by_image[image]
        height, width = sizes[image]
        try:
            evaluator.update_masks(
                [detections.segmentations[row] for row in detection_rows],
                detections.labels[detection_rows],
                detections.scores[detection_rows],
                GroundTruth(
                    image_id,
                    (height, width),
                    annotations.boxes[rows],
                    labels[rows],
                    annotations.crowd[rows],
                    annotations.areas[rows],
                    segmentations=tuple(
                        map(annotations.get_segmentation, range(rows.start, rows.stop))
                    ),
                ),
                boxes=None if detections.boxes is None else detections.boxes[detection_rows],
                is_checked=True,
            )
        except DataError as error:  # The results were checked on reading.
            raise DataError(f"{truth}: {error}; fix the annotation") from None
    notes = describe_problems(expected) + detections.notes
    evaluation = build_file_evaluation(evaluator, backend, expected.images.list_groups(), notes)
    ap50 = evaluation.metrics["AP50"].value
    return replace(evaluation, find_hints=lambda: find_hints(expected, detections, evaluator, ap50))
