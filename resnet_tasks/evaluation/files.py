"""Evaluation of results files, whoever made them: no model, no pictures."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np

from resnet_tasks.data.coco import read_coco, read_results
from resnet_tasks.data.truths import annotated_truth
from resnet_tasks.evaluation.detection import DetectionEvaluator
from resnet_tasks.metrics import Metric


def evaluate_results(
    truth: str | Path, results: str | Path, *, backend: str = "hotcoco"
) -> dict[str, Metric]:
    """COCO box metrics of a results file.

    Args:
        truth: COCO JSON; small defects (missing `iscrowd`, `area`, ids) are repaired on reading.
        results: COCO results JSON: a list of `{image_id, category_id, bbox: [x, y, w, h], score}`.
        backend: `hotcoco` or `pycocotools`; they give the same numbers.

    Returns:
        The 12 COCO metrics, each with its value per category.

    Raises:
        DataError: If a file is wrong; the message names the first bad entries.
    """
    coco = read_coco(truth)
    by_image: dict[int | str, list[tuple[list[float], int, float]]] = defaultdict(list)
    for entry in read_results(results, coco):
        label = coco.categories.index_of(entry["category_id"])
        by_image[entry["image_id"]].append((entry["bbox"], label, entry["score"]))
    evaluator = DetectionEvaluator(coco.categories.names, backend=backend)
    labels = range(len(coco.categories))
    for record in coco.images:
        found = by_image.get(record.id, [])
        evaluator.update_xywh(
            np.asarray([box for box, _, _ in found], np.float64).reshape(-1, 4),
            np.asarray([label for _, label, _ in found], np.int64),
            np.asarray([score for _, _, score in found], np.float64),
            annotated_truth(coco, record, record.id, labels),
        )
    return evaluator.compute()
