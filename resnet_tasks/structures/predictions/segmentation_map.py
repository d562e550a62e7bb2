"""Class of every pixel of one image.

Shape glossary: `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.label_maps import resize_labels
from resnet_tasks.structures.predictions.base import MAPS, Canvas, Prediction, are_labels
from resnet_tasks.structures.predictions.comparison import OutputDifference, Tolerance

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class SegmentationMap(Prediction):
    """Class of every pixel of one image, at its original size.

    Attributes:
        labels: `(height, width)` integers, indices into the head's classes; int64 from `decode`, a
            narrower type for maps merged from windows.
        probs: `(K, height, width)` float32, sums to 1 over classes; None if the probabilities were
            not kept (large images).
        confidence: `(height, width)` float32 probability of the label, if it was kept instead of
            `probs`.
    """

    labels: Tensor
    probs: Tensor | None
    confidence: Tensor | None = None

    drawing_order: ClassVar[int] = MAPS

    def resize(self, ratio: tuple[float, float], size: tuple[int, int]) -> SegmentationMap:
        """Return the labels at the pixel centers of a downscaled drawing, without probabilities."""
        del ratio
        labels: Any = resize_labels(as_array(self.labels), size).astype(np.int64)
        return SegmentationMap(labels, None)

    def draw(
        self, canvas: Canvas, classes: Sequence[str], min_score: float, prefix: str = ""
    ) -> None:
        """Blend the classes over the image, except the background."""
        del min_score, prefix
        canvas.draw_map(as_array(self.labels), classes)

    def to_label_image(self, category_ids: Sequence[int]) -> NDArray[Any]:
        """Return the `(height, width)` category ids, as uint8 if they fit, else uint16."""
        table = np.asarray(category_ids, dtype=np.uint8 if max(category_ids) < 255 else np.uint16)
        return np.asarray(table[as_array(self.labels)])

    def compare(self, other: Any, tolerance: Tolerance, difference: OutputDifference) -> None:
        """Compare the class and the probabilities of every pixel."""
        del tolerance
        labels, other_labels = as_array(self.labels), as_array(other.labels)
        if self.probs is not None and other.probs is not None:
            gaps = np.abs(as_array(self.probs) - as_array(other.probs))
            difference.add_score_gap(gaps.max(axis=0).mean())
        difference.differing_pixels += int((labels != other_labels).sum())
        difference.compared_pixels += labels.size

    def find_problem(self, size: tuple[int, int], num_classes: int) -> str | None:
        """Check shapes, types and values of the labels, and of the probabilities if present."""
        labels, shape = as_array(self.labels), (num_classes, *size)
        if labels.shape != size or labels.dtype.kind not in "iu":
            return (
                f"labels must be integers of the original image's size {size}, got {labels.dtype} "
                f"of shape {labels.shape}"
            )
        if not are_labels(labels, num_classes):
            return f"labels must be indices into the {num_classes} classes"
        if self.probs is None:
            return None
        probs = as_array(self.probs)
        if probs.shape != shape or probs.dtype != np.float32:
            return (
                f"probs must be float32 and have the original image's size, {shape}, got "
                f"{probs.dtype} of shape {probs.shape}"
            )
        if (probs < 0).any() or not np.abs(probs.sum(axis=0) - 1).max() < 1e-4:
            return "the probabilities of a pixel must lie in 0..1 and sum to 1 over classes"
        return None
