"""Pasting of mask logits into their boxes, one instance at a time.

The pixel center (x + 0.5, y + 0.5) of the image maps to the coordinate
`(x + 0.5 - x1) / (x2 - x1) * M - 0.5` of a mask with `M` cells per side (Detectron2). Probabilities
are sampled there bilinearly, with zeros outside the mask, and thresholded. Boxes keep their
fractional coordinates: torchvision truncates them, which shifts masks by up to a pixel.

Memory does not depend on the number of instances: a mask is sampled in blocks of columns, whose
runs become the RLE of the image.

Shape glossary: `B` images, `D` instances per image, `M` mask cells per side, `w, h` a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.arrays import as_array, as_float32, sigmoid
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.instance_segmentation import InstanceSegmentation
from resnet_tasks.structures.run_lengths import (
    Rle,
    compute_pixel_range,
    encode_runs,
    find_runs,
)
from resnet_tasks.structures.tasks import Outputs
from resnet_tasks.tasks.detection.task import select_valid

MASK_THRESHOLD = 0.5
"""Minimum probability of an object pixel."""
_BLOCK_PIXELS = 1 << 19
"""Maximum number of pixels that are sampled at once (2 MiB of float32)."""


def decode_instances(
    outputs: Outputs, geometries: Sequence[Geometry]
) -> list[InstanceSegmentation]:
    """Decode the declared outputs to instances in pixels of the original images, best first.

    Boxes are clipped to the image, masks keep the scale of the box before clipping. Boxes without
    area inside the image are dropped.

    Args:
        outputs: `boxes` `(B, D, 4)` xyxy in input pixels, `scores` `(B, D)`, `labels` `(B, D)`,
            `valid` `(B, D)` and `mask_logits` `(B, D, M, M)`; arrays or tensors.
        geometries: Geometry of every image.
    """
    decoded = []
    for index, geometry in enumerate(geometries):
        detections, slots = select_valid(outputs, index, geometry)
        corners = _map_corners(as_array(as_float32(outputs["boxes"][index][slots])), geometry)
        logits = as_array(as_float32(outputs["mask_logits"][index][slots]))
        segmentations = tuple(
            paste_mask(sigmoid(mask), box, geometry.original_size)
            for mask, box in zip(logits, corners, strict=True)
        )
        decoded.append(
            InstanceSegmentation(
                detections.boxes, detections.scores, detections.labels, segmentations
            )
        )
    return decoded


def _map_corners(boxes: NDArray[np.float32], geometry: Geometry) -> list[list[float]]:
    """Map the corners of boxes to the original image, without clipping or sorting them.

    A mirrored axis gives a box that runs backward, which also mirrors its mask.
    """
    scale = np.asarray(geometry.scale[::-1] * 2)
    offset = np.asarray(geometry.offset[::-1] * 2)
    corners: list[list[float]] = ((boxes.astype(np.float64) - offset) / scale).tolist()
    return corners


def paste_mask(
    probs: NDArray[np.floating[Any]], corners: Sequence[float], size: tuple[int, int]
) -> Rle:
    """Paste the mask of one instance into its box.

    Args:
        probs: `(M, M)` probabilities 0..1, rows first.
        corners: x1, y1, x2, y2 of the mask's outer corners, pixels of the image; not clipped. The
            mask is mirrored where x1 > x2 or y1 > y2.
        size: (height, width) of the image, pixels.

    Returns:
        Mask of the image; empty if no pixel center lies in the box.
    """
    x1, y1, x2, y2 = corners
    columns = compute_pixel_range(min(x1, x2), max(x1, x2), size[1])
    rows = compute_pixel_range(min(y1, y2), max(y1, y2), size[0])
    if not len(columns) or not len(rows) or x1 == x2 or y1 == y2:
        none = np.zeros(0, np.int64)
        return encode_runs((none, none), size)
    row_weights = _compute_weights(rows, y1, y2, probs.shape[0])
    # Columns come first, in the order of the RLE.
    column_values = _compute_weights(columns, x1, x2, probs.shape[1]) @ probs.T.astype(np.float32)
    step = max(1, _BLOCK_PIXELS // len(rows))
    parts = [
        find_runs(
            column_values[begin : begin + step] @ row_weights.T >= MASK_THRESHOLD,
            columns.start + begin,
            rows.start,
            size[0],
        )
        for begin in range(0, len(columns), step)
    ]
    starts, ends = (np.concatenate(bounds) for bounds in zip(*parts, strict=True))
    return encode_runs((starts, ends), size)


def _compute_weights(pixels: range, low: float, high: float, cells: int) -> NDArray[np.float32]:
    """Compute the `(len(pixels), cells)` bilinear weights of mask cells at pixel centers."""
    centers = np.arange(pixels.start, pixels.stop) + 0.5
    coordinates = (centers - low) / (high - low) * cells - 0.5
    distances = np.abs(coordinates[:, None] - np.arange(cells))
    weights: NDArray[np.float32] = np.maximum(0.0, 1.0 - distances).astype(np.float32)
    return weights
