"""Detected objects of one image with their masks.

Shape glossary: `N` objects, `h, w` the window of a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from resnet_tasks.number_formats import Count
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.predictions.base import Canvas
from resnet_tasks.structures.predictions.comparison import OutputDifference
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.run_lengths import (
    Rle,
    compute_area,
    decode_bitmap,
    decode_counts,
    intersect_masks,
    resize_mask,
    unite_masks,
)


@dataclass(frozen=True)
class InstanceSegmentation(Detections):
    """Detected objects of one image with their masks, sorted by descending score.

    Masks stay compressed; a stack of bitmaps of the full image is never created.

    Attributes:
        segmentations: `(N,)` masks, compressed COCO RLE of the original image; empty where no pixel
            is part of the object.
    """

    segmentations: tuple[Rle, ...]

    drawing_order: ClassVar[int] = Detections.drawing_order

    def select(self, indices: Any) -> InstanceSegmentation:
        """Return the objects at some indices, in that order."""
        positions = as_array(indices)
        if positions.dtype == np.bool_:
            positions = np.flatnonzero(positions)
        segmentations = tuple(self.segmentations[i] for i in positions.tolist())
        return replace(super().select(indices), segmentations=segmentations)

    def resize(self, ratio: tuple[float, float], size: tuple[int, int]) -> InstanceSegmentation:
        """Return the objects in pixels of a downscaled drawing."""
        segmentations = tuple(resize_mask(rle, size) for rle in self.segmentations)
        return replace(super().resize(ratio, size), segmentations=segmentations)

    def draw(
        self, canvas: Canvas, classes: Sequence[str], min_score: float, prefix: str = ""
    ) -> None:
        """Blend the masks over the image, and draw the boxes with class names and scores."""
        drawn = np.flatnonzero(as_array(self.scores) >= min_score)
        masks = (_decode_window(self.segmentations[i]) for i in drawn.tolist())
        canvas.draw_masks(masks, as_array(self.labels)[drawn])
        super().draw(canvas, classes, min_score, prefix)

    def to_results(
        self, image_id: int | str, category_ids: Sequence[int], min_score: float = 0.0
    ) -> list[dict[str, Any]]:
        """Return the entries of a COCO results file, one per object, with box and mask."""
        entries = super().to_results(image_id, category_ids, min_score)
        return [
            {
                **entry,
                "segmentation": {
                    "size": list(rle["size"]),
                    "counts": rle["counts"].decode("ascii"),
                },
            }
            for entry, rle in zip(entries, self.segmentations, strict=True)
        ]

    def find_problem(self, size: tuple[int, int], num_classes: int) -> str | None:
        """Check the rules of `Detections`, the number of masks, and the size of each mask."""
        problem = super().find_problem(size, num_classes)
        if problem is not None:
            return problem
        if len(self.segmentations) != len(self):
            return (
                f"segmentations must hold one mask per box, got "
                f"{Count(len(self.segmentations)):mask} for {Count(len(self)):box}"
            )
        for index, rle in enumerate(self.segmentations):
            if tuple(rle["size"]) != size:
                return (
                    f"the size of a mask must be the original image's, {list(size)}, got "
                    f"{list(rle['size'])} for mask {index}"
                )
            counts = decode_counts(rle["counts"]) if isinstance(rle["counts"], bytes) else None
            if counts is None or sum(counts) != size[0] * size[1]:
                return (
                    "the counts of a mask must be compressed run lengths (bytes) of all pixels of "
                    f"the image, which those of mask {index} are not"
                )
        return None

    def _compare_pair(
        self, index: int, other: Any, match: int, difference: OutputDifference
    ) -> None:
        """Add the differences of two matched objects, and the pixels in only one of the masks."""
        super()._compare_pair(index, other, match, difference)
        masks = (self.segmentations[index], other.segmentations[match])
        union = compute_area(unite_masks(masks))
        difference.compared_pixels += union
        difference.differing_pixels += union - compute_area(intersect_masks(masks))


def _decode_window(rle: Rle) -> tuple[int, int, Any]:
    bitmap, left, top = decode_bitmap(rle)
    return left, top, bitmap
