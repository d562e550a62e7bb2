"""Losses of detectors, summed over their elements and computed in float32.

Shape glossary: `P` boxes, `K` classes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from resnet_tasks.layers.box_coders import BoxCoder

SMOOTH_L1_BETA = 1 / 9
"""Transition point of the smooth L1 loss of box deltas, as in torchvision."""

BoxLoss = Literal["l1", "smooth_l1", "giou"]
"""Loss of boxes that are predicted as deltas; see `compute_box_loss`."""


def sigmoid_focal(
    logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0
) -> Tensor:
    """Compute the summed sigmoid focal loss (Lin et al., ICCV 2017, equation 5).

    Args:
        logits: `(..., K)`.
        targets: `(..., K)` float, 1 for the class of the element and 0 elsewhere.
        alpha: Weight of positives; negatives have `1 - alpha`.
        gamma: Exponent that lowers the loss of well classified elements; 0 gives the weighted
            binary cross entropy.

    Returns:
        Scalar float32 sum.
    """
    logits, targets = logits.float(), targets.float()
    # Log-probability of the true label, computed from the logits: a probability near 0 or 1 would
    # be rounded before its logarithm is taken.
    log_likelihood = -F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    # The clamp keeps the gradient of the power finite if gamma < 1 and the prediction is certain.
    missed = (-torch.expm1(log_likelihood)).clamp(min=1e-8)
    weights = alpha * targets + (1 - alpha) * (1 - targets)
    return (-weights * missed.pow(gamma) * log_likelihood).sum()


def giou(predicted: Tensor, boxes: Tensor) -> Tensor:
    """Compute the summed `1 - GIoU` of pairs of boxes (Rezatofighi et al., CVPR 2019).

    Args:
        predicted: `(P, 4)` xyxy, predicted boxes.
        boxes: `(P, 4)` xyxy, true boxes.

    Returns:
        Scalar float32 sum.
    """
    total: Tensor = generalized_box_iou_loss(predicted.float(), boxes.float(), reduction="sum")
    return total


def iou(predicted: Tensor, boxes: Tensor) -> Tensor:
    """Compute the summed `-ln IoU` of pairs of boxes (Yu et al., UnitBox, ACM Multimedia 2016).

    One square pixel is added to intersection and union, as in the code of FCOS (AdelaiDet), so that
    the loss of boxes that do not overlap is finite.

    Args:
        predicted: `(P, 4)` xyxy, predicted boxes, pixels.
        boxes: `(P, 4)` xyxy, true boxes, pixels.

    Returns:
        Scalar float32 sum.
    """
    predicted, boxes = predicted.float(), boxes.float()
    low = torch.maximum(predicted[:, :2], boxes[:, :2])
    high = torch.minimum(predicted[:, 2:], boxes[:, 2:])
    intersection = (high - low).clamp(min=0).prod(dim=1)
    areas = [(corners[:, 2:] - corners[:, :2]).prod(dim=1) for corners in (predicted, boxes)]
    union = areas[0] + areas[1] - intersection
    return ((union + 1).log() - (intersection + 1).log()).sum()


def smooth_l1(predicted: Tensor, targets: Tensor, *, beta: float = SMOOTH_L1_BETA) -> Tensor:
    """Compute the summed smooth L1 loss (Girshick, Fast R-CNN, ICCV 2015, equation 3).

    Args:
        predicted: Predicted values of any shape.
        targets: True values of the same shape.
        beta: Difference at which the loss changes from quadratic to linear.

    Returns:
        Scalar float32 sum.
    """
    return F.smooth_l1_loss(predicted.float(), targets.float(), beta=beta, reduction="sum")


def compute_box_loss(
    deltas: Tensor, references: Tensor, boxes: Tensor, coder: BoxCoder, kind: BoxLoss
) -> Tensor:
    """Compute the summed loss between predicted and true boxes.

    Args:
        deltas: `(P, 4)`, predicted box deltas relative to `references`.
        references: `(P, 4)` float32 xyxy, anchors or proposals.
        boxes: `(P, 4)` float32 xyxy, the true boxes.
        coder: Coder of the deltas.
        kind: `l1` or `smooth_l1` on deltas, or `giou` on boxes.

    Returns:
        Scalar float32 sum.
    """
    if kind == "giou":
        return giou(coder.decode(deltas.float(), references), boxes)
    targets = coder.encode(boxes, references)
    if kind == "l1":
        return F.l1_loss(deltas.float(), targets, reduction="sum")
    return smooth_l1(deltas, targets)
