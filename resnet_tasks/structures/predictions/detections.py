"""Detected objects of one image.

Shape glossary: `N` objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.predictions.base import OBJECTS, Canvas, Prediction, are_labels
from resnet_tasks.structures.predictions.comparison import OutputDifference, Tolerance

if TYPE_CHECKING:
    from torch import Tensor

AnyDetections = TypeVar("AnyDetections", bound="Detections")


@dataclass(frozen=True)
class Detections(Prediction):
    """Detected objects of one image, sorted by descending score.

    Attributes:
        boxes: `(N, 4)` float32 xyxy, pixels of the original image.
        scores: `(N,)` float32, 0..1, in descending order.
        labels: `(N,)` int64, indices into the head's classes.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    drawing_order: ClassVar[int] = OBJECTS

    def __len__(self) -> int:
        return len(self.boxes)

    def select(self: AnyDetections, indices: Any) -> AnyDetections:
        """Return the objects at some indices, in that order."""
        return replace(
            self,
            boxes=self.boxes[indices],
            scores=self.scores[indices],
            labels=self.labels[indices],
        )

    def filter_by_score(self: AnyDetections, min_score: float | Sequence[float]) -> AnyDetections:
        """Return the objects with a minimum score, given for all objects or per label."""
        scores = as_array(self.scores)
        limits = np.asarray(min_score, scores.dtype)
        if limits.ndim:
            limits = limits[as_array(self.labels)]
        return self.select(np.flatnonzero(scores >= limits))

    def resize(
        self: AnyDetections, ratio: tuple[float, float], size: tuple[int, int]
    ) -> AnyDetections:
        """Return the objects in pixels of a downscaled drawing."""
        del size
        boxes: Any = as_array(self.boxes)
        factor = np.asarray([ratio[1], ratio[0], ratio[1], ratio[0]], boxes.dtype)
        return replace(self, boxes=boxes * factor)

    def draw(
        self, canvas: Canvas, classes: Sequence[str], min_score: float, prefix: str = ""
    ) -> None:
        """Draw the boxes with class names and scores."""
        del prefix
        boxes, labels, scores = map(as_array, (self.boxes, self.labels, self.scores))
        drawn = scores >= min_score
        canvas.draw_boxes(boxes[drawn], labels[drawn], classes, scores[drawn])

    def to_results(
        self, image_id: int | str, category_ids: Sequence[int], min_score: float = 0.0
    ) -> list[dict[str, Any]]:
        """Return the entries of a COCO results file, numbers at full precision."""
        del min_score
        corners = as_array(self.boxes).astype(np.float64).reshape(-1, 4)
        boxes = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1).tolist()
        scores = as_array(self.scores).astype(np.float64).tolist()
        labels = as_array(self.labels).tolist()
        return [
            {"image_id": image_id, "category_id": category_ids[label], "bbox": box, "score": score}
            for box, score, label in zip(boxes, scores, labels, strict=True)
        ]

    def compare(self, other: Any, tolerance: Tolerance, difference: OutputDifference) -> None:
        """Match objects of the same class within the tolerance, greedily by distance."""
        for index, match in self._match(other, tolerance, difference):
            self._compare_pair(index, other, match, difference)

    def _compare_pair(
        self, index: int, other: Any, match: int, difference: OutputDifference
    ) -> None:
        """Add the differences of two matched objects."""
        gaps = np.abs(as_array(other.boxes)[match] - as_array(self.boxes)[index])
        difference.box = max(difference.box, float(gaps.max()))
        gap = np.abs(as_array(other.scores)[match] - as_array(self.scores)[index])
        difference.score = max(difference.score, float(gap))

    def _match(
        self, other: Any, tolerance: Tolerance, difference: OutputDifference
    ) -> list[tuple[int, int]]:
        """Return the pairs of matching objects, and count the objects without a counterpart."""
        boxes, other_boxes = (as_array(d.boxes).reshape(-1, 4) for d in (self, other))
        scores, other_scores = as_array(self.scores), as_array(other.scores)
        labels, other_labels = as_array(self.labels), as_array(other.labels)
        difference.detections += len(boxes) + len(other_boxes)
        difference.scores += float(scores.sum()) + float(other_scores.sum())
        free = np.ones(len(other_boxes), np.bool_)
        pairs = []
        for index, (box, score, label) in enumerate(zip(boxes, scores, labels, strict=True)):
            gaps: NDArray[Any] = np.abs(other_boxes - box).max(axis=1, initial=0.0)
            good = free & (other_labels == label) & (gaps <= tolerance.box)
            good &= np.abs(other_scores - score) <= tolerance.score
            if not good.any():
                difference.unmatched += 1
                difference.unmatched_scores += float(score)
                continue
            match = int(np.argmin(np.where(good, gaps, np.inf)))
            free[match] = False
            pairs.append((index, match))
        difference.unmatched += int(free.sum())
        difference.unmatched_scores += float(other_scores[free].sum())
        return pairs

    def find_problem(self, size: tuple[int, int], num_classes: int) -> str | None:
        """Check shapes, types, the range of all values, and the order of the scores."""
        boxes, scores, labels = map(as_array, (self.boxes, self.scores, self.labels))
        number = len(scores)
        if boxes.shape != (number, 4) or not labels.shape == scores.shape == (number,):
            return (
                "boxes, scores and labels must have the shapes (N, 4), (N,) and (N,), got "
                f"{boxes.shape}, {scores.shape} and {labels.shape}"
            )
        if not boxes.dtype == scores.dtype == np.float32 or labels.dtype != np.int64:
            return (
                "boxes and scores must be float32 and labels int64, got "
                f"{boxes.dtype}, {scores.dtype} and {labels.dtype}"
            )
        is_inside = (boxes >= 0) & (boxes <= np.asarray([size[1], size[0]] * 2, np.float32))
        if not is_inside.all() or not (boxes[:, :2] < boxes[:, 2:]).all():
            return (
                f"decoded boxes must be xyxy inside the original image of {size[0]} x {size[1]} "
                "pixels"
            )
        if not ((scores >= 0) & (scores <= 1)).all() or (np.diff(scores) > 0).any():
            return "scores must lie in 0..1 and be in descending order"
        if not are_labels(labels, num_classes):
            return f"labels must be indices into the {num_classes} classes"
        return None
