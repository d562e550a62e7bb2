"""Folders of label maps as results of semantic segmentation."""

from __future__ import annotations

from pathlib import Path

from resnet_tasks.data.coco import read_coco
from resnet_tasks.data.semantic_maps import read_semantic
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.judged import JudgedResults, judged_by
from resnet_tasks.evaluation.segmentation import SegmentationEvaluator
from resnet_tasks.metrics import UNLABELLED, VOID, Truth


def judge(truth: Path, results: Path, _: str) -> JudgedResults:
    """Label maps in a folder.

    Args:
        truth: COCO JSON whose pictures have `sem_seg_file_name`s.
        results: Folder of PNGs of category ids, named as those are.

    Raises:
        DataError: If a file is wrong, missing, or leaves labelled pixels unanswered.
    """
    coco = read_coco(truth)
    if not results.is_dir():
        raise DataError(
            f"{results} is not a folder; results of semantic segmentation are a folder of PNGs of "
            "category ids, each named as the truth's `sem_seg_file_name`"
        )
    records = [each for each in coco.images if each.sem_seg_file_name is not None]
    if not records:
        raise DataError(
            f"{truth}: no image has a `sem_seg_file_name`; there are no pixels to judge"
        )
    names = [str(each.sem_seg_file_name) for each in records]
    missing = [name for name in names if not (results / name).is_file()]
    if missing:
        raise DataError(
            f"{results}: {len(missing)} of {len(names)} label maps are not there, the first is "
            f"{missing[0]}; name each as the truth's `sem_seg_file_name`"
        )
    evaluator = SegmentationEvaluator(coco.categories.names)
    for record, name in zip(records, names, strict=True):
        size = (record.height, record.width)
        expected = read_semantic(coco.sem_seg_root / name, coco.categories, size)
        expected[expected == UNLABELLED] = VOID
        labels = read_semantic(results / name, coco.categories, size)
        unanswered = (labels < 0) & (expected != VOID)
        if unanswered.any():
            raise DataError(
                f"{results / name} names no category (0 or void) on {int(unanswered.sum())} pixels "
                "that the truth labels; give each of them a category id"
            )
        evaluator.update_labels(labels, Truth(record.id, size, semantic=expected))
    groups = {each.id: each.group for each in records if each.group is not None}
    left_out = len(coco.images) - len(records)
    note = f"{left_out} pictures without `sem_seg_file_name` are not judged"
    notes = (note,) if left_out else ()
    return judged_by(evaluator, "resnet_tasks confusion matrix", groups, notes)
