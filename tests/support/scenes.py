"""Scenes of rectangles between pixels, and how far annotations lie from their image.

Exact shares of covered pixels in the image, the pixels whose center is inside in label map and
masks, the edges themselves as boxes. Rounding to whole pixels moves a single object by some tenths
of a pixel, without bias: means must be near 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from resnet_tasks.structures.targets import Target
from tests.support.mask_stacks import from_stack, to_stack

SIZE = (96, 120)
LIMIT = 0.05
SEEDS = 60

Array = NDArray[Any]


def covered(length: int, low: float, high: float) -> NDArray[np.float64]:
    """Return the share of each pixel of an axis that an interval covers."""
    edges = np.arange(length + 1).clip(low, high)
    return np.diff(edges)


def scene(seed: int, size: tuple[int, int] = SIZE) -> tuple[NDArray[np.float32], Target]:
    """Return an image and a target of 3 x 3 rectangles with sides of 11 to 15 pixels."""
    rng = np.random.default_rng(seed)
    image, semantic = np.zeros(size), np.zeros(size, np.int64)
    masks, boxes = [], []
    for row in range(3):
        for column in range(3):
            center = np.array([(row + 0.5) * size[0] / 3, (column + 0.5) * size[1] / 3])
            half = rng.uniform(5.5, 7.5, 2)
            shift = rng.uniform(-4, 4, 2)
            (top, left), (bottom, right) = (center + shift + side * half for side in (-1, 1))
            image += np.outer(covered(size[0], top, bottom), covered(size[1], left, right))
            y, x = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
            mask = ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
            masks.append(mask)
            boxes.append((left, top, right, bottom))
            semantic[mask] = len(masks)
    target = Target(
        torch.tensor(boxes, dtype=torch.float32),
        torch.arange(1, 10),
        torch.zeros(9, dtype=torch.bool),
        from_stack(torch.from_numpy(np.stack(masks))),
        torch.from_numpy(semantic),
    )
    return np.repeat(image[:, :, None], 3, axis=2).astype(np.float32), target


def centroid(weights: Array) -> NDArray[np.float64]:
    """Return (y, x) of the center of mass, pixel centers at half-integers."""
    total = weights.sum()
    rows, columns = np.arange(weights.shape[0]) + 0.5, np.arange(weights.shape[1]) + 0.5
    return np.array([weights.sum(1) @ rows / total, weights.sum(0) @ columns / total])


def extent_center(mask: Array) -> NDArray[np.float64]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([rows[0] + rows[-1] + 1, columns[0] + columns[-1] + 1]) / 2


def offsets(image: Array, target: Target) -> list[NDArray[np.float64]]:
    """Return (label map y, x, masks y, x, boxes y, x) minus image, of objects in full view."""
    assert target.semantic is not None
    assert target.labels is not None
    assert target.masks is not None
    assert target.boxes is not None
    semantic, measured = target.semantic.numpy(), []
    masks = to_stack(target.masks, target.semantic.shape)
    for label, mask, box in zip(target.labels.tolist(), masks, target.boxes, strict=True):
        pixels = semantic == label
        near = ndimage.binary_dilation(pixels, iterations=3)
        border = near[[0, -1]].any() or near[:, [0, -1]].any()
        touching = ((semantic > 0) & ~pixels & near).any()
        if not pixels.any() or border or touching:
            continue
        at = centroid(image[:, :, 0] * near)
        left, top, right, bottom = box.tolist()
        middle = np.array([top + bottom, left + right]) / 2 - extent_center(mask.numpy())
        measured.append(
            np.concatenate((centroid(pixels) - at, centroid(mask.numpy()) - at, middle))
        )
    return measured


def require_aligned(samples: Sequence[tuple[Array, Target]], at_least: int = 60) -> None:
    measured = [offset for sample in samples for offset in offsets(*sample)]
    assert len(measured) >= at_least, "too few objects in full view"
    mean = np.mean(measured, axis=0)
    assert np.abs(mean).max() <= LIMIT, f"label map, masks, boxes (y, x) are off by {mean.round(3)}"
