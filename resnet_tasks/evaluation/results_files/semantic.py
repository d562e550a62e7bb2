"""Folders of label maps as results of semantic segmentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resnet_tasks.data.coco.dataset_file import CocoFile
from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.coco.semantic_maps import read_semantic_map
from resnet_tasks.data.images.find_images import find_file
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.protocols.surface_distance import SurfaceEvaluator, SurfaceOptions
from resnet_tasks.evaluation.results_files.file_evaluation import (
    FileEvaluation,
    build_file_evaluation,
)
from resnet_tasks.evaluation.segmentation import SegmentationEvaluator
from resnet_tasks.number_formats import Count
from resnet_tasks.options import validate_options
from resnet_tasks.structures.evaluation import UNLABELED, VOID, GroundTruth

_LabelMapEvaluator = SegmentationEvaluator | SurfaceEvaluator


def evaluate_file(truth: Path, results: Path) -> FileEvaluation:
    """Evaluate the label maps in a folder by mIoU and Dice.

    Args:
        truth: Path of the COCO JSON whose images have `sem_seg_file_name`s.
        results: Path of a folder of PNGs of category ids, named like the `sem_seg_file_name`s.

    Raises:
        DataError: If a file is invalid or missing, or has no category at an annotated pixel.
    """
    coco = read_coco(truth)
    evaluator = SegmentationEvaluator(coco.categories.names)
    return _evaluate_label_maps(coco, truth, results, evaluator, "resnet_tasks confusion matrix")


def evaluate_surfaces(truth: Path, results: Path, options: Mapping[str, Any]) -> FileEvaluation:
    """Evaluate the label maps in a folder by HD95 and surface Dice.

    Args:
        truth: Path of the COCO JSON whose images have `sem_seg_file_name`s.
        results: Path of a folder of label maps; see `evaluate_file`.
        options: Values of `SurfaceOptions`.

    Raises:
        DataError: If an option is invalid, or a file is; see `evaluate_file`.
    """
    coco = read_coco(truth)
    checked = validate_options(SurfaceOptions, options, DataError, "task 'surface'")
    evaluator = SurfaceEvaluator(coco.categories.names, checked)
    return _evaluate_label_maps(coco, truth, results, evaluator, "resnet_tasks surface distances")


def _evaluate_label_maps(
    coco: CocoFile, truth: Path, results: Path, evaluator: _LabelMapEvaluator, backend: str
) -> FileEvaluation:
    """Add the label maps of all images to an evaluator, and compute its metrics."""
    if not results.is_dir():
        raise DataError(
            f"{results} is not a folder; results of semantic segmentation are a folder of PNGs of "
            "category ids, each named like the `sem_seg_file_name` in the annotation file"
        )
    records = [record for record in coco.images if record.sem_seg_file_name is not None]
    if not records:
        raise DataError(
            f"{truth}: no image has a `sem_seg_file_name`; there are no pixels to evaluate"
        )
    names = [str(record.sem_seg_file_name) for record in records]
    missing = [name for name in names if find_file(results / name) is None]
    if missing:
        raise DataError(
            f"{results}: {len(missing)} of {len(names)} label maps are missing, the first is "
            f"{missing[0]}; name each file like the `sem_seg_file_name` in the annotation file"
        )
    for record, name in zip(records, names, strict=True):
        size = (record.height, record.width)
        expected = read_semantic_map(coco.sem_seg_root / name, coco.categories, size)
        expected[expected == UNLABELED] = VOID
        labels = read_semantic_map(results / name, coco.categories, size)
        unanswered = (labels < 0) & (expected != VOID)
        if unanswered.any():
            raise DataError(
                f"{results / name} has no category (0 or void) at "
                f"{Count(int(unanswered.sum())):labeled pixel} of the ground truth; give each of "
                "these pixels a category id"
            )
        evaluator.update_labels(
            labels, GroundTruth(record.id, size, semantic=expected, spacing=record.spacing)
        )
    groups = {record.id: record.group for record in records if record.group is not None}
    num_skipped = len(coco.images) - len(records)
    note = f"{Count(num_skipped):image has} no `sem_seg_file_name`; not evaluated"
    notes = (note,) if num_skipped else ()
    return build_file_evaluation(evaluator, backend, groups, notes)
