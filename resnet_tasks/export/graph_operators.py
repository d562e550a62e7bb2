"""Operators that an exported graph holds as one node each, with shapes that do not depend on data.

Each is an autograd function: in PyTorch it computes, and while a graph is traced its `symbolic`
puts the ONNX operator in its place.

Shapes: `G` groups (an image's level, or an image's class), `N` boxes of a group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms, roi_align


class _NonMaxSuppression(torch.autograd.Function):
    """ONNX NonMaxSuppression with one class: groups are its batch."""

    @staticmethod
    def forward(_: Any, boxes: Tensor, scores: Tensor, iou: float, least: float) -> Tensor:
        rows = []
        for group, (group_boxes, score) in enumerate(zip(boxes, scores[:, 0], strict=True)):
            good = torch.where(score > least)[0]
            kept_indices = good[nms(group_boxes[good], score[good], iou)]
            rows.append(
                torch.stack(
                    (torch.full_like(kept_indices, group), kept_indices * 0, kept_indices), dim=1
                )
            )
        return torch.cat(rows)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou: float, least: float) -> Any:
        constants = (
            torch.tensor([torch.iinfo(torch.int32).max], dtype=torch.int64),
            torch.tensor([iou], dtype=torch.float32),
            torch.tensor([least], dtype=torch.float32),
        )
        return g.op(
            "NonMaxSuppression", boxes, scores, *(g.op("Constant", value_t=c) for c in constants)
        )


def compute_nms_mask(boxes: Tensor, scores: Tensor, *, iou: float, least: float) -> Tensor:
    """Which boxes of every group non-maximum suppression keeps, all groups in one call.

    Args:
        boxes: `(G, N, 4)` float32 xyxy.
        scores: `(G, N)` float32.
        iou: Boxes of a group that overlap a better one more are dropped.
        least: Boxes score more than this; the others suppress nothing.

    Returns:
        `(G, N)` bool.
    """
    rows = _NonMaxSuppression.apply(boxes, scores[:, None], iou, least)
    places = rows[:, 0] * boxes.shape[1] + rows[:, 2]
    keep_mask = torch.zeros_like(scores).flatten().scatter(0, places, 1.0)
    return keep_mask.view_as(scores) > 0.5


class _RoiAlign(torch.autograd.Function):
    """ONNX RoiAlign with the corners of boxes where Mask R-CNN's code has them."""

    @staticmethod
    def forward(
        _: Any, level: Tensor, boxes: Tensor, images: Tensor, stride: int, size: int, ratio: int
    ) -> Tensor:
        rois = torch.cat((images[:, None].to(boxes.dtype), boxes), dim=1)
        pooled: Tensor = roi_align(level, rois, size, 1.0 / stride, ratio)
        return pooled

    @staticmethod
    def symbolic(
        g: Any, level: Any, boxes: Any, images: Any, stride: int, size: int, ratio: int
    ) -> Any:
        return g.op(
            "RoiAlign",
            level,
            boxes,
            images,
            coordinate_transformation_mode_s="output_half_pixel",
            output_height_i=size,
            output_width_i=size,
            sampling_ratio_i=ratio,
            spatial_scale_f=1.0 / stride,
        )


def pool_rois(
    level: Tensor, boxes: Tensor, images: Tensor, *, stride: int, size: int, ratio: int
) -> Tensor:
    """Features of boxes on a level: `(R, C, size, size)`.

    Args:
        level: `(B, C, Hk, Wk)`.
        boxes: `(R, 4)` float32 xyxy, input pixels; R may be 0.
        images: `(R,)` int64, the image of each.
        stride: Input pixels per cell.
        size: Bins per axis.
        ratio: Samples per bin and axis.
    """
    roi_features: Tensor = _RoiAlign.apply(level, boxes, images, stride, size, ratio)
    return roi_features


def get_size(tensor: Tensor, axis: int) -> Tensor:
    """The length of an axis as an int64 number of the graph, which follows the input."""
    return torch._shape_as_tensor(tensor)[axis]
