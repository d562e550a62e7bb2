"""Drawing of the ground truth of an image, in the style of predictions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.evaluation import VOID, GroundTruth
from resnet_tasks.structures.predictions.base import Canvas
from resnet_tasks.structures.run_lengths import decode_bitmap

Mask = tuple[int, int, NDArray[np.bool_]]
"""(left, top, `(h, w)` bitmap) of a mask."""


def draw_annotations(
    canvas: Canvas, truth: GroundTruth, classes: Sequence[str], fields: Collection[str]
) -> None:
    """Draw some annotations of an image: the label map, masks over it, then boxes and text.

    Args:
        canvas: Drawing surface.
        truth: Ground truth, with masks as compressed RLE. Annotations that it lacks are skipped.
        classes: Class names of its labels.
        fields: Fields of `Target` to draw: `semantic`, `masks`, `boxes` and `image_labels`; others
            have no drawing.
    """
    masks, mask_labels = _decode_masks(truth) if "masks" in fields else ([], np.zeros(0, np.int64))
    if "semantic" in fields and truth.semantic is not None:
        canvas.draw_map(_clear_pixels(truth.semantic, masks), classes)
    if masks:
        canvas.draw_masks(masks, mask_labels)
    if "boxes" in fields and truth.boxes_xywh is not None and truth.labels is not None:
        low, sides = truth.boxes_xywh[:, :2], truth.boxes_xywh[:, 2:]
        canvas.draw_boxes(np.concatenate((low, low + sides), axis=1), truth.labels, classes, None)
    if "image_labels" in fields and truth.image_labels is not None:
        for label in truth.image_labels[truth.image_labels >= 0].tolist():
            canvas.write_line(classes[label], label)


def _decode_masks(truth: GroundTruth) -> tuple[list[Mask], NDArray[np.int64]]:
    """Return the masks of the objects that have one, and the labels of these objects."""
    masks, labels = [], []
    if truth.segmentations is not None and truth.labels is not None:
        for rle, label in zip(truth.segmentations, truth.labels.tolist(), strict=True):
            if rle is not None:
                bitmap, left, top = decode_bitmap(rle)
                masks.append((left, top, bitmap))
                labels.append(label)
    return masks, np.asarray(labels, np.int64)


def _clear_pixels(labels: NDArray[np.int64], masks: Sequence[Mask]) -> NDArray[np.int64]:
    """Return the label map without the pixels of masks, which would be colored twice."""
    if not masks:
        return labels
    cleared = labels.copy()
    for left, top, bitmap in masks:
        height, width = bitmap.shape
        cleared[top : top + height, left : left + width][bitmap] = VOID
    return cleared
