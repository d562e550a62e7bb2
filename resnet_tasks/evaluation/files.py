"""Evaluation of results files, whoever made them: no model, no pictures, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from resnet_tasks.data.coco import read_coco
from resnet_tasks.data.coco_columns import (
    ResultColumns,
    TruthColumns,
    read_result_columns,
    read_truth_columns,
)
from resnet_tasks.data.semantic_maps import read_semantic
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.big_files import tables_of_clean_files
from resnet_tasks.evaluation.coco_tables import BOX_BACKENDS
from resnet_tasks.evaluation.detection import (
    Block,
    DetectionEvaluator,
    metrics_of,
    protocol_of,
)
from resnet_tasks.evaluation.instance_masks import InstanceMaskEvaluator
from resnet_tasks.evaluation.matches import Objects
from resnet_tasks.evaluation.segmentation import SegmentationEvaluator
from resnet_tasks.metrics import UNLABELLED, VOID, Evaluator, Metric, Truth

TASKS = ("box", "mask", "semantic")
"""What a results file can hold."""
LIMITS = (1, 10, 100)
"""COCO's limits of detections per picture and class."""


@dataclass(frozen=True)
class JudgedResults:
    """A results file, matched to its truth.

    Attributes:
        metrics: All numbers.
        protocol: How they are counted, in one sentence.
        made_by: Who made them.
        make_evaluator: Gives the evaluator that has seen all pictures, for `details` and
            `resample`.
        groups: Id of a picture -> its group, where it has one.
        notes: What was repaired or looks odd, in sentences.
    """

    metrics: dict[str, Metric]
    protocol: str
    made_by: str
    make_evaluator: Callable[[], Evaluator]
    groups: Mapping[int | str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def evaluate_results(
    truth: str | Path, results: str | Path, *, task: str = "box", backend: str = "hotcoco"
) -> dict[str, Metric]:
    """Metrics of a results file.

    Args:
        truth: COCO JSON; small defects (missing `info`, `iscrowd`, `area`, ids) are repaired on
            reading.
        results: COCO results JSON: a list of `{image_id, category_id, bbox: [x, y, w, h], score}`;
            for masks with `segmentation`. For `semantic` a folder of PNGs of category ids, named
            as the truth's `sem_seg_file_name`s are.
        task: `box`, `mask` or `semantic`.
        backend: `hotcoco` or `pycocotools`; they give the same numbers.

    Returns:
        The 12 COCO metrics, or mIoU and its companions, each with its value per category.

    Raises:
        DataError: If a file is wrong; the message names the first bad entries.
    """
    return judge_results(truth, results, task=task, backend=backend).metrics


def judge_results(
    truth: str | Path, results: str | Path, *, task: str = "box", backend: str = "hotcoco"
) -> JudgedResults:
    """A results file matched to its truth, with its numbers, ready for `details` and `resample`.

    Args:
        truth: As in `evaluate_results`.
        results: As in `evaluate_results`.
        task: As in `evaluate_results`.
        backend: As in `evaluate_results`.

    Raises:
        DataError: As in `evaluate_results`.
    """
    if backend not in BOX_BACKENDS:
        raise DataError(f"evaluator {backend!r} is unknown; known: {', '.join(BOX_BACKENDS)}")
    if task == "box":
        return _judge_boxes(Path(truth), Path(results), backend)
    if task == "mask":
        return _judge_masks(Path(truth), Path(results), backend)
    if task == "semantic":
        return _judge_pixels(Path(truth), Path(results))
    raise DataError(f"task {task!r} is unknown; known: {', '.join(TASKS)}")


def _judge_boxes(truth: Path, results: Path, backend: str) -> JudgedResults:
    expected = read_truth_columns(truth)
    names = expected.categories.names
    if backend == "hotcoco":
        tables = tables_of_clean_files(expected, results, LIMITS)
        if tables is not None:
            return JudgedResults(
                metrics_of(tables, names, LIMITS),
                protocol_of("box", "bbox", backend, LIMITS),
                backend,
                lambda: _boxes(expected, read_result_columns(results, expected), backend),
                expected.groups,
                _notes(expected),
            )
    found = read_result_columns(results, expected)
    evaluator = _boxes(expected, found, backend)
    notes = _notes(expected) + _corner_note(expected, found)
    return _judged(evaluator, backend, expected.groups, notes)


def _judged(
    evaluator: Evaluator, made_by: str, groups: Mapping[int | str, str], notes: tuple[str, ...]
) -> JudgedResults:
    metrics = evaluator.compute()
    return JudgedResults(metrics, evaluator.protocol, made_by, lambda: evaluator, groups, notes)


def _boxes(expected: TruthColumns, found: ResultColumns, backend: str) -> DetectionEvaluator:
    assert found.boxes is not None, "results of boxes have boxes"
    evaluator = DetectionEvaluator(expected.categories.names, backend=backend)
    evaluator.update_block(
        Block(
            expected.image_ids,
            _truth_objects(expected),
            expected.boxes,
            Objects(
                found.pictures,
                found.labels,
                found.boxes[:, 2] * found.boxes[:, 3],
                found.scores,
                np.zeros(len(found.scores), np.bool_),
            ),
            found.boxes,
        )
    )
    return evaluator


def _judge_masks(truth: Path, results: Path, backend: str) -> JudgedResults:
    expected = read_truth_columns(truth, kind="mask")
    found = read_result_columns(results, expected, kind="mask")
    evaluator = InstanceMaskEvaluator(expected.categories.names, backend=backend)
    number = len(expected.image_ids)
    of_truth = _rows_by_picture(expected.pictures, number)
    of_found = _rows_by_picture(found.pictures, number)
    for picture, image_id in enumerate(expected.image_ids):
        wanted, given = of_truth[picture], of_found[picture]
        height, width = expected.sizes[picture].tolist()
        try:
            evaluator.update_masks(
                [found.segmentations[row] for row in given],
                found.labels[given],
                found.scores[given],
                Truth(
                    image_id,
                    (height, width),
                    expected.boxes[wanted],
                    expected.labels[wanted],
                    expected.crowd[wanted],
                    expected.areas[wanted],
                    segmentations=tuple(expected.segmentations[row] for row in wanted),
                ),
                boxes=None if found.boxes is None else found.boxes[given],
            )
        except DataError as error:  # The results were looked at on reading.
            raise DataError(f"{truth}: {error}; mend the annotation") from None
    return _judged(evaluator, backend, expected.groups, _notes(expected))


def _judge_pixels(truth: Path, results: Path) -> JudgedResults:
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
    return _judged(evaluator, "resnet_tasks confusion matrix", groups, notes)


def _truth_objects(columns: TruthColumns) -> Objects:
    return Objects(
        columns.pictures,
        columns.labels,
        columns.areas,
        np.zeros(len(columns.labels)),
        columns.crowd,
    )


def _rows_by_picture(pictures: np.ndarray[Any, Any], number: int) -> list[np.ndarray[Any, Any]]:
    order = np.argsort(pictures, kind="stable")
    return np.split(order, np.searchsorted(pictures[order], np.arange(1, number)))


def _notes(columns: TruthColumns) -> tuple[str, ...]:
    told = [each.message for each in columns.problems if each.severity in ("repaired", "warning")]
    if not len(columns.labels):
        told.append(f"{columns.path} holds no object: there is nothing to find, and no metric")
    negative = int((columns.boxes[:, 2:] < 0).any(axis=1).sum())
    if negative:
        told.append(
            f"{columns.path}: {negative} object(s) have a box of negative width or height, which "
            "nothing can find; boxes are [x, y, width, height]"
        )
    return tuple(told)


def _corner_note(truth: TruthColumns, found: ResultColumns) -> tuple[str, ...]:
    """A hint where most boxes reach far out of their pictures, as corners read as sizes do."""
    assert found.boxes is not None, "results of boxes have boxes"
    if not len(found.boxes):
        return ("the results are empty: nothing was found in any picture",)
    height, width = truth.sizes[found.pictures].T
    ends = found.boxes[:, :2] + found.boxes[:, 2:]
    share = float(((ends[:, 0] > width + 1) | (ends[:, 1] > height + 1)).mean())
    if share < 0.5:
        return ()
    note = (
        f"{share:.0%} of the boxes reach beyond their pictures; they are read as [x, y, width, "
        "height]: are they corners [x1, y1, x2, y2], or pixels of a resized picture?"
    )
    return (note,)
