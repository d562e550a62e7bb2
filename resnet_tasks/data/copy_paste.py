"""Objects of one picture pasted into another, boxes, masks and label map in step.

Ghiasi et al. 2021, "Simple Copy-Paste is a Strong Data Augmentation Method for Instance
Segmentation", without the blending of edges, which they found not to matter. What little of an
object is left under the pasted ones is an ignore region here: neither positive nor negative.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_tasks.structures import Target

Picture = tuple[NDArray[np.float32], Target]
"""`(h, w, C)` pixels 0..1, and what is annotated on them."""


@dataclass(frozen=True)
class CopyPaste:
    """How often, and what.

    Attributes:
        p: Share of the pictures that get objects of another one.
        share: Of that one's objects, each is taken with this probability.
        min_visible: Share of its pixels that an object must show to stay an example.
    """

    p: float = 0.5
    share: float = 0.5
    min_visible: float = 0.3

    def __call__(self, into: Picture, source: Picture, rng: np.random.Generator) -> Picture:
        """`into` with objects of `source`, at the places that they have there.

        Args:
            into: Is not changed.
            source: Its objects without mask and its ignore regions stay behind.
            rng: Decides which objects.
        """
        (image, target), (pixels, other) = into, source
        size = (image.shape[0], image.shape[1])
        pasted = self._chosen(other, size, rng)
        if pasted.masks is None or not len(pasted.masks):
            return into
        covered = pasted.masks.any(dim=0)
        made = image.copy()
        inside = covered.numpy()
        made[inside] = _framed(pixels, size)[inside]
        return made, _joined(self._trimmed(target, covered), pasted)

    def _chosen(self, source: Target, size: tuple[int, int], rng: np.random.Generator) -> Target:
        """Some objects of `source`, cut off at the frame."""
        if source.masks is None or source.boxes is None or source.labels is None:
            return Target()
        masks = _framed_masks(source.masks, size)
        whole, left = (each.flatten(1).sum(1) for each in (source.masks, masks))
        usable = (left > 0) & (left >= self.min_visible * whole)
        if source.ignore is not None:
            usable &= ~source.ignore
        taken = usable & torch.from_numpy(rng.random(len(usable)) < self.share)
        boxes = torch.where((left < whole)[:, None], _boxes_around(masks), source.boxes)
        limit = boxes.new_tensor([size[1], size[0]] * 2)
        return Target(
            boxes=torch.minimum(boxes, limit)[taken],
            labels=source.labels[taken],
            ignore=torch.zeros(int(taken.sum()), dtype=torch.bool),
            masks=masks[taken],
        )

    def _trimmed(self, target: Target, covered: Tensor) -> Target:
        """What is still to be seen of the objects beneath."""
        if target.boxes is None or target.labels is None:
            return target
        masks = target.masks
        if masks is None:
            masks = torch.zeros(len(target.boxes), *covered.shape, dtype=torch.bool)
        has_mask = masks.flatten(1).any(1)
        # Of an object without mask nobody knows more than its box.
        extent = torch.where(has_mask[:, None, None], masks, _filled(target.boxes, covered.shape))
        visible = extent & ~covered
        before, after = (each.flatten(1).sum(1) for each in (extent, visible))
        changed = (after < before) & has_mask
        boxes = torch.where(changed[:, None], _boxes_around(visible), target.boxes)
        hidden = after < self.min_visible * before
        ignore = hidden if target.ignore is None else target.ignore | hidden
        kept = after > 0
        return replace(
            target,
            boxes=boxes[kept],
            labels=target.labels[kept],
            ignore=ignore[kept],
            masks=None if target.masks is None else (target.masks & ~covered)[kept],
        )


def _joined(target: Target, pasted: Target) -> Target:
    """The annotations of both; kinds that `target` does not annotate stay unknown."""
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


def _framed(pixels: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """The picture cut off, or continued in black, at the right and below."""
    made = np.zeros((*size, pixels.shape[2]), np.float32)
    height, width = min(size[0], pixels.shape[0]), min(size[1], pixels.shape[1])
    made[:height, :width] = pixels[:height, :width]
    return made


def _framed_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    made = torch.zeros(len(masks), *size, dtype=torch.bool)
    height, width = min(size[0], masks.shape[1]), min(size[1], masks.shape[2])
    made[:, :height, :width] = masks[:, :height, :width]
    return made


def _boxes_around(masks: Tensor) -> Tensor:
    """`(N, 4)` float32 xyxy around the pixels of each mask; zeros where there is none."""
    boxes = torch.zeros(len(masks), 4)
    for i, mask in enumerate(masks):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            low, high = (columns[0], rows[0]), (columns[-1] + 1, rows[-1] + 1)
            boxes[i] = torch.cat((*low, *high)).float()
    return boxes


def _filled(boxes: Tensor, size: torch.Size) -> Tensor:
    """`(N, h, w)` pixels whose centres lie inside each box."""
    y, x = (torch.arange(length) + 0.5 for length in size)
    columns = (x >= boxes[:, :1]) & (x < boxes[:, 2:3])
    rows = (y >= boxes[:, 1:2]) & (y < boxes[:, 3:])
    return rows[:, :, None] & columns[:, None, :]
