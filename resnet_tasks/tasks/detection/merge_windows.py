"""Merging of detections of overlapping windows, without duplicates and without cut objects.

An object on the border of two windows appears in both: whole and cut, or cut twice. Detections of
each class are merged in three steps:

1. *Join pieces.* A box that ends at an inner border of its window is a piece. Two pieces from
   windows that touch or overlap are replaced by their hull with the higher score, if each piece
   extends through the whole overlap of the windows and their extents along the border agree
   (overlap of the intervals at least 0.5 of their union). An object larger than the overlap is thus
   restored.
2. *Drop duplicates.* Boxes are visited by descending score, where a piece counts half its score. A
   box is dropped if its IoU with a kept box of another window exceeds `iou`.
3. *Drop pieces of whole objects.* A piece is also dropped if more than half of its area lies inside
   a kept box of another window.

Boxes of the same window never suppress each other, because the head's NMS has already run on them.

Shape glossary: `N` detections of all windows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.arrays import array_like, as_array
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.tasks import Outputs, WindowLayout

Floats = NDArray[np.float64]
Frame = tuple[float, float, float, float]
Agreement = Callable[
    [Floats, int, NDArray[np.intp], NDArray[np.int64], Floats, int], NDArray[np.bool_]
]
"""Function that compares piece `i` with candidates; arguments as in `compare_extents`."""

AT_BORDER = 0.01
"""Maximum distance from a border at which a box counts as cut there, as a fraction of its side."""
LEAST_AT_BORDER = 2.0
"""Lower limit of that distance, in pixels."""
SAME_EXTENT = 0.5
"""Minimum overlap (intersection over union) of two pieces of one object along the border."""
PIECE_INSIDE = 0.5
"""Share of a piece inside another object above which the piece is dropped."""
PIECE_SCORE = 0.5
"""Factor of a piece's score when detections are ranked."""


AnyDetections = TypeVar("AnyDetections", bound=Detections)


@dataclass(frozen=True)
class WindowDetections(Generic[AnyDetections]):
    """Detections of one window, with or without masks.

    Attributes:
        detections: Detections in pixels of the original image.
        frame: xyxy of the window, pixels of the original image.
    """

    detections: AnyDetections
    frame: Frame


class DetectionMerger(Generic[AnyDetections]):
    """Merger of the detections of the windows of one image; see `WindowMerger`.

    Args:
        layout: Positions of the windows.
        decode: Function that converts the outputs of windows to detections; see `Task.decode`.
        merge: Function like `merge_detections`.
    """

    def __init__(
        self,
        layout: WindowLayout,
        decode: Callable[[Outputs, Sequence[Geometry]], list[AnyDetections]],
        merge: Callable[..., AnyDetections],
    ) -> None:
        self._layout, self._decode, self._merge = layout, decode, merge
        self._windows: list[WindowDetections[AnyDetections]] = []

    def add(
        self,
        boxes: Sequence[tuple[int, int, int, int]],
        outputs: Outputs,
        geometries: Sequence[Geometry],
    ) -> None:
        """Add a batch of windows."""
        self._windows += [
            WindowDetections(detections, self._layout.to_original(box))
            for box, detections in zip(boxes, self._decode(outputs, geometries), strict=True)
        ]

    def finish(self) -> AnyDetections:
        """Return the merged detections."""
        return self._merge(self._windows, self._layout.original_size, iou=self._layout.iou)


def merge_detections(
    windows: Sequence[WindowDetections[Detections]], size: tuple[int, int], *, iou: float = 0.5
) -> Detections:
    """Merge the detections of overlapping windows into detections of the image.

    Args:
        windows: Detections of each window, at least one window.
        size: (height, width) of the original image, pixels.
        iou: IoU above which boxes of one class are the same object.

    Returns:
        Detections sorted by descending score; those of a single window unchanged.
    """
    if len(windows) == 1:
        return windows[0].detections
    like = windows[0].detections
    boxes = np.concatenate([as_array(window.detections.boxes).reshape(-1, 4) for window in windows])
    scores = np.concatenate([as_array(window.detections.scores) for window in windows])
    labels = np.concatenate([as_array(window.detections.labels) for window in windows])
    sources = np.repeat(np.arange(len(windows)), [len(window.detections) for window in windows])
    frames = np.asarray([window.frame for window in windows], np.float64)
    merged_classes = [
        _merge_class(
            boxes[class_mask].astype(np.float64),
            scores[class_mask].astype(np.float64),
            sources[class_mask],
            frames,
            size,
            iou=iou,
        )
        for class_mask in (labels == label for label in np.unique(labels))
    ]
    kinds = np.unique(labels)
    kept_boxes = (
        np.concatenate([merged[0] for merged in merged_classes])
        if merged_classes
        else np.zeros((0, 4))
    )
    kept_scores = (
        np.concatenate([merged[1] for merged in merged_classes]) if merged_classes else np.zeros(0)
    )
    kept_labels = np.repeat(kinds, [len(merged[1]) for merged in merged_classes])
    order = np.argsort(-kept_scores, kind="stable")
    return Detections(
        array_like(like.boxes, kept_boxes[order]),
        array_like(like.scores, kept_scores[order]),
        array_like(like.labels, kept_labels[order]),
    )


def _merge_class(
    boxes: Floats,
    scores: Floats,
    sources: NDArray[np.int64],
    frames: Floats,
    size: tuple[int, int],
    *,
    iou: float,
) -> tuple[Floats, Floats]:
    """Merge the boxes and scores of one class."""
    ends = find_cut_sides(boxes, frames[sources], size)
    groups = group_pieces(boxes, ends, sources, frames, compare_extents)
    joined = join_groups(boxes, scores, ends, sources, groups)
    return _suppress_duplicates(joined, iou=iou)


@dataclass(frozen=True)
class JoinedObjects:
    """Objects of one class, with pieces joined.

    Attributes:
        boxes: `(N, 4)` xyxy, pixels of the original image; hulls of joined pieces.
        scores: `(N,)`, the highest of joined pieces.
        is_piece: `(N,)` bool, True for pieces without a counterpart.
        windows: `(N,)` window of each object; -1 for joined pieces.
    """

    boxes: Floats
    scores: Floats
    is_piece: NDArray[np.bool_]
    windows: NDArray[np.int64]


def join_groups(
    boxes: Floats,
    scores: Floats,
    ends: NDArray[np.bool_],
    sources: NDArray[np.int64],
    groups: Sequence[list[int]],
) -> JoinedObjects:
    """Join the boxes of each group to one object; arguments as in `group_pieces`."""
    hulls, best, is_piece, windows = [], [], [], []
    for group in groups:
        low, high = boxes[group, :2].min(axis=0), boxes[group, 2:].max(axis=0)
        hulls.append(np.concatenate((low, high)))
        best.append(scores[group].max())
        is_piece.append(len(group) == 1 and bool(ends[group[0]].any()))
        windows.append(int(sources[group[0]]) if len(group) == 1 else -1)
    return JoinedObjects(
        np.asarray(hulls).reshape(-1, 4),
        np.asarray(best),
        np.asarray(is_piece, np.bool_),
        np.asarray(windows, np.int64),
    )


def find_cut_sides(boxes: Floats, frames: Floats, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return whether each box ends at the left, top, right, bottom border of its window, `(N, 4)`.

    Borders of the image itself do not count.

    Args:
        boxes: `(N, 4)` xyxy, pixels of the original image.
        frames: `(N, 4)` xyxy, window of each box.
        size: (height, width) of the original image, pixels.
    """
    sides = boxes[:, 2:] - boxes[:, :2]
    near = np.maximum(LEAST_AT_BORDER, AT_BORDER * np.concatenate((sides, sides), axis=1))
    edges = np.asarray([0, 0, size[1], size[0]], np.float64)
    inner = np.abs(frames - edges) > 0.5
    return np.asarray((np.abs(boxes - frames) <= near) & inner)


def group_pieces(
    boxes: Floats,
    ends: NDArray[np.bool_],
    sources: NDArray[np.int64],
    frames: Floats,
    agreement: Agreement,
) -> list[list[int]]:
    """Group the positions of boxes that are pieces of one object; every box is in one group.

    Args:
        boxes: `(N, 4)` xyxy, pixels of the original image.
        ends: `(N, 4)` sides where a box is cut; see `find_cut_sides`.
        sources: `(N,)` window of each box.
        frames: `(W, 4)` xyxy of the windows.
        agreement: Function that compares a piece with its possible continuations.
    """
    parents = list(range(len(boxes)))

    def find_root(i: int) -> int:
        # Union-find with path halving.
        while parents[i] != i:
            parents[i] = parents[parents[i]]
            i = parents[i]
        return i

    for axis in (0, 1):
        first = np.flatnonzero(ends[:, axis + 2]).tolist()  # ends at the right (or lower) border
        second = np.flatnonzero(ends[:, axis])  # begins at the left (or upper) one
        for i in first:
            candidates = second[_find_continuations(boxes, i, second, sources, frames, axis)]
            agrees = agreement(boxes, i, candidates, sources, frames, axis)
            for j in candidates[agrees].tolist():
                parents[find_root(j)] = find_root(i)
    groups: dict[int, list[int]] = {}
    for i in range(len(boxes)):
        groups.setdefault(find_root(i), []).append(i)
    return list(groups.values())


def _find_continuations(
    boxes: Floats,
    i: int,
    candidates: NDArray[np.intp],
    sources: NDArray[np.int64],
    frames: Floats,
    axis: int,
) -> NDArray[np.bool_]:
    """Return which of `candidates` can continue box `i` beyond a right (lower) window border."""
    own_frame, other_frames = frames[sources[i]], frames[sources[candidates]]
    low, high = axis, axis + 2
    near = LEAST_AT_BORDER
    # The other window extends beyond the border and starts further right (lower).
    is_behind = (other_frames[:, high] > own_frame[high]) & (other_frames[:, low] > own_frame[low])
    touches = other_frames[:, low] <= own_frame[high] + near
    # Both pieces extend through the whole overlap of the two windows.
    runs = (boxes[i, low] <= other_frames[:, low] + near) & (
        boxes[candidates, high] >= own_frame[high] - near
    )
    return np.asarray(is_behind & touches & runs)


def compare_extents(
    boxes: Floats,
    i: int,
    candidates: NDArray[np.intp],
    sources: NDArray[np.int64],
    frames: Floats,
    axis: int,
) -> NDArray[np.bool_]:
    """Return which of `candidates` have the same extent as box `i` along the border.

    Args:
        boxes: `(N, 4)` xyxy of all boxes, pixels of the original image.
        i: Box that ends at the right (lower) border of its window.
        candidates: `(C,)` boxes that begin at the left (upper) border of their windows.
        sources: `(N,)` window of each box.
        frames: `(W, 4)` xyxy of the windows.
        axis: 0: the border is vertical; 1: it is horizontal.

    Returns:
        `(C,)` bool.
    """
    own_frame, other_frames = frames[sources[i]], frames[sources[candidates]]
    along = 1 - axis
    # Extents along the border, clipped to the range that both windows cover.
    top = np.maximum(other_frames[:, along], own_frame[along])
    bottom = np.minimum(other_frames[:, along + 2], own_frame[along + 2])
    extents = np.stack(
        (np.full(len(candidates), boxes[i, along]), np.full(len(candidates), boxes[i, along + 2]))
    )
    other_extents = np.stack((boxes[candidates, along], boxes[candidates, along + 2]))
    extents, other_extents = extents.clip(top, bottom), other_extents.clip(top, bottom)
    shared = (
        np.minimum(extents[1], other_extents[1]) - np.maximum(extents[0], other_extents[0])
    ).clip(min=0)
    union = np.maximum(extents[1], other_extents[1]) - np.minimum(extents[0], other_extents[0])
    return np.asarray((shared >= SAME_EXTENT * np.maximum(union, 1e-9)) & (shared > 0))


def _suppress_duplicates(objects: JoinedObjects, *, iou: float) -> tuple[Floats, Floats]:
    """Apply steps 2 and 3; joined boxes belong to no window (-1)."""
    boxes, scores = objects.boxes, objects.scores
    is_piece, windows = objects.is_piece, objects.windows
    rank = np.argsort(-scores * np.where(is_piece, PIECE_SCORE, 1.0), kind="stable")
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    is_remaining = np.ones(len(boxes), np.bool_)
    kept_indices: list[int] = []
    for position, i in enumerate(rank.tolist()):
        if not is_remaining[i]:
            continue
        kept_indices.append(i)
        remaining = rank[position + 1 :]
        remaining = remaining[
            is_remaining[remaining] & ((windows[remaining] != windows[i]) | (windows[i] == -1))
        ]
        span = np.minimum(boxes[remaining, 2:], boxes[i, 2:]) - np.maximum(
            boxes[remaining, :2], boxes[i, :2]
        )
        shared = span.clip(min=0).prod(axis=1)
        is_same = shared > iou * np.maximum(areas[remaining] + areas[i] - shared, 1e-12)
        is_part = is_piece[remaining] & (shared > PIECE_INSIDE * areas[remaining])
        is_remaining[remaining[is_same | is_part]] = False
    return boxes[kept_indices], scores[kept_indices]
