"""Conversion between `InstanceMasks` and `(N, H, W)` stacks, which are easy to compare."""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_tasks.structures.instance_masks import InstanceMasks


def from_stack(stack: Tensor) -> InstanceMasks:
    """Convert a `(N, H, W)` bool stack; every window is the bounding box of its mask."""
    bitmaps, corners = [], []
    for mask in stack:
        rows, columns = (mask.any(dim=axis).nonzero()[:, 0].tolist() for axis in (1, 0))
        y1, x1 = (min(positions, default=0) for positions in (rows, columns))
        y2, x2 = (max(positions, default=-1) + 1 for positions in (rows, columns))
        bitmaps.append(mask[y1:y2, x1:x2])
        corners.append((x1, y1))
    return InstanceMasks.from_bitmaps(bitmaps, corners)


def to_stack(masks: InstanceMasks, size: tuple[int, int]) -> Tensor:
    """Return the `(N, H, W)` bool stack of masks on an image of (height, width) `size`."""
    full = [masks.rasterize(i, size) for i in range(len(masks))]
    return torch.stack(full) if full else torch.zeros(0, *size, dtype=torch.bool)
