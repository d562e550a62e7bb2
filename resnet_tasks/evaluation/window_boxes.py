"""Detections of overlapping windows as those of one picture: nothing twice, nothing in pieces.

An object on the border of two windows is seen by both: whole and cut, or cut twice. Three steps,
each among detections of one class:

1. *Pieces are joined.* A box that ends at an inner border of its window is a piece. Two pieces from
   windows that touch or overlap become one box, the hull of both with the higher score, where each
   runs up to the border that the other window lies behind, and their extents along that border
   agree (overlap of intervals at least 0.5 of their union). So an object that is larger than the
   overlap comes back whole.
2. *Duplicates are dropped.* Best first, where a piece counts half its score, a box is dropped that
   overlaps a kept one of another window by more than `iou`.
3. *Pieces of what is seen whole are dropped.* So is a piece more than half of which lies in a kept
   box (intersection over the piece's area).

Boxes of one window never drop each other: the head's own NMS has been there.

Shape glossary: `N` detections of all windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_tasks.metrics import as_array
from resnet_tasks.structures import Detections

Floats = NDArray[np.float64]
Frame = tuple[float, float, float, float]

AT_BORDER = 0.01
"""A box ends at a border that is nearer than this share of its side, or than 2 pixels."""
LEAST_AT_BORDER = 2.0
SAME_EXTENT = 0.5
PIECE_INSIDE = 0.5
PIECE_SCORE = 0.5


@dataclass(frozen=True)
class WindowDetections:
    """What one window shows.

    Attributes:
        found: In pixels of the original picture.
        frame: xyxy of the window, in the same pixels.
    """

    found: Detections
    frame: Frame


def merge_detections(
    windows: Sequence[WindowDetections], size: tuple[int, int], *, iou: float = 0.5
) -> Detections:
    """Detections of a picture from those of its windows.

    Args:
        windows: At least one.
        size: (height, width) of the original picture.
        iou: Boxes of one class that overlap more are the same object.

    Returns:
        Best first; those of a single window unchanged.
    """
    if len(windows) == 1:
        return windows[0].found
    like = windows[0].found
    boxes = np.concatenate([as_array(each.found.boxes).reshape(-1, 4) for each in windows])
    scores = np.concatenate([as_array(each.found.scores) for each in windows])
    labels = np.concatenate([as_array(each.found.labels) for each in windows])
    sources = np.repeat(np.arange(len(windows)), [len(each.found) for each in windows])
    frames = np.asarray([each.frame for each in windows], np.float64)
    made = [
        _merged_class(
            boxes[of_class].astype(np.float64),
            scores[of_class].astype(np.float64),
            sources[of_class],
            frames,
            size,
            iou=iou,
        )
        for of_class in (labels == label for label in np.unique(labels))
    ]
    kinds = np.unique(labels)
    kept_boxes = np.concatenate([each[0] for each in made]) if made else np.zeros((0, 4))
    kept_scores = np.concatenate([each[1] for each in made]) if made else np.zeros(0)
    kept_labels = np.repeat(kinds, [len(each[1]) for each in made])
    order = np.argsort(-kept_scores, kind="stable")
    return Detections(
        torch.from_numpy(kept_boxes[order]).to(like.boxes),
        torch.from_numpy(kept_scores[order]).to(like.scores),
        torch.from_numpy(kept_labels[order]).to(like.labels),
    )


def _merged_class(
    boxes: Floats,
    scores: Floats,
    sources: NDArray[np.int64],
    frames: Floats,
    size: tuple[int, int],
    *,
    iou: float,
) -> tuple[Floats, Floats]:
    """Boxes and scores of one class, merged."""
    ends = _ends_at_inner_borders(boxes, frames[sources], size)
    groups = _joined(boxes, ends, sources, frames)
    hulls, best, is_piece, windows = [], [], [], []
    for group in groups:
        low, high = boxes[group, :2].min(axis=0), boxes[group, 2:].max(axis=0)
        hulls.append(np.concatenate((low, high)))
        best.append(scores[group].max())
        is_piece.append(len(group) == 1 and bool(ends[group[0]].any()))
        windows.append(int(sources[group[0]]) if len(group) == 1 else -1)
    return _without_duplicates(
        np.asarray(hulls).reshape(-1, 4),
        np.asarray(best),
        np.asarray(is_piece, np.bool_),
        np.asarray(windows, np.int64),
        iou=iou,
    )


def _ends_at_inner_borders(
    boxes: Floats, frames: Floats, size: tuple[int, int]
) -> NDArray[np.bool_]:
    """`(N, 4)` whether a box ends at its window's left, top, right, bottom border, if inner."""
    sides = boxes[:, 2:] - boxes[:, :2]
    near = np.maximum(LEAST_AT_BORDER, AT_BORDER * np.concatenate((sides, sides), axis=1))
    edges = np.asarray([0, 0, size[1], size[0]], np.float64)
    inner = np.abs(frames - edges) > 0.5
    return np.asarray((np.abs(boxes - frames) <= near) & inner)


def _joined(
    boxes: Floats, ends: NDArray[np.bool_], sources: NDArray[np.int64], frames: Floats
) -> list[list[int]]:
    """Positions of boxes that are one object, every box in one group."""
    parents = list(range(len(boxes)))

    def root(i: int) -> int:
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    for axis in (0, 1):
        first = np.flatnonzero(ends[:, axis + 2]).tolist()  # ends at the right (or lower) border
        second = np.flatnonzero(ends[:, axis])  # begins at the left (or upper) one
        for i in first:
            for j in second[_continues(boxes, i, second, sources, frames, axis)]:
                parents[root(int(j))] = root(i)
    groups: dict[int, list[int]] = {}
    for i in range(len(boxes)):
        groups.setdefault(root(i), []).append(i)
    return list(groups.values())


def _continues(
    boxes: Floats,
    i: int,
    others: NDArray[np.intp],
    sources: NDArray[np.int64],
    frames: Floats,
    axis: int,
) -> NDArray[np.bool_]:
    """Which of `others` go on where box `i` is cut off at its window's right (lower) border."""
    here, there = frames[sources[i]], frames[sources[others]]
    along = 1 - axis
    low, high = axis, axis + 2
    near = LEAST_AT_BORDER
    # The other window lies behind the border, and begins before it ends.
    is_behind = (there[:, high] > here[high]) & (there[:, low] > here[low])
    touches = there[:, low] <= here[high] + near
    # Both pieces run through all that the two windows share.
    runs = (boxes[i, low] <= there[:, low] + near) & (boxes[others, high] >= here[high] - near)
    # Compared where both windows look.
    top = np.maximum(there[:, along], here[along])
    bottom = np.minimum(there[:, along + 2], here[along + 2])
    mine = np.stack(
        (np.full(len(others), boxes[i, along]), np.full(len(others), boxes[i, along + 2]))
    )
    theirs = np.stack((boxes[others, along], boxes[others, along + 2]))
    mine, theirs = mine.clip(top, bottom), theirs.clip(top, bottom)
    shared = (np.minimum(mine[1], theirs[1]) - np.maximum(mine[0], theirs[0])).clip(min=0)
    union = np.maximum(mine[1], theirs[1]) - np.minimum(mine[0], theirs[0])
    agrees = shared >= SAME_EXTENT * np.maximum(union, 1e-9)
    return np.asarray(is_behind & touches & runs & agrees & (shared > 0))


def _without_duplicates(
    boxes: Floats,
    scores: Floats,
    is_piece: NDArray[np.bool_],
    windows: NDArray[np.int64],
    *,
    iou: float,
) -> tuple[Floats, Floats]:
    """Steps 2 and 3; joined boxes belong to no window (-1)."""
    rank = np.argsort(-scores * np.where(is_piece, PIECE_SCORE, 1.0), kind="stable")
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    is_left = np.ones(len(boxes), np.bool_)
    kept: list[int] = []
    for at, i in enumerate(rank.tolist()):
        if not is_left[i]:
            continue
        kept.append(i)
        rest = rank[at + 1 :]
        rest = rest[is_left[rest] & ((windows[rest] != windows[i]) | (windows[i] == -1))]
        span = np.minimum(boxes[rest, 2:], boxes[i, 2:]) - np.maximum(boxes[rest, :2], boxes[i, :2])
        shared = span.clip(min=0).prod(axis=1)
        is_same = shared > iou * np.maximum(areas[rest] + areas[i] - shared, 1e-12)
        is_part = is_piece[rest] & (shared > PIECE_INSIDE * areas[rest])
        is_left[rest[is_same | is_part]] = False
    return boxes[kept], scores[kept]
