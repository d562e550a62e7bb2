"""COCO's greedy matching of detections to ground truth, for everything except the tables.

Shape glossary: `D` detections, `G` annotated objects, `N` pairs of them that overlap, `T` overlap
thresholds, `S` size classes (all, small, medium, large).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's overlap thresholds, the same floats as in pycocotools."""
SIZE_RANGES = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)], np.float64)
"""Minimum and maximum area (pixels²) of the size classes all, small, medium and large (COCO)."""
SMALLEST_IOU = 0.5 - 1e-9
"""Overlap below which a pair cannot match at any threshold."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Objects:
    """Objects of all images, in file order within an image.

    Attributes:
        images: `(N,)` rank of the image of each object, in the order of image ids.
        labels: `(N,)` indices into the classes.
        areas: `(N,)` pixels².
        scores: `(N,)`; zeros for annotated objects.
        crowd: `(N,)` bool; False for detections.
    """

    images: Ints
    labels: Ints
    areas: Floats
    scores: Floats
    crowd: Bools


@dataclass(frozen=True)
class Pairs:
    """Overlapping pairs of a detection and an annotated object of the same image.

    Attributes:
        detection_indices: `(N,)` index of the detection.
        truth_indices: `(N,)` index of the object.
        iou: `(N,)` intersection over union; for crowds, intersection over the area of the
            detection.
    """

    detection_indices: Ints
    truth_indices: Ints
    iou: Floats

    def select(self, keep: Bools) -> Pairs:
        """Return the pairs selected by a mask."""
        return Pairs(self.detection_indices[keep], self.truth_indices[keep], self.iou[keep])


def find_box_pairs(
    detection_boxes: Floats, truth_boxes: Floats, crowd: Bools, *, keys: tuple[Ints, Ints]
) -> Pairs:
    """Find all pairs of boxes with the same key that overlap by at least one half.

    Args:
        detection_boxes: `(D, 4)` xywh, original pixels.
        truth_boxes: `(G, 4)` xywh, original pixels.
        crowd: `(G,)` bool.
        keys: `(D,)` and `(G,)` integers; only objects with equal keys (images, classes) are paired.
    """
    pairs = [
        _find_overlapping_pairs(detection_boxes, truth_boxes, crowd, rows, columns)
        for rows, columns in _iterate_key_matches(keys[0], keys[1])
    ]
    return concatenate_pairs(pairs)


def _iterate_key_matches(detection_keys: Ints, truth_keys: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield the indices of detections and objects with equal keys, in chunks of bounded size."""
    order = np.argsort(truth_keys, kind="stable")
    sorted_keys = truth_keys[order]
    start = np.searchsorted(sorted_keys, detection_keys, side="left")
    count = np.searchsorted(sorted_keys, detection_keys, side="right") - start
    total = np.cumsum(count)
    begin = 0
    while begin < len(detection_keys):
        before = total[begin - 1] if begin else 0
        end = max(int(np.searchsorted(total, before + _CHUNK, side="right")), begin + 1)
        repeats = count[begin:end]
        rows = np.repeat(np.arange(begin, end), repeats)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        yield rows, order[start[rows] + within]
        begin = end


def _find_overlapping_pairs(
    detection_boxes: Floats, truth_boxes: Floats, crowd: Bools, rows: Ints, columns: Ints
) -> Pairs:
    """Compute overlaps bit-identically to cocoapi's maskApi.c (bbIou): same order of operations."""
    d, g = detection_boxes[rows], truth_boxes[columns]
    size = np.minimum(d[:, :2] + d[:, 2:], g[:, :2] + g[:, 2:]) - np.maximum(d[:, :2], g[:, :2])
    meets = (size > 0).all(axis=1)
    d, g, size, rows, columns = d[meets], g[meets], size[meets], rows[meets], columns[meets]
    shared = size[:, 0] * size[:, 1]
    detection_areas = d[:, 2] * d[:, 3]
    union = np.where(crowd[columns], detection_areas, detection_areas + g[:, 2] * g[:, 3] - shared)
    pairs = Pairs(rows, columns, shared / union)
    return pairs.select(pairs.iou >= SMALLEST_IOU)


def concatenate_pairs(parts: Sequence[Pairs]) -> Pairs:
    """Join pairs whose indices refer to the same objects."""
    if not parts:
        none = np.zeros(0, np.int64)
        return Pairs(none, none, np.zeros(0))
    return Pairs(
        np.concatenate([pairs.detection_indices for pairs in parts]),
        np.concatenate([pairs.truth_indices for pairs in parts]),
        np.concatenate([pairs.iou for pairs in parts]),
    )


@dataclass(frozen=True)
class GreedyMatches:
    """Result of greedy matching, for the detections that overlap an object.

    Attributes:
        detection_indices: `(C,)` indices of these detections, ascending.
        truth_indices: `(C, T, S)` index of the matched object; -1 if unmatched.
    """

    detection_indices: Ints
    truth_indices: NDArray[np.int32]

    def get_first_matches(self, number: int) -> Ints:
        """Return the matches at the first threshold and size class.

        Args:
            number: Number of detections, `D`.

        Returns:
            `(D,)` index of the matched object; -1 if unmatched.
        """
        matches = np.full(number, -1, np.int64)
        matches[self.detection_indices] = self.truth_indices[:, 0, 0]
        return matches


def match_greedily(
    pairs: Pairs, rank: Ints, crowd: Bools, ignored: Bools, *, thresholds: Floats
) -> GreedyMatches:
    """Match detections to objects by COCO's rule, at all thresholds and size classes at once.

    Detections are matched in order of their rank. Each one takes the free object that it overlaps
    most, the last one among equals. Ignored objects are taken only if no other object is available.
    Crowds stay available after a match.

    Args:
        pairs: Pairs of detections and objects that may match.
        rank: `(D,)` rank of each detection among its competitors, the best first.
        crowd: `(G,)` bool.
        ignored: `(G, S)` bool, objects that are neither hits nor misses.
        thresholds: `(T,)` overlaps.
    """
    num_sizes = ignored.shape[1]
    candidates, position = np.unique(pairs.detection_indices, return_inverse=True)
    matched = np.full((len(candidates), len(thresholds), num_sizes), -1, np.int32)
    is_taken = np.zeros((len(crowd), len(thresholds), num_sizes), np.bool_)
    # Overlaps as integer ranks, to which the preference for counted objects is added exactly.
    levels, level = np.unique(pairs.iou, return_inverse=True)
    least = np.searchsorted(levels, np.minimum(thresholds, 1 - 1e-10))
    order = np.lexsort(
        (pairs.truth_indices, pairs.detection_indices, rank[pairs.detection_indices])
    )
    # Detections of equal rank never compete (other image or class), so they are matched together.
    ranks = rank[pairs.detection_indices][order]
    bounds = np.flatnonzero(np.diff(ranks, prepend=-1, append=-2))
    for begin, end in itertools.pairwise(bounds):
        pair_indices = order[begin:end]
        objects, candidate_indices = pairs.truth_indices[pair_indices], position[pair_indices]
        is_free = (~is_taken[objects] | crowd[objects][:, None, None]) & (
            level[pair_indices][:, None] >= least
        )[:, :, None]
        priority = (
            # 0 means not available; counted objects rank above all ignored ones.
            level[pair_indices][:, None, None] + len(levels) * ~ignored[objects][:, None, :] + 1
        )
        priority = np.where(is_free, priority, 0)
        starts = np.flatnonzero(np.diff(candidate_indices, prepend=-1))
        repeats = np.diff(starts, append=len(candidate_indices))
        best = np.maximum.reduceat(priority, starts, axis=0)
        is_best = (priority == np.repeat(best, repeats, axis=0)) & is_free
        last = np.maximum.reduceat(
            np.where(is_best, np.arange(len(candidate_indices))[:, None, None], -1), starts, axis=0
        )
        matched_objects = np.where(last >= 0, objects[last], -1)
        matched[candidate_indices[starts]] = matched_objects
        row, threshold, size = np.nonzero(matched_objects >= 0)
        is_taken[matched_objects[row, threshold, size], threshold, size] = True
    return GreedyMatches(candidates, matched)


def rank_within_groups(groups: Ints, scores: Floats) -> Ints:
    """Rank the detections within their group by score; equal scores keep the file order."""
    order = np.lexsort((-scores, groups))
    sorted_groups = groups[order]
    starts = np.searchsorted(sorted_groups, sorted_groups, side="left")
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - starts
    return rank


@dataclass(frozen=True)
class Matches:
    """Detections of all images with their matches.

    Attributes:
        truth: Annotated objects.
        detections: Detections, without those beyond the limit per image and class.
        rows: `(D,)` index of each of these detections among all detections.
        rank: `(D,)` rank among the detections of the same image and class.
        greedy: COCO's matching within image and class at `THRESHOLDS` and `SIZE_RANGES`.
    """

    truth: Objects
    detections: Objects
    rows: Ints
    rank: Ints
    greedy: GreedyMatches

    @cached_property
    def is_counted(self) -> Bools:
        """`(G, S)` bool, objects that count as hits or misses."""
        return ~self.truth.crowd[:, None] & compute_size_membership(self.truth.areas)

    @cached_property
    def matches_at_iou50(self) -> Ints:
        """`(D,)` object matched at IoU 0.5, for the size class `all`; -1 if unmatched."""
        return self.greedy.get_first_matches(len(self.rank))


def compute_size_membership(areas: Floats) -> Bools:
    """Return whether each area lies in each size class, `(N, S)`; limits belong to both classes."""
    low, high = SIZE_RANGES[:, 0], SIZE_RANGES[:, 1]
    return np.asarray((areas[:, None] >= low) & (areas[:, None] <= high))


def match_detections(truth: Objects, detections: Objects, pairs: Pairs, *, limit: int) -> Matches:
    """Match detections to the ground truth.

    Args:
        truth: Annotated objects.
        detections: Detections.
        pairs: Pairs of detections and objects with the same image and class.
        limit: Maximum number of detections per image and class; those with lower scores are
            dropped.
    """
    num_labels = 1 + max(truth.labels.max(initial=0), detections.labels.max(initial=0))
    rank = rank_within_groups(detections.images * num_labels + detections.labels, detections.scores)
    is_kept = rank < limit
    if not is_kept.all():
        pairs = select_pairs(pairs, is_kept)
        detections = Objects(
            detections.images[is_kept],
            detections.labels[is_kept],
            detections.areas[is_kept],
            detections.scores[is_kept],
            detections.crowd[is_kept],
        )
        rank = rank[is_kept]
    ignored = truth.crowd[:, None] | ~compute_size_membership(truth.areas)
    greedy = match_greedily(pairs, rank, truth.crowd, ignored, thresholds=THRESHOLDS)
    return Matches(truth, detections, np.flatnonzero(is_kept), rank, greedy)


def select_pairs(pairs: Pairs, is_kept: Bools) -> Pairs:
    """Return the pairs of the kept detections, with indices into the kept detections."""
    pairs = pairs.select(is_kept[pairs.detection_indices])
    new_indices = np.cumsum(is_kept) - 1
    return Pairs(new_indices[pairs.detection_indices], pairs.truth_indices, pairs.iou)
