"""Results files of instance masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from resnet_tasks.data.coco.masks import measure_rles
from resnet_tasks.data.coco.results import read_results
from resnet_tasks.data.coco.truth import TruthFile, read_truth
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.coco.instance_masks import InstanceMaskEvaluator, encode_truth_masks
from resnet_tasks.evaluation.results_files.file_evaluation import (
    FileEvaluation,
    build_block,
    build_file_evaluation,
    describe_problems,
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
    try:
        truth_masks = _encode_masks(expected)
        evaluator.update_block(
            build_block(expected, detections), truth_masks, detections.segmentations
        )
    except DataError as error:  # The results were checked on reading.
        raise DataError(f"{truth}: {error}; fix the annotation") from None
    notes = describe_problems(expected) + detections.notes
    evaluation = build_file_evaluation(evaluator, backend, expected.images.list_groups(), notes)
    ap50 = evaluation.metrics["AP50"].value
    return replace(evaluation, find_hints=lambda: find_hints(expected, detections, evaluator, ap50))


def _encode_masks(expected: TruthFile) -> list[Any]:
    """Return the compressed run lengths of all annotated objects.

    Raises:
        DataError: If an object has no mask, or a mask is invalid.
    """
    annotations, sizes = expected.annotations, expected.images.sizes
    segmentations = list(map(annotations.get_segmentation, range(len(annotations.areas))))
    if measure_rles(segmentations, sizes, annotations.image_positions) is not None:
        return segmentations
    masks: list[Any] = []
    for image, image_id in enumerate(expected.images.list_ids()):
        rows = annotations.get_rows(image)
        height, width = sizes[image].tolist()
        masks += encode_truth_masks(
            GroundTruth(
                image_id,
                (height, width),
                labels=annotations.labels[rows],
                segmentations=tuple(segmentations[rows]),
            )
        )
    return masks
