"""COCO metrics of resampled datasets, computed from a single matching.

An image that is drawn `w` times counts as `w` copies with adjacent ids. The only exception is equal
scores of one class within one image: with real copies, the detections of the copies would
alternate; here all copies of the first detection precede those of the second.

Shape glossary: `R` resampled datasets, `P` images, `K` classes, `T` overlap thresholds, `S` size
classes, `M` limits of detections, `D` detections of one class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.evaluation.coco.matching import (
    THRESHOLDS,
    Matches,
    compute_size_membership,
)
from resnet_tasks.evaluation.coco.metrics import compute_class_metrics
from resnet_tasks.evaluation.coco.precision_curves import (
    NUM_CELLS,
    NUM_SIZES,
    Floats,
    Ints,
    PrecisionCurves,
    Weights,
    build_sums,
    list_by_cell,
)

_DATASETS_AT_ONCE = 1024
_LARGEST_EXACT = 1 << 24
"""Sums of integers up to this number are exact in 32 bits."""


class CocoResampler:
    """Metrics of every class in resampled datasets.

    Args:
        matches: Matches of all images.
        num_images: Number of images, `P`.
        num_classes: Number of classes, `K`.
        limits: Limits of detections per image and class, ascending.
    """

    def __init__(
        self, matches: Matches, num_images: int, num_classes: int, limits: Sequence[int]
    ) -> None:
        self._limits = limits
        self._num_classes = num_classes
        self._num_objects = max(len(matches.truth.labels), len(matches.detections.labels))
        self._classes = {
            label: _ClassMatches(matches, members, label, limits, num_images=num_images)
            for label, members in _list_members(matches, num_classes)
            if (matches.truth.labels == label).any()
        }

    def resample(self, counts: NDArray[np.int64], order: Ints) -> dict[str, Floats]:
        """Compute the metrics of every class in every resampled dataset.

        Args:
            counts: `(R, P)` number of times each image occurs.
            order: `(P,)` column of each image of the matches.

        Returns:
            Metric -> `(R, K)`; NaN where the dataset has no such object.
        """
        is_exact = self._num_objects * int(counts.max(initial=0)) < _LARGEST_EXACT
        kind: type[np.floating[Any]] = np.float32 if is_exact else np.float64
        parts = [
            self._resample(np.ascontiguousarray(part.T, kind)[order])
            for part in np.split(counts, range(_DATASETS_AT_ONCE, len(counts), _DATASETS_AT_ONCE))
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def _resample(self, weights: Weights) -> dict[str, Floats]:
        num_datasets = weights.shape[1]
        shape = (num_datasets, len(THRESHOLDS), 1, NUM_SIZES)
        precision, recall = np.full(shape, np.nan), np.full((*shape, len(self._limits)), np.nan)
        metrics = {
            name: np.full((num_datasets, self._num_classes), np.nan)
            for name in compute_class_metrics(precision, recall, self._limits)
        }
        for label, class_matches in self._classes.items():
            precision[:, :, 0], recall[:, :, 0] = class_matches.evaluate(weights)
            for name, values in compute_class_metrics(precision, recall, self._limits).items():
                metrics[name][:, label] = values[:, 0]
        return metrics


class _ClassMatches:
    """Annotated objects and detections of one class, with their matches.

    Args:
        matches: Matches of all images.
        members: `(D,)` indices of the detections of the class, in descending order of score.
        label: Label of the class.
        limits: Limits of detections per image and class, ascending.
        num_images: Number of images, `P`.
    """

    def __init__(
        self,
        matches: Matches,
        members: Ints,
        label: int,
        limits: Sequence[int],
        *,
        num_images: int,
    ) -> None:
        truth, detections = matches.truth, matches.detections
        place = np.searchsorted(matches.greedy.detection_indices, members)
        is_candidate = np.append(matches.greedy.detection_indices, -1)[place] == members
        matched_objects = matches.greedy.truth_indices[place[is_candidate]]
        is_matched = matched_objects >= 0
        is_hit = is_matched & matches.is_counted[matched_objects, np.arange(NUM_SIZES)]
        images, candidates = detections.images[members], np.flatnonzero(is_candidate)
        in_range = compute_size_membership(detections.areas[members])

        objects = np.flatnonzero(truth.labels == label)
        size, index = np.nonzero(matches.is_counted[objects].T)
        self._objects = build_sums(size, truth.images[objects[index]], (NUM_SIZES, num_images))
        bins = np.searchsorted(limits, matches.rank[members[candidates]], side="right")
        cells, hits = list_by_cell(is_hit)
        self._num_limits = len(limits)
        self._recalled = build_sums(
            cells * len(limits) + bins[hits],
            images[candidates[hits]],
            (NUM_CELLS * len(limits), num_images),
        )
        self._curves = PrecisionCurves(is_hit, is_matched, images, in_range, candidates, num_images)

    def evaluate(self, weights: Weights) -> tuple[Floats, Floats]:
        """Compute the average precision and recall of resampled datasets.

        Args:
            weights: `(P, R)` number of times each image occurs.

        Returns:
            Average precision `(R, T, S)`, and recall `(R, T, S, M)`; NaN where the dataset has no
            such object.
        """
        total = (self._objects @ weights).astype(np.float64)
        is_defined, total = total > 0, np.maximum(total, 1)
        shape = (len(THRESHOLDS), NUM_SIZES, self._num_limits, weights.shape[1])
        num_hits = (self._recalled @ weights).astype(np.float64).reshape(shape).cumsum(axis=2)
        recall = num_hits / total[:, None]
        precision = self._curves.compute_precision(weights, total)
        precision[:, ~is_defined] = np.nan
        recall.transpose(0, 2, 1, 3)[..., ~is_defined] = np.nan
        return precision.transpose(2, 0, 1), recall.transpose(3, 0, 1, 2)


def _list_members(matches: Matches, num_classes: int) -> Iterator[tuple[int, Ints]]:
    """Yield each class with the indices of its detections, in descending order of score."""
    detections = matches.detections
    # Equal scores are ordered by image, then by rank within the image (COCO).
    keys = (matches.rank, detections.images, -detections.scores, detections.labels)
    order = np.lexsort(keys)
    starts = np.searchsorted(detections.labels[order], np.arange(1, num_classes))
    yield from enumerate(np.split(order, starts))
