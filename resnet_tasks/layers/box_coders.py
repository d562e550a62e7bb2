"""Box coders: boxes relative to a reference box or point, as networks predict them.

All functions accept any leading axes that broadcast, and can be traced.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000.0 / 16)
"""Limit of the predicted log scale, as in torchvision; it keeps the exponential finite."""


@dataclass(frozen=True)
class BoxCoder:
    """Coder of box deltas: shift of the center and log scale of the sides.

    Source: Girshick et al., R-CNN, CVPR 2014, appendix C. Equal to torchvision's `BoxCoder`.

    Attributes:
        weights: Factors of the deltas (dx, dy, dw, dh), about the inverse of their standard
            deviation.
    """

    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)

    def encode(self, boxes: Tensor, references: Tensor) -> Tensor:
        """Return the deltas that turn reference boxes into boxes.

        Args:
            boxes: `(..., 4)` float32 xyxy.
            references: `(..., 4)` float32 xyxy, anchors or proposals with an area.

        Returns:
            `(..., 4)` float32 deltas.
        """
        weights = boxes.new_tensor(self.weights)
        size, reference_size = _get_sides(boxes), _get_sides(references)
        shift = (boxes[..., :2] + 0.5 * size) - (references[..., :2] + 0.5 * reference_size)
        centers = weights[:2] * shift / reference_size
        scales = weights[2:] * torch.log(size / reference_size)
        return torch.cat((centers, scales), dim=-1)

    def decode(self, deltas: Tensor, references: Tensor) -> Tensor:
        """Return the boxes that deltas describe.

        Args:
            deltas: `(..., 4)` float32.
            references: `(..., 4)` float32 xyxy, anchors or proposals.

        Returns:
            `(..., 4)` float32 xyxy, not clipped.
        """
        offsets = deltas / deltas.new_tensor(self.weights)
        size = _get_sides(references)
        center = offsets[..., :2] * size + (references[..., :2] + 0.5 * size)
        half = 0.5 * (torch.exp(offsets[..., 2:].clamp(max=MAX_LOG_SCALE)) * size)
        return torch.cat((center - half, center + half), dim=-1)


@dataclass(frozen=True)
class PointCoder:
    """Coder of distances from a point to the left, top, right and bottom side of a box.

    Source: Tian et al., FCOS, ICCV 2019, equation 1.

    Attributes:
        stride: Unit of the distances in input pixels; 1 gives pixels.
    """

    stride: float = 1.0

    def encode(self, boxes: Tensor, points: Tensor) -> Tensor:
        """Return the distances from points to the sides of boxes.

        Args:
            boxes: `(..., 4)` float32 xyxy.
            points: `(..., 2)` float32 (x, y).

        Returns:
            `(..., 4)` float32 distances (left, top, right, bottom), negative where the point lies
            outside the box.
        """
        distances = torch.cat((points - boxes[..., :2], boxes[..., 2:] - points), dim=-1)
        return distances / self.stride

    def decode(self, distances: Tensor, points: Tensor) -> Tensor:
        """Return the boxes that distances describe.

        Args:
            distances: `(..., 4)` float32 (left, top, right, bottom).
            points: `(..., 2)` float32 (x, y).

        Returns:
            `(..., 4)` float32 xyxy, not clipped.
        """
        distances = distances * self.stride
        return torch.cat((points - distances[..., :2], points + distances[..., 2:]), dim=-1)


def clip_boxes(boxes: Tensor, limits: Tensor) -> Tensor:
    """Clip boxes to images.

    Args:
        boxes: `(..., 4)` xyxy.
        limits: `(..., 2)` (width, height) in the dtype of the boxes; broadcasts against them.
    """
    return torch.minimum(boxes.clamp(min=0), torch.cat((limits, limits), dim=-1))


def has_min_size(boxes: Tensor, min_size: float) -> Tensor:
    """Return whether both sides of `(..., 4)` boxes are at least `min_size`; False for NaN."""
    return (_get_sides(boxes) >= min_size).all(dim=-1)


def _get_sides(boxes: Tensor) -> Tensor:
    return boxes[..., 2:] - boxes[..., :2]
