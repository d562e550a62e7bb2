"""Drawing of the ground truth of an image, in the style of predictions."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.evaluation import VOID, GroundTruth
from resnet_tasks.structures.predictions.base import Canvas
from resnet_tasks.structures.run_lengths import Rle, decode_bitmap


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
    masks, mask_labels = _select_masks(truth) if "masks" in fields else ([], np.zeros(0, np.int64))
    if "semantic" in fields and truth.semantic is not None:
        canvas.draw_map(_clear_pixels(truth.semantic, masks), classes)
    if masks:
        canvas.draw_masks(map(_decode_window, masks), mask_labels)
    if "boxes" in fields and truth.boxes_xywh is not None and truth.labels is not None:
        low, sides = truth.boxes_xywh[:, :2], truth.boxes_xywh[:, 2:]
        canvas.draw_boxes(np.concatenate((low, low + sides), axis=1), truth.labels, classes, None)
    if "image_labels" in fields and truth.image_labels is not None:
        for label in truth.image_labels[truth.image_labels >= 0].tolist():
            canvas.write_line(classes[label], label)


def _select_masks(truth: GroundTruth) -> tuple[list[Rle], NDArray[np.int64]]:
    """Return the masks of the objects that have one, and the labels of these objects."""
    if truth.segmentations is None or truth.labels is None:
        return [], np.zeros(0, np.int64)
    has_mask = [rle is not None for rle in truth.segmentations]
    return [rle for rle in truth.segmentations if rle is not None], truth.labels[has_mask]


def _decode_window(rle: Rle) -> tuple[int, int, NDArray[np.bool_]]:
    bitmap, left, top = decode_bitmap(rle)
    return left, top, bitmap


def _clear_pixels(labels: NDArray[np.int64], masks: Sequence[Rle]) -> NDArray[np.int64]:
    """Return the label map without the pixels of masks, which would be colored twice."""
    if not masks:
        return labels
    cleared = labels.copy()
    for left, top, bitmap in map(_decode_window, masks):
        height, width = bitmap.shape
        cleared[top : top + height, left : left + width][bitmap] = VOID
    return cleared
