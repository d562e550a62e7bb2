"""Fusion of the detections of several views of an image.

Shape glossary: `V` views, `N` detections of all views.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.arrays import array_like, as_array
from resnet_tasks.structures.predictions.detections import Detections

FUSION_IOU = 0.55  # Solovyev et al. 2021


def fuse_detections(views: Sequence[Detections]) -> Detections:
    """Fuse detections of several views; see `fuse_with_members`."""
    return fuse_with_members(views)[0]


def fuse_with_members(views: Sequence[Detections]) -> tuple[Detections, list[list[int]]]:
    """Fuse detections of several views by weighted boxes fusion.

    Boxes of one object are replaced by their mean, weighted by score. The score is the sum over the
    views divided by the number of views: an object that only some views detect gets a lower score
    (Solovyev et al., Weighted boxes fusion, Image and Vision Computing 2021). One deviation: a view
    contributes only its best box to an object. Scores therefore stay at most 1, and boxes of one
    view are never fused with each other.

    Args:
        views: Detections of the same image, one or more views.

    Returns:
        Detections sorted by descending score, at most as many as the view with the most detections
        has; and for each detection, the positions of its members in the concatenated views.
    """
    boxes = np.concatenate([as_array(view.boxes).reshape(-1, 4) for view in views]).astype(float)
    scores = np.concatenate([as_array(view.scores) for view in views]).astype(float)
    labels = np.concatenate([as_array(view.labels) for view in views])
    sources = np.repeat(np.arange(len(views)), [len(view) for view in views])
    objects = _FusedObjects(len(scores), len(views))
    members: list[list[int]] = [[] for _ in scores]
    for i in np.argsort(-scores, kind="stable").tolist():
        members[objects.add(boxes[i], scores[i], labels[i], sources[i])].append(i)
    totals = objects.totals[: objects.number] / len(views)
    best = np.argsort(-totals, kind="stable")[: max(len(view) for view in views)]
    like = views[0]
    fused = Detections(
        array_like(like.boxes, objects.boxes[best]),
        array_like(like.scores, totals[best]),
        array_like(like.labels, objects.labels[best]),
    )
    return fused, [members[i] for i in best.tolist()]


class _FusedObjects:
    """Objects fused so far, each with its mean box.

    Args:
        capacity: Maximum number of objects.
        num_views: Number of views, V.
    """

    def __init__(self, capacity: int, num_views: int) -> None:
        self.number = 0
        self.boxes = np.zeros((capacity, 4))
        self.totals = np.zeros(capacity)
        self.labels = np.zeros(capacity, np.int64)
        self.has_view = np.zeros((capacity, num_views), np.bool_)

    def add(self, box: NDArray[np.float64], score: float, label: int, view: int) -> int:
        """Add a box to the object of its class that it overlaps most, or create a new object.

        Returns:
            Index of the object.
        """
        overlaps = _compute_iou(self.boxes[: self.number], box)
        overlaps[self.labels[: self.number] != label] = 0.0
        overlaps[self.has_view[: self.number, view]] = 0.0
        index = int(overlaps.argmax()) if self.number else 0
        if not self.number or overlaps[index] <= FUSION_IOU:
            index, self.number = self.number, self.number + 1
            self.labels[index], self.boxes[index] = label, box
        total = self.totals[index] + score
        if total > 0:
            # Running weighted mean: the scores sum to `total`.
            self.boxes[index] += (box - self.boxes[index]) * (score / total)
        self.totals[index] = total
        self.has_view[index, view] = True
        return index


def _compute_iou(boxes: NDArray[np.float64], box: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the `(N,)` intersection over union of `(N, 4)` xyxy boxes with one box."""
    size = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
    shared = size.clip(min=0).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod()
    return np.asarray(shared / np.maximum(areas - shared, 1e-12))
