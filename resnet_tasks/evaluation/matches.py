"""Detections matched to the truth once, by COCO's greedy rule, for everything beyond the tables.

Shape glossary: `D` detections, `G` annotated objects, `N` pairs of them that overlap, `T` overlap
thresholds, `S` size classes (all, small, medium, large).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's overlap thresholds, the same floats as pycocotools'."""
SIZE_RANGES = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)], np.float64)
"""Least and greatest area (pixels²) of the size classes all, small, medium and large (COCO)."""
SMALLEST_IOU = 0.5 - 1e-9
"""Pairs that overlap less can match at no threshold."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Objects:
    """Objects of all pictures, in file order within a picture.

    Attributes:
        pictures: `(N,)` rank of each object's picture in the order of image ids.
        labels: `(N,)` indices into the classes.
        areas: `(N,)` pixels².
        scores: `(N,)`; zeros for the truth.
        crowd: `(N,)`; False for detections.
    """

    pictures: Ints
    labels: Ints
    areas: Floats
    scores: Floats
    crowd: Bools


@dataclass(frozen=True)
class Pairs:
    """Detections and objects of the same picture that overlap.

    Attributes:
        found: `(N,)` index of the detection.
        truth: `(N,)` index of the object.
        iou: `(N,)` intersection over union; over the detection's own area for crowds.
    """

    found: Ints
    truth: Ints
    iou: Floats

    def where(self, keep: Bools) -> Pairs:
        """The pairs chosen by a mask."""
        return Pairs(self.found[keep], self.truth[keep], self.iou[keep])


def box_pairs(found: Floats, truth: Floats, crowd: Bools, *, keys: tuple[Ints, Ints]) -> Pairs:
    """All pairs of xywh boxes with the same key that overlap by at least one half.

    Args:
        found: `(D, 4)` xywh boxes.
        truth: `(G, 4)` xywh boxes.
        crowd: `(G,)`.
        keys: `(D,)` and `(G,)`; objects with different keys (pictures, classes) never meet.
    """
    made = [
        _overlapping(found, truth, crowd, rows, columns)
        for rows, columns in _meetings(keys[0], keys[1])
    ]
    return _concatenated(made)


def _meetings(found: Ints, truth: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Indices of detections and objects with equal keys, in portions of bounded size."""
    order = np.argsort(truth, kind="stable")
    sorted_keys = truth[order]
    start = np.searchsorted(sorted_keys, found, side="left")
    count = np.searchsorted(sorted_keys, found, side="right") - start
    total = np.cumsum(count)
    begin = 0
    while begin < len(found):
        before = total[begin - 1] if begin else 0
        end = max(int(np.searchsorted(total, before + _CHUNK, side="right")), begin + 1)
        repeats = count[begin:end]
        rows = np.repeat(np.arange(begin, end), repeats)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        yield rows, order[start[rows] + within]
        begin = end


def _overlapping(found: Floats, truth: Floats, crowd: Bools, rows: Ints, columns: Ints) -> Pairs:
    """Overlaps in the order of operations of cocoapi's maskApi.c (bbIou), hence the same floats."""
    d, g = found[rows], truth[columns]
    size = np.minimum(d[:, :2] + d[:, 2:], g[:, :2] + g[:, 2:]) - np.maximum(d[:, :2], g[:, :2])
    meets = (size > 0).all(axis=1)
    d, g, size, rows, columns = d[meets], g[meets], size[meets], rows[meets], columns[meets]
    shared = size[:, 0] * size[:, 1]
    own = d[:, 2] * d[:, 3]
    union = np.where(crowd[columns], own, own + g[:, 2] * g[:, 3] - shared)
    pairs = Pairs(rows, columns, shared / union)
    return pairs.where(pairs.iou >= SMALLEST_IOU)


def _concatenated(parts: list[Pairs]) -> Pairs:
    if not parts:
        none = np.zeros(0, np.int64)
        return Pairs(none, none, np.zeros(0))
    return Pairs(
        np.concatenate([each.found for each in parts]),
        np.concatenate([each.truth for each in parts]),
        np.concatenate([each.iou for each in parts]),
    )


@dataclass(frozen=True)
class Greedy:
    """What the greedy rule gives, for the detections that overlap anything.

    Attributes:
        found: `(C,)` rising indices of those detections.
        truth: `(C, T, S)` index of the object each has; -1 where none.
    """

    found: Ints
    truth: NDArray[np.int32]


def match_greedily(
    pairs: Pairs, rank: Ints, crowd: Bools, ignored: Bools, *, thresholds: Floats
) -> Greedy:
    """COCO's matching, at all thresholds and size classes at once.

    Detections choose in order of score. Each takes the free object that it overlaps most, a later
    one of equals; ignored objects only where no other is left; crowds are never used up.

    Args:
        pairs: Detections and objects that may meet.
        rank: `(D,)` place of each detection among those that compete with it, best first.
        crowd: `(G,)`.
        ignored: `(G, S)` objects that are neither found nor missed.
        thresholds: `(T,)` overlaps.
    """
    num_sizes = ignored.shape[1]
    candidates, position = np.unique(pairs.found, return_inverse=True)
    matched = np.full((len(candidates), len(thresholds), num_sizes), -1, np.int32)
    taken = np.zeros((len(crowd), len(thresholds), num_sizes), np.bool_)
    # Overlaps as whole numbers: the preference for objects that count can be added exactly.
    levels, level = np.unique(pairs.iou, return_inverse=True)
    least = np.searchsorted(levels, np.minimum(thresholds, 1 - 1e-10))
    order = np.lexsort((pairs.truth, pairs.found, rank[pairs.found]))
    ranks = rank[pairs.found][order]
    bounds = np.flatnonzero(np.diff(ranks, prepend=-1, append=-2))
    for begin, end in itertools.pairwise(bounds):
        here = order[begin:end]
        objects, who = pairs.truth[here], position[here]
        is_free = (~taken[objects] | crowd[objects][:, None, None]) & (
            level[here][:, None] >= least
        )[:, :, None]
        worth = level[here][:, None, None] + len(levels) * ~ignored[objects][:, None, :] + 1
        worth = np.where(is_free, worth, 0)
        starts = np.flatnonzero(np.diff(who, prepend=-1))
        repeats = np.diff(starts, append=len(who))
        best = np.maximum.reduceat(worth, starts, axis=0)
        is_best = (worth == np.repeat(best, repeats, axis=0)) & is_free
        last = np.maximum.reduceat(
            np.where(is_best, np.arange(len(who))[:, None, None], -1), starts, axis=0
        )
        chosen = np.where(last >= 0, objects[last], -1)
        matched[who[starts]] = chosen
        row, threshold, size = np.nonzero(chosen >= 0)
        taken[chosen[row, threshold, size], threshold, size] = True
    return Greedy(candidates, matched)


def rank_within(groups: Ints, scores: Floats) -> Ints:
    """Place of each detection among those of its group, best first, file order between equals."""
    order = np.lexsort((-scores, groups))
    sorted_groups = groups[order]
    starts = np.searchsorted(sorted_groups, sorted_groups, side="left")
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - starts
    return rank


@dataclass(frozen=True)
class Matches:
    """Detections of all pictures and what they were matched to.

    Attributes:
        truth: Annotated objects.
        found: Detections; those beyond the limit per picture and class are left out.
        rows: `(D,)` which of all detections each one is.
        rank: `(D,)` place among the detections of the same picture and class.
        greedy: COCO's matching within picture and class at `THRESHOLDS` and `SIZE_RANGES`.
    """

    truth: Objects
    found: Objects
    rows: Ints
    rank: Ints
    greedy: Greedy

    @cached_property
    def counts_in(self) -> Bools:
        """`(G, S)` objects that are to be found."""
        return ~self.truth.crowd[:, None] & within_sizes(self.truth.areas)

    @cached_property
    def first(self) -> Ints:
        """`(D,)` object that each detection has at IoU 0.5, whatever its size; -1 where none."""
        chosen = np.full(len(self.rank), -1, np.int64)
        chosen[self.greedy.found] = self.greedy.truth[:, 0, 0]
        return chosen


def within_sizes(areas: Floats) -> Bools:
    """`(N, S)` whether each area lies in each size class; borders belong to both sides (COCO)."""
    low, high = SIZE_RANGES[:, 0], SIZE_RANGES[:, 1]
    return np.asarray((areas[:, None] >= low) & (areas[:, None] <= high))


def match(truth: Objects, found: Objects, pairs: Pairs, *, limit: int) -> Matches:
    """Matches detections to the truth.

    Args:
        truth: Annotated objects.
        found: Detections.
        pairs: Of them, within picture and class.
        limit: Detections per picture and class; worse ones are left out.
    """
    num_labels = 1 + max(truth.labels.max(initial=0), found.labels.max(initial=0))
    rank = rank_within(found.pictures * num_labels + found.labels, found.scores)
    kept = rank < limit
    if not kept.all():
        pairs = pairs_of_kept(pairs, kept)
        found = Objects(
            found.pictures[kept],
            found.labels[kept],
            found.areas[kept],
            found.scores[kept],
            found.crowd[kept],
        )
        rank = rank[kept]
    ignored = truth.crowd[:, None] | ~within_sizes(truth.areas)
    greedy = match_greedily(pairs, rank, truth.crowd, ignored, thresholds=THRESHOLDS)
    return Matches(truth, found, np.flatnonzero(kept), rank, greedy)


def pairs_of_kept(pairs: Pairs, kept: Bools) -> Pairs:
    """Pairs of the kept detections, counted among these."""
    pairs = pairs.where(kept[pairs.found])
    place = np.cumsum(kept) - 1
    return Pairs(place[pairs.found], pairs.truth, pairs.iou)
