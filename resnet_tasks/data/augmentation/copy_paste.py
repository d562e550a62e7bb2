"""Copy-paste augmentation of objects with consistent boxes, masks and label map.

Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation", without the blending of edges, which they found to be irrelevant. An object that is
almost completely covered by pasted ones becomes an ignore region here, neither positive nor
negative.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_tasks.structures.targets import Target

Image = tuple[NDArray[np.float32], Target]
"""`(h, w, C)` float32 pixels in 0..1 and their annotations."""


@dataclass(frozen=True)
class CopyPaste:
    """Copy-paste augmentation and its parameters.

    Attributes:
        p: Fraction of the images that get objects of another image.
        fraction: Probability of pasting each object of the other image.
        min_visible: Fraction of its pixels that must be visible for an object to stay positive.
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
        covered = pasted.masks.any(dim=0)
        composite = image.copy()
        inside = covered.numpy()
        composite[inside] = _crop_or_pad(pixels, size)[inside]
        return composite, _merge_targets(self._occlude_objects(target, covered), pasted)

    def _sample_objects(
        self, source: Target, size: tuple[int, int], rng: np.random.Generator
    ) -> Target:
        """Sample objects of `source`, cropped to the image."""
        if source.masks is None or source.boxes is None or source.labels is None:
            return Target()
        masks = _crop_or_pad_masks(source.masks, size)
        full_area, visible_area = (
            mask_stack.flatten(1).sum(1) for mask_stack in (source.masks, masks)
        )
        usable = (visible_area > 0) & (visible_area >= self.min_visible * full_area)
        if source.ignore is not None:
            usable &= ~source.ignore
        selected = usable & torch.from_numpy(rng.random(len(usable)) < self.fraction)
        boxes = torch.where(
            (visible_area < full_area)[:, None], _masks_to_boxes(masks), source.boxes
        )
        limit = boxes.new_tensor([size[1], size[0]] * 2)
        return Target(
            boxes=torch.minimum(boxes, limit)[selected],
            labels=source.labels[selected],
            ignore=torch.zeros(int(selected.sum()), dtype=torch.bool),
            masks=masks[selected],
        )

    def _occlude_objects(self, target: Target, covered: Tensor) -> Target:
        """Return the target with its objects reduced to their visible parts."""
        if target.boxes is None or target.labels is None:
            return target
        masks = target.masks
        if masks is None:
            masks = torch.zeros(len(target.boxes), *covered.shape, dtype=torch.bool)
        has_mask = masks.flatten(1).any(1)
        # The extent of an object without mask is its box.
        extent = torch.where(
            has_mask[:, None, None], masks, _boxes_to_masks(target.boxes, covered.shape)
        )
        visible = extent & ~covered
        before, after = (mask_stack.flatten(1).sum(1) for mask_stack in (extent, visible))
        changed = (after < before) & has_mask
        boxes = torch.where(changed[:, None], _masks_to_boxes(visible), target.boxes)
        hidden = after < self.min_visible * before
        ignore = hidden if target.ignore is None else target.ignore | hidden
        is_visible = after > 0
        return replace(
            target,
            boxes=boxes[is_visible],
            labels=target.labels[is_visible],
            ignore=ignore[is_visible],
            masks=None if target.masks is None else (target.masks & ~covered)[is_visible],
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
            changes["masks"] = torch.cat((target.masks, pasted.masks))
    if target.semantic is not None:
        semantic = target.semantic.clone()
        for mask, label in zip(pasted.masks, pasted.labels, strict=True):
            semantic[mask] = label
        changes["semantic"] = semantic
    return replace(target, **changes)


def _crop_or_pad(pixels: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Crop an image, or pad it with black, at the right and bottom."""
    padded = np.zeros((*size, pixels.shape[2]), np.float32)
    height, width = min(size[0], pixels.shape[0]), min(size[1], pixels.shape[1])
    padded[:height, :width] = pixels[:height, :width]
    return padded


def _crop_or_pad_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    padded = torch.zeros(len(masks), *size, dtype=torch.bool)
    height, width = min(size[0], masks.shape[1]), min(size[1], masks.shape[2])
    padded[:, :height, :width] = masks[:, :height, :width]
    return padded


def _masks_to_boxes(masks: Tensor) -> Tensor:
    """Return the `(N, 4)` float32 xyxy bounding box of each mask, zeros for an empty mask."""
    boxes = torch.zeros(len(masks), 4)
    for i, mask in enumerate(masks):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            low, high = (columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)
            boxes[i] = torch.cat((*low, *high)).float()
    return boxes


def _boxes_to_masks(boxes: Tensor, size: torch.Size) -> Tensor:
    """Return `(N, h, w)` bool masks of the pixels whose centers are inside each box."""
    y, x = (torch.arange(length) + 0.5 for length in size)
    columns = (x >= boxes[:, :1]) & (x < boxes[:, 2:3])
    rows = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:])
    return rows[:, :, None] & columns[:, None, :]
