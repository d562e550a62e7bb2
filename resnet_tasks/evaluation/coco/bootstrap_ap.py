"""COCO metrics of resampled datasets, computed from a single matching.

An image that is drawn `w` times counts as `w` copies with adjacent ids. The only exception is equal
scores of one class within one image: with real copies, the detections of the copies would
alternate; here all copies of the first detection precede those of the second. Precision is computed
at true positives only: it decreases between them, and COCO uses the maximum precision at any higher
recall.

Shape glossary: `R` resampled datasets, `P` images, `K` classes, `D` detections of one class, `E`
detections among them that are relevant for one threshold and size class.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.coco.matching import (
    SIZE_RANGES,
    THRESHOLDS,
    Matches,
    compute_size_membership,
)

Floats = NDArray[np.float64]
Weights = NDArray[np.int32]

RECALLS = np.linspace(0, 1, 101)
"""COCO's recall levels, the same floats as in pycocotools."""
_ELEMENTS = 1 << 17
"""Number of elements per array, chosen so that the arrays fit into the cache of a CPU core."""


def resample_tables(
    matches: Matches,
    counts: NDArray[np.int64],
    num_classes: int,
    limits: Sequence[int],
    *,
    threads: int = 2,
) -> tuple[Floats, Floats]:
    """Compute average precision and recall of every class in every resampled dataset.

    Args:
        matches: Matches of all images.
        counts: `(R, P)` number of times each image occurs.
        num_classes: Number of classes, `K`.
        limits: Limits of detections per image and class, ascending.
        threads: Number of classes processed in parallel.

    Returns:
        Average precision `(R, T, K, S)`, and recall `(R, T, K, S, M)`; NaN where the dataset has no
        such object.
    """
    weights = np.ascontiguousarray(counts, dtype=np.int32)
    shape = (len(counts), len(THRESHOLDS), num_classes, len(SIZE_RANGES))
    precision, recall = np.full(shape, np.nan), np.full((*shape, len(limits)), np.nan)

    def fill_class(label: int) -> None:
        class_matches = _ClassMatches(matches, label, limits)
        if not class_matches.truth_counts.any():
            return
        rows = max(1, _ELEMENTS // max(class_matches.num_events, 1))
        for begin in range(0, len(weights), rows):
            part = slice(begin, begin + rows)
            precision[part, :, label], recall[part, :, label] = class_matches.evaluate(
                weights[part]
            )

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill_class, range(num_classes)))
    return precision, recall


class _ClassMatches:
    """Detections of one class in descending order of score, with their matches."""

    def __init__(self, matches: Matches, label: int, limits: Sequence[int]) -> None:
        truth, detections = matches.truth, matches.detections
        is_own_truth = truth.labels == label
        self.truth_images = truth.images[is_own_truth]
        self.truth_counts = matches.is_counted[is_own_truth].astype(np.float64)
        self.limits = limits
        members = np.flatnonzero(detections.labels == label)
        # Equal scores are ordered by image, then by rank within the image (COCO).
        keys = (matches.rank[members], detections.images[members], -detections.scores[members])
        members = members[np.lexsort(keys)]
        self.images = detections.images[members]
        self.rank = matches.rank[members]
        self.in_range = compute_size_membership(detections.areas[members])
        place = np.searchsorted(matches.greedy.detection_indices, members)
        is_candidate = place < len(matches.greedy.detection_indices)
        is_candidate[is_candidate] = (
            matches.greedy.detection_indices[place[is_candidate]] == members[is_candidate]
        )
        self.candidates = np.flatnonzero(is_candidate)
        matched_truth = matches.greedy.truth_indices[place[is_candidate]]
        sizes = np.arange(len(SIZE_RANGES))
        self.is_matched = matched_truth >= 0
        self.is_hit = self.is_matched & matches.is_counted[matched_truth, sizes]
        self.num_events = max(len(members), 1)

    def evaluate(self, weights: Weights) -> tuple[Floats, Floats]:
        """Compute average precision `(R, T, S)` and recall `(R, T, S, M)` for weights `(R, P)`."""
        totals = weights[:, self.truth_images].astype(np.float64) @ self.truth_counts
        sampled_weights = weights[:, self.images]
        shape = (len(weights), *self.is_hit.shape[1:])
        precision, recall = np.full(shape, np.nan), np.full((*shape, len(self.limits)), np.nan)
        for size in range(len(SIZE_RANGES)):
            is_defined = totals[:, size] > 0
            if not is_defined.any():
                continue
            defined_weights, total = sampled_weights[is_defined], totals[is_defined, size]
            num_in_range = self._count_in_range(defined_weights, size)
            for threshold in range(len(THRESHOLDS)):
                precision[is_defined, threshold, size], recall[is_defined, threshold, size] = (
                    self._compute_curve(defined_weights, num_in_range, total, threshold, size)
                )
        return precision, recall

    def _count_in_range(self, weights: Weights, size: int) -> Weights:
        """Count the detections in the size class up to and including each candidate, `(R, C)`."""
        inside = np.flatnonzero(self.in_range[:, size])
        if len(inside) == len(self.in_range):
            return np.cumsum(weights, axis=1, dtype=np.int32)[:, self.candidates]
        sums = np.zeros((len(weights), len(inside) + 1), np.int32)
        np.cumsum(weights[:, inside], axis=1, out=sums[:, 1:])
        return sums[:, np.searchsorted(inside, self.candidates, side="right")]

    def _compute_curve(
        self, weights: Weights, num_in_range: Weights, total: Floats, threshold: int, size: int
    ) -> tuple[Floats, Floats]:
        is_hit = self.is_hit[:, threshold, size]
        # `num_in_range` counts all detections inside the size range. Matched ones are subtracted to
        # get the false positives; detections outside the range are not in the count.
        is_withdrawn = self.is_matched[:, threshold, size] & self.in_range[self.candidates, size]
        events = np.flatnonzero(is_hit | is_withdrawn)
        recall = np.zeros((len(weights), len(self.limits)))
        if not is_hit.any():
            return np.zeros(len(weights)), recall
        weight = weights[:, self.candidates[events]]
        hit = is_hit[events]
        hits = weight * hit
        true = np.cumsum(hits, axis=1, dtype=np.int32)
        rank = self.rank[self.candidates[events]]
        for position, limit in enumerate(self.limits):
            is_within = rank < limit
            num_hits = true[:, -1] if is_within.all() else hits[:, is_within].sum(axis=1)
            recall[:, position] = num_hits / total
        withdrawn = is_withdrawn[events]
        if (hit == withdrawn).all():
            matched = true
        else:
            matched = np.cumsum(weight * withdrawn, axis=1, dtype=np.int32)
        wrong = num_in_range[:, events] - matched
        best = true / np.maximum(true + wrong, 1)
        best = np.maximum.accumulate(best[:, ::-1], axis=1)[:, ::-1]
        reached = _count_levels_reached(true / total[:, None])
        gained = np.diff(reached, axis=1, prepend=0)
        return np.einsum("re,re->r", best, gained) / len(RECALLS), recall


def _count_levels_reached(recall: Floats) -> Weights:
    """Count COCO's recall levels at or below each recall, by exact comparison."""
    # Rounding may put a recall just below its level, where truncation would lose the level.
    # The offset selects the upper level, which the comparison then confirms.
    nearest = (recall * 100 + 1e-6).astype(np.int32)
    return np.add(nearest, RECALLS[nearest] <= recall, dtype=np.int32)
