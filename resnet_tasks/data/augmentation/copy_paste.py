"""Copy-paste augmentation of objects with consistent boxes, masks and label map.

Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation", without the blending of edges, which they found to be irrelevant. Here, an object of
which pasted objects leave too little visible (`CopyPaste.min_visible`) becomes an ignore region,
neither positive nor negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_tasks.data.augmentation.instance_masks import join_masks
from resnet_tasks.structures.instance_masks import InstanceMasks
from resnet_tasks.structures.targets import Target

Image = tuple[NDArray[np.float32], Target]
"""`(h, w, C)` float32 pixels in 0..1 and their annotations."""


@dataclass(frozen=True)
class CopyPaste:
    """Copy-paste augmentation and its parameters.

    Attributes:
        p: Probability that an image gets objects of another image.
        fraction: Probability of pasting each object of the other image.
        min_visible: Minimum visible fraction of an object's pixels for the object to stay positive.
    """

    p: float = 0.5
    fraction: float = 0.5
    min_visible: float = 0.3

    def __call__(self, into: Image, source: Image, rng: np.random.Generator) -> Image:
        """Paste objects of `source` into `into` at their original positions.

        Args:
            into: Image and target to paste into, which are not modified.
            source: Image and target to paste from. Its ignore regions and objects without mask are
                never pasted.
            rng: Generator that selects the objects.
        """
        (image, target), (pixels, other) = into, source
        size = (image.shape[0], image.shape[1])
        pasted = self._sample_objects(other, size, rng)
        if pasted.masks is None or not len(pasted.masks):
            return into
        covered = join_masks(pasted.masks, size) > 0
        composite = image.copy()
        composite[covered] = _crop_or_pad(pixels, size)[covered]
        visible_target = self._occlude_objects(target, torch.from_numpy(covered))
        return composite, _merge_targets(visible_target, pasted)

    def _sample_objects(
        self, source: Target, size: tuple[int, int], rng: np.random.Generator
    ) -> Target:
        """Sample objects of `source`, cropped to the image."""
        if source.masks is None or source.boxes is None or source.labels is None:
            return Target()
        masks = source.masks.crop((0, 0, size[1], size[0]))
        full_area, visible_area = source.masks.count_pixels(), masks.count_pixels()
        usable = (visible_area > 0) & (visible_area >= self.min_visible * full_area)
        if source.ignore is not None:
            usable &= ~source.ignore
        selected = usable & torch.from_numpy(rng.random(len(usable)) < self.fraction)
        boxes = torch.where(
            (visible_area < full_area)[:, None], masks.compute_boxes(), source.boxes
        )
        limit = boxes.new_tensor([size[1], size[0]] * 2)
        return Target(
            boxes=torch.minimum(boxes, limit)[selected],
            labels=source.labels[selected],
            ignore=torch.zeros(int(selected.sum()), dtype=torch.bool),
            masks=masks.select(selected),
        )

    def _occlude_objects(self, target: Target, covered: Tensor) -> Target:
        """Return the target with its objects reduced to their visible parts."""
        if target.boxes is None or target.labels is None:
            return target
        extent = _boxes_to_masks(target.boxes, covered.shape)
        has_mask = torch.zeros(len(extent), dtype=torch.bool)
        if target.masks is not None:
            has_mask = target.masks.count_pixels() > 0
            # The extent of an object without mask is its box.
            either = InstanceMasks.cat((target.masks, extent))
            positions = torch.arange(len(extent))
            extent = either.select(torch.where(has_mask, positions, positions + len(extent)))
        visible = _subtract(extent, covered)
        before, after = extent.count_pixels(), visible.count_pixels()
        changed = (after < before) & has_mask
        boxes = torch.where(changed[:, None], visible.compute_boxes(), target.boxes)
        hidden = after < self.min_visible * before
        ignore = hidden if target.ignore is None else target.ignore | hidden
        is_visible = after > 0
        masks = target.masks
        if masks is not None:
            masks = _subtract(masks, covered).select(is_visible)
        return replace(
            target,
            boxes=boxes[is_visible],
            labels=target.labels[is_visible],
            ignore=ignore[is_visible],
            masks=masks,
        )


def _merge_targets(target: Target, pasted: Target) -> Target:
    """Return the annotations of both; fields that `target` does not annotate stay None."""
    assert pasted.boxes is not None
    assert pasted.labels is not None
    assert pasted.ignore is not None
    assert pasted.masks is not None
    changes: dict[str, Any] = {}
    if target.boxes is not None and target.labels is not None and target.ignore is not None:
        changes["boxes"] = torch.cat((target.boxes, pasted.boxes))
        changes["labels"] = torch.cat((target.labels, pasted.labels))
        changes["ignore"] = torch.cat((target.ignore, pasted.ignore))
        if target.masks is not None:
            changes["masks"] = InstanceMasks.cat((target.masks, pasted.masks))
    if target.semantic is not None:
        semantic = target.semantic.clone()
        for bitmap, (x1, y1, x2, y2), label in zip(
            pasted.masks.bitmaps, pasted.masks.windows.tolist(), pasted.labels, strict=True
        ):
            semantic[y1:y2, x1:x2][bitmap] = label
        changes["semantic"] = semantic
    return replace(target, **changes)


def _crop_or_pad(pixels: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Crop an image, or pad it with black, at the right and bottom."""
    padded = np.zeros((*size, pixels.shape[2]), np.float32)
    height, width = min(size[0], pixels.shape[0]), min(size[1], pixels.shape[1])
    padded[:height, :width] = pixels[:height, :width]
    return padded


def _subtract(masks: InstanceMasks, covered: Tensor) -> InstanceMasks:
    """Remove the pixels of a `(h, w)` bool mask from all instance masks."""
    windows = masks.windows.tolist()
    pixels = [
        bitmap & ~covered[y1:y2, x1:x2]
        for bitmap, (x1, y1, x2, y2) in zip(masks.bitmaps, windows, strict=True)
    ]
    flat = torch.cat([part.reshape(-1) for part in pixels]) if pixels else masks.pixels
    return replace(masks, pixels=flat)


def _boxes_to_masks(boxes: Tensor, size: Sequence[int]) -> InstanceMasks:
    """Return the masks of the pixels whose centers are inside each box."""
    y_centers, x_centers = (torch.arange(length) + 0.5 for length in size)
    columns = torch.searchsorted(x_centers, boxes[:, 0::2].contiguous()).tolist()
    rows = torch.searchsorted(y_centers, boxes[:, 1::2].contiguous()).tolist()
    bitmaps = [
        torch.ones(y2 - y1, x2 - x1, dtype=torch.bool)
        for (x1, x2), (y1, y2) in zip(columns, rows, strict=True)
    ]
    corners = [(x1, y1) for (x1, _), (y1, _) in zip(columns, rows, strict=True)]
    return InstanceMasks.from_bitmaps(bitmaps, corners)
