"""Box evaluator built from the columns of an annotation file and a results file."""

from __future__ import annotations

import numpy as np

from resnet_tasks.data.coco.results import ResultColumns
from resnet_tasks.data.coco.truth import TruthFile
from resnet_tasks.evaluation.coco.detection import DetectionEvaluator
from resnet_tasks.evaluation.coco.image_blocks import ImageBlock
from resnet_tasks.evaluation.coco.matching import Objects


def build_evaluator(
    expected: TruthFile, results: ResultColumns, backend: str
) -> DetectionEvaluator:
    """Create an evaluator with all images of the files.

    Args:
        expected: Objects of the annotation file.
        results: Columns of the results file.
        backend: Key in `BOX_BACKENDS`.
    """
    assert results.boxes is not None, "box results have boxes"
    annotations = expected.annotations
    evaluator = DetectionEvaluator(expected.categories.names, backend=backend)
    evaluator.update_block(
        ImageBlock(
            expected.images.list_ids(),
            Objects(
                annotations.image_positions,
                annotations.labels,
                annotations.areas,
                np.zeros(len(annotations.areas)),
                annotations.crowd,
            ),
            annotations.boxes,
            Objects(
                results.images,
                results.labels,
                results.boxes[:, 2] * results.boxes[:, 3],
                results.scores,
                np.zeros(len(results.scores), np.bool_),
            ),
            results.boxes,
        )
    )
    return evaluator
