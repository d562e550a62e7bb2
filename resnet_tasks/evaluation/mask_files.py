"""Results files of instance masks, judged picture by picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from resnet_tasks.data.coco_columns import read_result_columns, read_truth_columns
from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.instance_masks import InstanceMaskEvaluator
from resnet_tasks.evaluation.judged import JudgedResults, judged_by, notes_on
from resnet_tasks.metrics import Truth


def judge(truth: Path, results: Path, backend: str) -> JudgedResults:
    """Masks in a results file.

    Args:
        truth: COCO JSON.
        results: COCO results JSON with `segmentation`s.
        backend: Of `BOX_BACKENDS`.

    Raises:
        DataError: If a file is wrong; the message names the first bad entries.
    """
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
    return judged_by(evaluator, backend, expected.groups, notes_on(expected))


def _rows_by_picture(pictures: np.ndarray[Any, Any], number: int) -> list[np.ndarray[Any, Any]]:
    order = np.argsort(pictures, kind="stable")
    return np.split(order, np.searchsorted(pictures[order], np.arange(1, number)))
