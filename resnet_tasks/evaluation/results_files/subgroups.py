"""Metrics of results files by subgroup of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from resnet_tasks.data.coco.read import read_coco
from resnet_tasks.data.subgroups.measured import Advance
from resnet_tasks.evaluation.results_files.file_evaluation import FileEvaluation
from resnet_tasks.evaluation.subgroups.compute import HeadEvaluation, compute_subgroup_metrics
from resnet_tasks.evaluation.subgroups.divide import ImageDivision, divide_images
from resnet_tasks.evaluation.uncertainty.bootstrap import Bootstrap


def divide_truth(
    truth: Path,
    keys: Sequence[str],
    *,
    images_root: Path | None = None,
    advance: Advance | None = None,
) -> tuple[ImageDivision, ...]:
    """Return the subgroup of every image of an annotation file, by each key.

    Args:
        truth: Path of the annotation file.
        keys: Keys of the image records, or measured keys; see `find_subgroups`.
        images_root: Folder of the images; see `read_coco`.
        advance: Progress callback of reading images.

    Raises:
        DataError: If a key does not divide the images, or an image cannot be read.
    """
    coco = read_coco(truth, images_root=images_root, for_evaluation=True)
    return divide_images([coco], coco.images.list_ids(), keys, advance=advance)


def add_subgroups(
    evaluation: FileEvaluation, divisions: Sequence[ImageDivision], bootstrap: Bootstrap
) -> FileEvaluation:
    """Add the metrics of every subgroup to the results.

    Args:
        evaluation: Results, whose evaluator has all images.
        divisions: Divisions of the images.
        bootstrap: Options of the intervals.
    """
    head = HeadEvaluation("", (evaluation.make_evaluator(),), evaluation.metrics)
    metrics = compute_subgroup_metrics([head], divisions, evaluation.groups, bootstrap)
    return replace(evaluation, subgroups=metrics)
