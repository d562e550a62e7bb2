"""The evaluator of boxes, filled with the columns of files at once."""

from __future__ import annotations

import numpy as np

from resnet_tasks.data.coco_columns import ResultColumns, TruthColumns
from resnet_tasks.evaluation.detection import Block, DetectionEvaluator
from resnet_tasks.evaluation.matches import Objects


def evaluator_of(expected: TruthColumns, found: ResultColumns, backend: str) -> DetectionEvaluator:
    """An evaluator that has seen all pictures.

    Args:
        expected: Of the annotation file.
        found: Of the results file.
        backend: Of `BOX_BACKENDS`.
    """
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


def _truth_objects(columns: TruthColumns) -> Objects:
    return Objects(
        columns.pictures,
        columns.labels,
        columns.areas,
        np.zeros(len(columns.labels)),
        columns.crowd,
    )
