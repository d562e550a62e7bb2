"""Results files of boxes; a clean one goes straight to the compiled evaluator."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from resnet_tasks.data.coco_columns import (
    ResultColumns,
    TruthColumns,
    read_result_columns,
    read_truth_columns,
)
from resnet_tasks.evaluation.big_files import tables_of_clean_files
from resnet_tasks.evaluation.coco_numbers import metrics_of, protocol_of
from resnet_tasks.evaluation.judged import JudgedResults, judged_by, notes_on
from resnet_tasks.metrics import Evaluator

LIMITS = (1, 10, 100)
"""COCO's limits of detections per picture and class."""


def judge(truth: Path, results: Path, backend: str) -> JudgedResults:
    """Boxes in a results file.

    Args:
        truth: COCO JSON.
        results: COCO results JSON.
        backend: Of `BOX_BACKENDS`.

    Raises:
        DataError: If a file is wrong; the message names the first bad entries.
    """
    expected = read_truth_columns(truth)
    names = expected.categories.names
    if backend == "hotcoco":
        tables = tables_of_clean_files(expected, results, LIMITS)
        if tables is not None:
            return JudgedResults(
                metrics_of(tables, names, LIMITS),
                protocol_of("box", "bbox", backend, LIMITS),
                backend,
                lambda: _evaluator(expected, read_result_columns(results, expected), backend),
                expected.groups,
                notes_on(expected),
            )
    found = read_result_columns(results, expected)
    evaluator = _evaluator(expected, found, backend)
    notes = notes_on(expected) + _corner_note(expected, found)
    return judged_by(evaluator, backend, expected.groups, notes)


def _evaluator(expected: TruthColumns, found: ResultColumns, backend: str) -> Evaluator:
    """Imported where it is needed: that takes a part of what a clean file takes."""
    made: Evaluator = import_module("resnet_tasks.evaluation.box_columns").evaluator_of(
        expected, found, backend
    )
    return made


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
