"""Non-maximum suppression of many groups in one call, in eager mode and in exported graphs.

Shape glossary: `G` groups (a level of an image, or a class of an image), `N` boxes per group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from resnet_tasks.layers.tracing import is_traced


def compute_nms_mask(
    boxes: Tensor, scores: Tensor, *, iou_threshold: float, score_threshold: float
) -> Tensor:
    """Return the mask of the boxes that survive non-maximum suppression inside their group.

    In a traced graph all groups together are a single ONNX `NonMaxSuppression`.

    Args:
        boxes: `(G, N, 4)` float32 xyxy.
        scores: `(G, N)` float32.
        iou_threshold: IoU above which a box is suppressed by a better one of the same group.
        score_threshold: Lower limit of the score, exclusive; boxes at or below it neither survive
            nor suppress others.

    Returns:
        `(G, N)` bool.
    """
    if is_traced():
        rows = _NonMaxSuppression.apply(boxes, scores[:, None], iou_threshold, score_threshold)
        places = rows[:, 0] * boxes.shape[1] + rows[:, 2]
        survives = torch.zeros_like(scores).flatten().scatter(0, places, 1.0)
        return survives.view_as(scores) > 0.5
    flat_scores = scores.flatten()
    candidates = torch.where(flat_scores > score_threshold)[0]
    groups = torch.div(candidates, boxes.shape[1], rounding_mode="floor")
    kept_indices = batched_nms(
        boxes.reshape(-1, 4)[candidates], flat_scores[candidates], groups, iou_threshold
    )
    mask = torch.zeros_like(flat_scores, dtype=torch.bool)
    mask[candidates[kept_indices]] = True
    return mask.view_as(scores)


class _NonMaxSuppression(torch.autograd.Function):
    """ONNX NonMaxSuppression with a single class; the groups form its batch axis."""

    @staticmethod
    def forward(
        _: Any, boxes: Tensor, scores: Tensor, iou_threshold: float, score_threshold: float
    ) -> Tensor:
        rows = []
        for group, (group_boxes, score) in enumerate(zip(boxes, scores[:, 0], strict=True)):
            good = torch.where(score > score_threshold)[0]
            kept_indices = good[nms(group_boxes[good], score[good], iou_threshold)]
            rows.append(
                torch.stack(
                    (torch.full_like(kept_indices, group), kept_indices * 0, kept_indices), dim=1
                )
            )
        return torch.cat(rows)

    @staticmethod
    def symbolic(
        g: Any, boxes: Any, scores: Any, iou_threshold: float, score_threshold: float
    ) -> Any:
        constants = (
            torch.tensor([torch.iinfo(torch.int32).max], dtype=torch.int64),
            torch.tensor([iou_threshold], dtype=torch.float32),
            torch.tensor([score_threshold], dtype=torch.float32),
        )
        return g.op(
            "NonMaxSuppression", boxes, scores, *(g.op("Constant", value_t=c) for c in constants)
        )
