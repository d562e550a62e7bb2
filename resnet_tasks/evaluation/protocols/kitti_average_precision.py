"""KITTI's average precision over 40 recall points.

Shape glossary: `R` resampled datasets, `N` scores of matched objects.
"""

from __future__ import annotations

import numpy as np

from resnet_tasks.evaluation.numerics.weighted_means import Counts, Floats
from resnet_tasks.evaluation.protocols.kitti_matching import Tally

RECALL_POINTS = 40  # Simonelli et al. 2019: 1/40 .. 1, without recall 0


def compute_average_precision(tally: Tally, counts: Counts) -> Floats:
    """Compute the AP of every resampled dataset, `(R,)`; NaN if no object counts."""
    objects = counts @ np.asarray(tally.objects, np.int64).reshape(counts.shape[1])
    hits = np.asarray(sorted(tally.hits, reverse=True), np.float64).reshape(-1, 2)
    steps = np.asarray(sorted(tally.steps, reverse=True), np.float64).reshape(-1, 4)
    negated_scores, rights, wrongs = (
        np.ascontiguousarray(column) for column in (steps[:, :3] * (-1, 1, 1)).T
    )
    hit_images, step_images = hits[:, 1].astype(np.int64), steps[:, 3].astype(np.int64)
    ap_values = np.full(len(counts), np.nan)
    for row, weights in enumerate(counts):
        if not objects[row]:
            continue
        thresholds = choose_recall_thresholds(
            np.repeat(hits[:, 0], weights[hit_images]), int(objects[row])
        )
        step_weights = weights[step_images]
        passed = np.searchsorted(negated_scores, -thresholds, side="right")
        right, wrong = (
            np.append(0.0, np.cumsum(increments * step_weights))[passed]
            for increments in (rights, wrongs)
        )
        total = right + wrong
        precision = np.divide(right, total, out=np.zeros(len(right)), where=total > 0)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        ap_values[row] = envelope[1 : RECALL_POINTS + 1].sum() / RECALL_POINTS
    return ap_values


def choose_recall_thresholds(scores: Floats, num_objects: int) -> Floats:
    """Choose the scores at which recall is closest to 0, 1/40, 2/40, ...; at most 41 scores.

    Args:
        scores: `(N,)` scores of the matched objects, descending.
        num_objects: Number of objects that count, at least `N`.
    """
    thresholds: list[float] = []
    recall, position, last = 0.0, 0, len(scores) - 1
    while position <= last:
        left, right = (position + 1) / num_objects, (position + 2) / num_objects
        if position < last and right - recall < recall - left:
            # Far from the next recall point: jump close to it, then continue one by one.
            position = max(position + 1, min(int(recall * num_objects) - 3, last))
            continue
        thresholds.append(float(scores[position]))
        recall += 1 / RECALL_POINTS
        position += 1
    return np.asarray(thresholds, np.float64)
