"""Operators that become a single node of the exported graph, with data-independent shapes.

Each operator is an autograd function: its `forward` computes the result in PyTorch, and its
`symbolic` inserts the ONNX operator while a graph is traced.

Shapes: `G` groups (a level of an image, or a class of an image), `N` boxes per group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms, roi_align


class _NonMaxSuppression(torch.autograd.Function):
    """ONNX NonMaxSuppression with a single class; the groups form its batch axis."""

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
    """Return the mask of the boxes that non-maximum suppression keeps, for all groups in one call.

    Args:
        boxes: `(G, N, 4)` float32 xyxy.
        scores: `(G, N)` float32.
        iou: IoU above which a box is suppressed by a better one of the same group.
        least: Score threshold; boxes must score more, and boxes below suppress nothing.

    Returns:
        `(G, N)` bool.
    """
    rows = _NonMaxSuppression.apply(boxes, scores[:, None], iou, least)
    places = rows[:, 0] * boxes.shape[1] + rows[:, 2]
    keep_mask = torch.zeros_like(scores).flatten().scatter(0, places, 1.0)
    return keep_mask.view_as(scores) > 0.5


class _RoiAlign(torch.autograd.Function):
    """ONNX RoiAlign without the half-pixel shift of boxes, as in the original Mask R-CNN."""

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
    """Pool the features of boxes on a level: `(R, C, size, size)`.

    Args:
        level: `(B, C, Hk, Wk)` feature map.
        boxes: `(R, 4)` float32 xyxy, input pixels; R may be 0.
        images: `(R,)` int64, index of the image of each box.
        stride: Input pixels per cell.
        size: Output bins per axis.
        ratio: Samples per bin and axis.
    """
    roi_features: Tensor = _RoiAlign.apply(level, boxes, images, stride, size, ratio)
    return roi_features


def get_size(tensor: Tensor, axis: int) -> Tensor:
    """Return the length of an axis as an int64 tensor of the graph, which follows the input."""
    return torch._shape_as_tensor(tensor)[axis]
