"""Merging of instances of overlapping windows, without duplicates and without cut objects.

The steps are those of `detection.merge_windows`, with masks in place of boxes:

1. *Join pieces.* An instance whose box ends at an inner border of its window is a piece. Two pieces
   are joined if their boxes extend through the whole overlap of their windows and their masks agree
   inside that overlap (IoU of at least 0.5; windows that only touch are compared by the extents of
   the boxes). The mask of the object is the union of its pieces, the box their hull, the score
   the highest one.
2. *Drop duplicates.* Instances are visited by descending score, where a piece counts half its
   score. An instance is dropped if its mask IoU with a kept instance of another window exceeds
   `iou`.
3. *Drop pieces of whole objects.* A piece is also dropped if more than half of its pixels lie in a
   kept instance of another window.

Masks stay compressed. An instance without any pixel is compared by its box.

Shape glossary: `N` instances of one class in all windows, `W` windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.arrays import array_like, as_array
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
from resnet_tasks.structures.run_lengths import (
    Rle,
    compute_area,
    compute_covered_fractions,
    compute_mask_iou,
    compute_tight_boxes,
    encode_rectangle,
    intersect_masks,
    unite_masks,
)
from resnet_tasks.tasks.detection.merge_windows import (
    PIECE_INSIDE,
    PIECE_SCORE,
    SAME_EXTENT,
    Floats,
    JoinedObjects,
    WindowDetections,
    compare_extents,
    find_cut_sides,
    group_pieces,
    join_groups,
)


def merge_instances(
    windows: Sequence[WindowDetections[InstanceSegmentation]],
    size: tuple[int, int],
    *,
    iou: float = 0.5,
) -> InstanceSegmentation:
    """Merge the instances of overlapping windows into instances of the image.

    Args:
        windows: Instances of each window, at least one window.
        size: (height, width) of the original image, pixels.
        iou: Mask IoU above which instances of one class are the same object.

    Returns:
        Instances sorted by descending score; those of a single window unchanged.
    """
    like = windows[0].detections
    if len(windows) == 1:
        return like
    boxes = np.concatenate([as_array(w.detections.boxes).reshape(-1, 4) for w in windows])
    scores = np.concatenate([as_array(w.detections.scores) for w in windows]).astype(np.float64)
    labels = np.concatenate([as_array(w.detections.labels) for w in windows])
    masks = [mask for window in windows for mask in window.detections.segmentations]
    sources = np.repeat(np.arange(len(windows)), [len(window.detections) for window in windows])
    frames = np.asarray([window.frame for window in windows], np.float64)
    kept_boxes, kept_scores, kept_labels = [np.zeros((0, 4))], [np.zeros(0)], [labels[:0]]
    kept_masks: list[Rle] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        objects, joined_masks = _join_pieces(
            boxes[members].astype(np.float64),
            scores[members],
            [masks[i] for i in members.tolist()],
            sources[members],
            frames,
            size,
        )
        kept_indices = _suppress_duplicates(objects, joined_masks, size, iou=iou)
        kept_boxes.append(objects.boxes[kept_indices])
        kept_scores.append(objects.scores[kept_indices])
        kept_labels.append(np.full(len(kept_indices), label, labels.dtype))
        kept_masks += [joined_masks[i] for i in kept_indices]
    all_scores = np.concatenate(kept_scores)
    order = np.argsort(-all_scores, kind="stable")
    return InstanceSegmentation(
        array_like(like.boxes, np.concatenate(kept_boxes)[order]),
        array_like(like.scores, all_scores[order]),
        array_like(like.labels, np.concatenate(kept_labels)[order]),
        tuple(kept_masks[i] for i in order.tolist()),
    )


def _join_pieces(
    boxes: Floats,
    scores: Floats,
    masks: list[Rle],
    sources: NDArray[np.int64],
    frames: Floats,
    size: tuple[int, int],
) -> tuple[JoinedObjects, list[Rle]]:
    """Apply step 1 to the instances of one class, and return the objects and their masks."""

    def compare_masks(
        all_boxes: Floats,
        i: int,
        candidates: NDArray[np.intp],
        all_sources: NDArray[np.int64],
        all_frames: Floats,
        axis: int,
    ) -> NDArray[np.bool_]:
        agrees = compare_extents(all_boxes, i, candidates, all_sources, all_frames, axis)
        for position, j in enumerate(candidates.tolist()):
            frame, other_frame = all_frames[all_sources[i]], all_frames[all_sources[j]]
            low, high = (
                np.maximum(frame[:2], other_frame[:2]),
                np.minimum(frame[2:], other_frame[2:]),
            )
            overlap = encode_rectangle([*low.tolist(), *high.tolist()], size)
            parts = [intersect_masks([mask, overlap]) for mask in (masks[i], masks[j])]
            if any(compute_area(part) for part in parts):
                shared = compute_mask_iou(parts[:1], parts[1:])[0, 0]
                agrees[position] = shared >= SAME_EXTENT
        return agrees

    ends = find_cut_sides(boxes, frames[sources], size)
    groups = group_pieces(boxes, ends, sources, frames, compare_masks)
    joined_masks = [unite_masks([masks[i] for i in group]) for group in groups]
    return join_groups(boxes, scores, ends, sources, groups), joined_masks


def _suppress_duplicates(
    objects: JoinedObjects, masks: Sequence[Rle], size: tuple[int, int], *, iou: float
) -> list[int]:
    """Apply steps 2 and 3, and return the positions of the kept objects."""
    areas = np.asarray([compute_area(mask) for mask in masks], np.float64)
    regions = [
        mask if area else encode_rectangle(box, size)
        for mask, area, box in zip(masks, areas, objects.boxes.tolist(), strict=True)
    ]
    areas = np.asarray([compute_area(region) for region in regions], np.float64)
    windows, is_piece = objects.windows, objects.is_piece
    rank = np.argsort(-objects.scores * np.where(is_piece, PIECE_SCORE, 1.0), kind="stable")
    # Sorted by rank and one array per coordinate, so that slices are compared without copies.
    x1, y1, x2, y2 = np.ascontiguousarray(compute_tight_boxes(regions)[rank].T)
    is_remaining = np.ones(len(rank), np.bool_)
    kept_indices: list[int] = []
    for position, i in enumerate(rank.tolist()):
        if not is_remaining[position]:
            continue
        kept_indices.append(i)
        after = slice(position + 1, None)
        # The boxes around the pixels touch for few masks, and only these masks are compared.
        touches = is_remaining[after] & (x1[after] < x2[position]) & (x2[after] > x1[position])
        touches &= (y1[after] < y2[position]) & (y2[after] > y1[position])
        places = position + 1 + np.flatnonzero(touches)
        others = rank[places]
        is_foreign = (windows[others] != windows[i]) | (windows[i] == -1)
        places, others = places[is_foreign], others[is_foreign]
        covered = compute_covered_fractions([regions[j] for j in others.tolist()], regions[i])
        shared = covered * areas[others]
        is_same = shared > iou * np.maximum(areas[others] + areas[i] - shared, 1e-12)
        is_part = is_piece[others] & (covered > PIECE_INSIDE)
        is_remaining[places[is_same | is_part]] = False
    return kept_indices
