"""Matching of the predicted objects of an image with its ground truth, by boxes or masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.assemble.labels import HeadLabels
from resnet_tasks.evaluation.coco.instance_masks import encode_truth_masks, find_mask_pairs
from resnet_tasks.evaluation.coco.instance_segmentation import has_masks, ignore_unmasked_objects
from resnet_tasks.evaluation.coco.matching import (
    find_box_pairs,
    match_greedily,
    rank_within_groups,
)
from resnet_tasks.structures.evaluation import GroundTruth

LEAST_SCORE = 0.05
"""Minimum score of the boxes in the page."""
MAX_BOXES = 100
"""Maximum number of boxes per image and head; the boxes with the highest scores are kept."""
HIT_IOU = 0.5
"""Minimum IoU with a true object of the same class for a predicted object to count as a hit."""


@dataclass(frozen=True)
class PredictedBoxes:
    """Predicted boxes of one image, sorted by descending score.

    Attributes:
        boxes: `(N, 4)` float64, xywh, pixels of the original image.
        labels: `(N,)` int64, indices into the head's classes.
        scores: `(N,)` float64, 0 to 1.
        hits: `(N,)` int64, index of the matched ground-truth box; -1: no match, -2: in a crowd
            region.
        masks: Mask of every object as compressed run lengths; empty if the head predicts boxes
            only.
    """

    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    scores: NDArray[np.float64]
    hits: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    masks: tuple[Mapping[str, Any], ...] = ()


def group_boxes_by_image(
    results: Iterable[Mapping[str, Any]], head: HeadLabels
) -> dict[int | str, PredictedBoxes]:
    """Return the best boxes of every image, keyed by image id.

    Args:
        results: COCO results of the head; detections with a score below `LEAST_SCORE` are ignored.
        head: Labels of the head.
    """
    table = {category: label for label, category in enumerate(head.category_ids)}
    rows: dict[int | str, list[tuple[float, list[float], int, Any]]] = {}
    for detection in results:
        if (
            "bbox" in detection
            and detection["score"] >= LEAST_SCORE
            and detection["category_id"] in table
        ):
            row = (
                float(detection["score"]),
                list(detection["bbox"]),
                table[detection["category_id"]],
                detection.get("segmentation"),
            )
            rows.setdefault(detection["image_id"], []).append(row)
    boxes_by_image = {}
    for image_id, image_rows in rows.items():
        best = sorted(image_rows, key=lambda row: -row[0])[:MAX_BOXES]
        boxes_by_image[image_id] = PredictedBoxes(
            np.asarray([row[1] for row in best], np.float64).reshape(-1, 4),
            np.asarray([row[2] for row in best], np.int64),
            np.asarray([row[0] for row in best], np.float64),
            masks=() if any(row[3] is None for row in best) else tuple(row[3] for row in best),
        )
    return boxes_by_image


def match_boxes(predicted: PredictedBoxes, truth: GroundTruth) -> NDArray[np.int64]:
    """Match predicted objects with true objects, greedily by score and one to one.

    The rule is COCO's, as in the metrics. Masks are compared where the head predicts them and the
    image has them, boxes otherwise.

    Returns:
        `(N,)` int64 index of the true object; -1 if no free object of the same class has an IoU of
        at least 0.5; -2 if in that case at least half of the predicted object lies in a crowd
        region of its class.
    """
    boxes, labels = truth.boxes_xywh, truth.labels
    if boxes is None or labels is None:
        return np.full(len(predicted.boxes), -1, np.int64)
    has_both_masks = bool(predicted.masks) and has_masks(truth)
    if has_both_masks:
        truth, _ = ignore_unmasked_objects(truth)
    crowd = np.zeros(len(labels), np.bool_) if truth.crowd is None else truth.crowd
    if has_both_masks:
        pairs = find_mask_pairs(predicted.masks, encode_truth_masks(truth), crowd)
        is_same = predicted.labels[pairs.detection_indices] == labels[pairs.truth_indices]
        pairs = pairs.select(is_same)
    else:
        keys = (predicted.labels, labels)
        pairs = find_box_pairs(predicted.boxes, boxes, crowd, keys=keys)
    rank = rank_within_groups(predicted.labels, predicted.scores)
    greedy = match_greedily(pairs, rank, crowd, crowd[:, None], thresholds=np.array([HIT_IOU]))
    hits = greedy.get_first_matches(len(predicted.boxes))
    hits[np.append(crowd, False)[hits]] = -2
    return hits
