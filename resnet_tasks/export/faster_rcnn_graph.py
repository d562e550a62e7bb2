"""Faster R-CNN as a graph of fixed-size stages: the best K entries of each, with a validity mask.

The graph computes the same as `FasterRCNN.forward` and `decode`. Those gather the valid entries, so
that their shapes depend on the data. Here every stage has a fixed number of slots: `rpn_pre_nms`
candidates per level, `rpn_post_nms` proposals per image and `detections_per_image` detections per
image. Invalid slots have the score -1.

Shapes: `B` images, `L` levels, `A` anchors per cell, `T` candidates per level, `R` proposals per
image, `K` classes, `D` detections per image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator

from resnet_tasks.export.graph_operators import compute_nms_mask, get_size, pool_rois
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.rcnn.roi import MIN_SIZE as MIN_DETECTION
from resnet_tasks.heads.rcnn.rpn import MIN_SIZE as MIN_PROPOSAL
from resnet_tasks.heads.rcnn.rpn import AnchorShapes
from resnet_tasks.layers.roi_align import assign_boxes_to_levels

INVALID = -1.0
"""Score of an empty slot."""
FILLER = -1e30
"""Padding value below every logit; finite, so that statistics over the logits are finite."""


def compute_detector_outputs(
    head: FasterRCNN, features: Mapping[str, Tensor], sizes: Tensor
) -> dict[str, Tensor]:
    """Compute the detections of every image, sorted by descending score.

    Args:
        head: Faster R-CNN head.
        features: Level -> `(B, channels, H/stride, W/stride)`.
        sizes: `(B, 2)` int64, (height, width) of each image inside the padded batch.

    Returns:
        `boxes` `(B, D, 4)` float32 xyxy in input pixels, clipped to the image; `scores` `(B, D)`
        float32 in descending order, -1 in slots without a detection; `labels` `(B, D)` int64.
    """
    levels = head._compute_pyramid(features)
    stride = head.finest_stride
    padded = torch.stack((get_size(levels[0], 2), get_size(levels[0], 3))) * stride
    proposals, valid = _compute_proposals(head, levels, padded)
    probs, deltas = _classify_proposals(head, levels[:-1], proposals)
    boxes = decode_boxes(deltas, proposals[:, :, None], head.roi_heads.coder)
    boxes = _clip_boxes(boxes, padded).transpose(1, 2)  # (B, K, R, 4)
    good = valid[:, :, None] & (probs > head.options.score_threshold)
    good = good.transpose(1, 2) & _is_large(boxes, MIN_DETECTION)
    scores = torch.where(good, probs.transpose(1, 2), INVALID)
    is_kept = compute_nms_mask(
        boxes.flatten(0, 1), scores.flatten(0, 1), iou=head.options.nms_iou, least=0.0
    )
    scores = torch.where(is_kept.view_as(scores), scores, INVALID).flatten(1)
    number = proposals.shape[1]
    count = min(head.options.detections_per_image, len(head.classes) * number)
    scores, best = scores.topk(count, dim=1)
    boxes = boxes.flatten(1, 2).gather(1, best[..., None].expand(-1, -1, 4))
    boxes = torch.minimum(boxes, sizes[:, None].flip(2).repeat(1, 1, 2).to(boxes.dtype))
    # Boxes that lie entirely in the padding have no area left after clipping to the image.
    is_seen = (scores > 0) & (boxes[..., 2:] > boxes[..., :2]).all(dim=2)
    labels = torch.div(best, number, rounding_mode="trunc")
    return {
        "boxes": torch.where(is_seen[..., None], boxes, 0.0),
        "scores": torch.where(is_seen, scores, INVALID),
        "labels": torch.where(is_seen, labels, 0),
    }


def _compute_proposals(
    head: FasterRCNN, levels: Sequence[Tensor], padded: Tensor
) -> tuple[Tensor, Tensor]:
    """Return proposals `(B, R, 4)` by descending score, and their validity mask `(B, R)`."""
    before, after = head.options.rpn_pre_nms[1], head.options.rpn_post_nms[1]
    candidates = [
        _select_candidates(head, level, index, padded) for index, level in enumerate(levels)
    ]
    scores = torch.stack([score for score, _ in candidates], dim=1)  # (B, L, T)
    boxes = _clip_boxes(torch.stack([box for _, box in candidates], dim=1), padded)
    scores = torch.where(_is_large(boxes, MIN_PROPOSAL), scores, INVALID)
    is_kept = compute_nms_mask(
        boxes.flatten(0, 1), scores.flatten(0, 1), iou=head.rpn.nms_iou, least=INVALID / 2
    )
    scores = torch.where(is_kept.view_as(scores), scores, INVALID).flatten(1)
    best, order = scores.topk(min(after, before * len(levels)), dim=1)
    return boxes.flatten(1, 2).gather(1, order[..., None].expand(-1, -1, 4)), best >= 0


def _select_candidates(
    head: FasterRCNN, level: Tensor, index: int, padded: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the best anchors of a level: scores `(B, T)` and boxes `(B, T, 4)`.

    Scores are -1 in slots beyond the number of anchors. Anchors are generated and deltas decoded
    only for the selected slots.
    """
    count = head.options.rpn_pre_nms[1]
    logits, deltas = head.rpn.head(level)
    # `topk` needs at least T entries, but a small level may have fewer anchors.
    filled = torch.cat((logits, torch.full_like(logits[:, :1], FILLER).expand(-1, count)), 1)
    best, anchor_indices = filled.topk(count, dim=1)
    anchor_indices = torch.minimum(anchor_indices, get_size(logits, 1) - 1)
    selected_deltas = deltas.gather(1, anchor_indices[..., None].expand(-1, -1, 4))
    anchors = _gather_anchors(head.rpn.anchors, index, anchor_indices, level, padded)
    scores = torch.where(best > FILLER, best.sigmoid(), INVALID)
    return scores, decode_boxes(selected_deltas, anchors, head.rpn.coder)


def _gather_anchors(
    anchors: AnchorShapes, index: int, anchor_indices: Tensor, level: Tensor, padded: Tensor
) -> Tensor:
    """Return the anchors with the given indices: `(..., 4)` float32 xyxy, input pixels."""
    generator = AnchorGenerator(anchors.sizes, (anchors.aspect_ratios,) * len(anchors.sizes))
    shapes = generator.cell_anchors[index].to(anchor_indices.device)
    rows, columns = get_size(level, 2), get_size(level, 3)
    cells = torch.div(anchor_indices, anchors.per_cell, rounding_mode="trunc")
    row = torch.div(cells, columns, rounding_mode="trunc")
    column = cells - row * columns
    # Anchor steps are rounded down as in `rpn`, so that both generate the same anchors.
    y = row * torch.div(padded[0], rows, rounding_mode="trunc")
    x = column * torch.div(padded[1], columns, rounding_mode="trunc")
    corner = torch.stack((x, y), dim=-1).to(torch.float32).repeat(1, 1, 2)
    anchor_boxes: Tensor = corner + shapes[anchor_indices - cells * anchors.per_cell]
    return anchor_boxes


def decode_boxes(deltas: Tensor, boxes: Tensor, coder: BoxCoder) -> Tensor:
    """Decode box deltas like torchvision's `BoxCoder.decode_single`, for any leading axes.

    Args:
        deltas: `(..., 4)` box deltas.
        boxes: `(..., 4)` float32 xyxy boxes that the deltas are relative to.
        coder: Coder that provides the weights and the limit of the size deltas.
    """
    weights = deltas.new_tensor(coder.weights)
    offsets = deltas / weights
    size = boxes[..., 2:] - boxes[..., :2]
    center = boxes[..., :2] + 0.5 * size + offsets[..., :2] * size
    half = 0.5 * torch.exp(offsets[..., 2:].clamp(max=coder.bbox_xform_clip)) * size
    return torch.cat((center - half, center + half), dim=-1)


def _clip_boxes(boxes: Tensor, padded: Tensor) -> Tensor:
    return torch.minimum(boxes.clamp(min=0), padded.flip(0).repeat(2).to(boxes.dtype))


def _is_large(boxes: Tensor, least: float) -> Tensor:
    return ((boxes[..., 2:] - boxes[..., :2]) >= least).all(dim=-1)


def _classify_proposals(
    head: FasterRCNN, levels: Sequence[Tensor], proposals: Tensor
) -> tuple[Tensor, Tensor]:
    """Run the second stage: return probabilities `(B, R, K)` and deltas `(B, R, K, 4)`.

    Proposals are sorted by the level that they are pooled from, so that the features of the levels
    are concatenated without being reordered. Every level also pools one extra box, whose result is
    discarded: a level without a box would have an empty activation range during calibration, which
    would spoil the int8 range of all levels.
    """
    stage = head.roi_heads
    number = proposals.shape[1]
    boxes = proposals.reshape(-1, 4)
    level_indices = assign_boxes_to_levels(boxes, stage.strides)
    first, end = torch.zeros_like(level_indices[:1]), get_size(level_indices, 0).reshape(1)
    parts, orders = [], []
    for index, (level, stride) in enumerate(zip(levels, stage.strides, strict=True)):
        rows = torch.where(level_indices == index)[0]
        orders.append(torch.cat((rows, end)))
        rows = torch.cat((rows, first))
        images = torch.div(rows, number, rounding_mode="trunc")
        parts.append(
            pool_rois(
                level,
                boxes[rows].reshape(-1, 4),
                images,
                stride=stride,
                size=stage.output_size,
                ratio=stage.sampling_ratio,
            )
        )
    order = torch.cat(orders)
    logits, deltas = stage.box_predictor(stage.box_head(torch.cat(parts).flatten(1)))
    places = torch.arange(order.shape[0], device=order.device)
    # Inverse permutation. The extra boxes all scatter into one slot at the end, which is cut off.
    back = torch.zeros_like(order).scatter(0, order, places)[: level_indices.shape[0]]
    probs = logits.softmax(dim=1)[back, 1:].view(-1, number, logits.shape[1] - 1)
    return probs, deltas[back, 1:].view(*probs.shape[:2], -1, 4)
