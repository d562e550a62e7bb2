"""Non-maximum suppression of many groups in one call, in eager mode and in exported graphs.

Shape glossary: `G` groups (a level of an image, or a class of an image), `N` boxes per group, `B`
images, `M` anchors or points of an image, `K` classes, `T` candidates, `D` detections per image.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms, nms

from resnet_tasks.layers.box_coders import clip_boxes, has_min_size
from resnet_tasks.layers.tracing import FILLER, is_traced, select_top

MIN_SIZE = 1e-3
"""Side of the smallest detection after clipping, pixels."""


def compute_nms_mask(
    boxes: Tensor,
    scores: Tensor,
    *,
    iou_threshold: float,
    score_threshold: float,
    labels: Tensor | None = None,
) -> Tensor:
    """Return the mask of the boxes that survive non-maximum suppression inside their group.

    In a traced graph all groups together are a single ONNX `NonMaxSuppression`.

    Args:
        boxes: `(G, N, 4)` float32 xyxy.
        scores: `(G, N)` float32.
        iou_threshold: IoU above which a higher-scoring box of the same group suppresses a box.
        score_threshold: Lower limit of the score, exclusive; boxes at or below it neither survive
            nor suppress others.
        labels: `(G, N)` int64, classes inside the groups; boxes of different classes do not
            suppress each other. None: all boxes of a group have the same class.

    Returns:
        `(G, N)` bool.
    """
    if is_traced():
        if labels is not None:
            # Every class moves to a separate region, so that boxes of different classes do not
            # overlap.
            boxes = boxes + (labels * (boxes.max() + 1)).to(boxes.dtype)[..., None]
        rows = _NonMaxSuppression.apply(boxes, scores[:, None], iou_threshold, score_threshold)
        places = rows[:, 0] * boxes.shape[1] + rows[:, 2]
        survives = torch.zeros_like(scores).flatten().scatter(0, places, 1.0)
        return survives.view_as(scores) > 0.5
    if labels is not None:
        pairs = zip(boxes, scores, labels, strict=True)
        masks = [_suppress_in_image(*fields, iou_threshold, score_threshold) for fields in pairs]
        return torch.stack(masks)
    flat_scores = scores.flatten()
    candidates = torch.where(flat_scores > score_threshold)[0]
    groups = torch.div(candidates, boxes.shape[1], rounding_mode="floor")
    kept_indices = batched_nms(
        boxes.reshape(-1, 4)[candidates], flat_scores[candidates], groups, iou_threshold
    )
    mask = torch.zeros_like(flat_scores, dtype=torch.bool)
    mask[candidates[kept_indices]] = True
    return mask.view_as(scores)


def _suppress_in_image(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, score_threshold: float
) -> Tensor:
    """Return the `(N,)` mask of the boxes of one image that survive inside their class."""
    # One call per image: the regions of `batched_nms` for the classes of all images would be so far
    # apart that float32 rounds the boxes.
    candidates = torch.where(scores > score_threshold)[0]
    survivors = batched_nms(
        boxes[candidates], scores[candidates], labels[candidates], iou_threshold
    )
    mask = torch.zeros_like(scores, dtype=torch.bool)
    mask[candidates[survivors]] = True
    return mask


def select_detections(
    boxes: Tensor,
    scores: Tensor,
    sizes: Tensor,
    *,
    score_threshold: float,
    nms_iou: float,
    candidates: int,
    detections_per_image: int,
) -> dict[str, Tensor]:
    """Select the detections of a one-stage detector: the declared outputs of detection.

    The best pairs of box and class become candidates, are clipped to their image, and pass through
    non-maximum suppression inside their class.

    Args:
        boxes: `(B, M, 4)` float32 xyxy, input pixels.
        scores: `(B, M, K)` float32, 0..1.
        sizes: `(B, 2)` int64, (height, width) of each image inside the padded batch.
        score_threshold: Lower limit of the score of a detection, exclusive.
        nms_iou: IoU above which two detections of one class are duplicates.
        candidates: Maximum number of candidates per image before suppression.
        detections_per_image: Number D of slots per image.

    Returns:
        `boxes` `(B, D, 4)` float32 xyxy, inside the images; `scores` `(B, D)` float32, descending;
        `labels` `(B, D)` int64; `valid` `(B, D)` bool. Slots without a detection come last and hold
        zeros.
    """
    best, rows, labels = select_candidates(scores, candidates, threshold=score_threshold)
    return suppress_duplicates(
        boxes.gather(1, rows[..., None].expand(-1, -1, 4)),
        best,
        labels,
        sizes,
        score_threshold=score_threshold,
        nms_iou=nms_iou,
        detections_per_image=detections_per_image,
    )


def select_candidates(
    scores: Tensor, count: int, *, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the best pairs of box and class of every image.

    Args:
        scores: `(B, M, K)` float32, scores or logits.
        count: Maximum number T of pairs per image.
        threshold: Lower limit, exclusive. On a CPU only the values above it are sorted, which saves
            most of the time; elsewhere, and in a traced graph, pairs below it may fill the slots.

    Returns:
        Scores `(B, T)`, descending, with `FILLER` in empty slots; the index of their box `(B, T)`
        and of their class `(B, T)`, int64.
    """
    number = scores.shape[2]
    if is_traced() or scores.device.type != "cpu":
        best, index = select_top(scores.flatten(1), count)
    else:
        slots = min(count, scores.shape[1] * number)
        selected = [_select_above(values, slots, threshold) for values in scores.flatten(1)]
        best, index = (torch.stack(parts) for parts in zip(*selected, strict=True))
    return best, torch.div(index, number, rounding_mode="trunc"), index % number


def _select_above(values: Tensor, slots: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Select the largest of `(N,)` values above a threshold, like `select_top`."""
    above = torch.where(values > threshold)[0]
    best, order = values[above].topk(min(slots, len(above)))
    missing = (0, slots - len(best))
    return F.pad(best, missing, value=FILLER), F.pad(above[order], missing)


def suppress_duplicates(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    sizes: Tensor,
    *,
    score_threshold: float,
    nms_iou: float,
    detections_per_image: int,
) -> dict[str, Tensor]:
    """Clip candidates to their image, suppress duplicates inside each class, and keep the best.

    Args:
        boxes: `(B, T, 4)` float32 xyxy, input pixels.
        scores: `(B, T)` float32; empty slots have a score at or below the threshold.
        labels: `(B, T)` int64.
        sizes: `(B, 2)` int64, (height, width) of each image inside the padded batch.
        score_threshold: Lower limit of the score of a detection, exclusive.
        nms_iou: IoU above which two detections of one class are duplicates.
        detections_per_image: Number D of slots per image.

    Returns:
        The fields of `select_detections`.
    """
    boxes = clip_boxes(boxes, sizes.flip(1)[:, None].to(boxes.dtype))
    scores = torch.where(has_min_size(boxes, MIN_SIZE), scores, FILLER)
    survives = compute_nms_mask(
        boxes, scores, iou_threshold=nms_iou, score_threshold=score_threshold, labels=labels
    )
    best, order = select_top(torch.where(survives, scores, FILLER), detections_per_image)
    valid = best > FILLER
    detected_boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    return {
        "boxes": torch.where(valid[..., None], detected_boxes, 0.0),
        "scores": torch.where(valid, best, 0.0),
        "labels": torch.where(valid, labels.gather(1, order), 0),
        "valid": valid,
    }


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
