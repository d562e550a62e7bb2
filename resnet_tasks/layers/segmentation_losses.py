"""Losses over dense logits, each as (sum, count), so that they add up over batches and processes.

Shape glossary: `B` batch, `K` classes, `H, W` padded image. Logits are `(B, K, H, W)`, labels
`(B, H, W)` int64, where `VOID` pixels count for nothing. Everything is computed in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.loss_term import LossTerm


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> LossTerm:
    """Pixel-wise cross entropy; its mean is that of `torch.nn.functional.cross_entropy`.

    Args:
        logits: `(B, K, H, W)`.
        labels: `(B, H, W)` int64, 0..K-1 or `VOID`.
        class_weights: `(K,)` float32; None weighs all classes 1.
        label_smoothing: 0..1, the share of the target that is spread over all classes.

    Returns:
        Sum over labeled pixels, and the sum of their class weights.
    """
    rows, flat = _compute_log_probs(logits, labels)
    weights = _compute_pixel_weights(flat, class_weights)
    total = F.nll_loss(rows, flat, weight=class_weights, ignore_index=VOID, reduction="sum")
    if label_smoothing > 0:
        shape = (1, -1, *(1,) * (rows.ndim - 2))
        weighted_rows = rows if class_weights is None else rows * class_weights.view(shape)
        spread = -(weighted_rows.sum(dim=1) * (flat != VOID)).sum() / rows.shape[1]
        total = (1 - label_smoothing) * total + label_smoothing * spread
    return LossTerm(total, weights.sum())


def focal(
    logits: Tensor, labels: Tensor, *, gamma: float = 2.0, class_weights: Tensor | None = None
) -> LossTerm:
    """Softmax focal loss (Lin et al. 2017, equation 5, the class weights in the place of alpha).

    Args:
        logits: `(B, K, H, W)`.
        labels: `(B, H, W)` int64, 0..K-1 or `VOID`.
        gamma: How fast the loss of well classified pixels falls; 0 gives the cross entropy.
        class_weights: `(K,)` float32; None weighs all classes 1.

    Returns:
        Sum over labeled pixels, and the sum of their class weights.
    """
    rows, flat = _compute_log_probs(logits, labels)
    log_likelihood = -F.nll_loss(rows, flat, ignore_index=VOID, reduction="none")
    # The clamp keeps the gradient of the power finite where a pixel is certain and gamma < 1.
    missed = (-torch.expm1(log_likelihood)).clamp(min=1e-8)
    weights = _compute_pixel_weights(flat, class_weights)
    return LossTerm((-weights * missed.pow(gamma) * log_likelihood).sum(), weights.sum())


def dice(logits: Tensor, labels: Tensor) -> LossTerm:
    """Soft Dice loss, one value per image and class present in its truth.

    The Dice coefficient of Milletari et al. 2016 with plain instead of squared sums in the
    denominator. It is taken per image, not over the batch, so that it does not depend on which
    images share a batch. A class that is absent from an image has no Dice there; its false
    positives cost the classes that they displace.

    Args:
        logits: `(B, K, H, W)`.
        labels: `(B, H, W)` int64, 0..K-1 or `VOID`.

    Returns:
        Sum of `1 - Dice` over the pairs (image, class present in it), and the number of pairs.
    """
    probs = logits.float().softmax(dim=1)
    classes = torch.arange(probs.shape[1], device=labels.device)
    truth = labels[:, None] == classes[:, None, None]
    labeled = (labels != VOID)[:, None]
    overlap = (probs * truth).sum(dim=(2, 3))
    predicted = (probs * labeled).sum(dim=(2, 3))
    actual = truth.sum(dim=(2, 3))
    present = actual > 0
    coefficient = 2 * overlap / (predicted + actual).clamp(min=1e-6)
    return LossTerm(((1 - coefficient) * present).sum(), present.sum().float())


def _compute_log_probs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """`(B * H * W, K)` log-probabilities and `(B * H * W,)` labels; on a CPU as images.

    The softmax runs over channels, where it is several times faster on a CPU than over rows of few
    classes. What picks the labeled class of each row is deterministic on every device, unlike its
    form for images, which spares a copy.
    """
    log_probs = logits.float().log_softmax(dim=1)
    if log_probs.device.type == "cpu":
        return log_probs, labels
    return log_probs.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()


def _compute_pixel_weights(flat: Tensor, class_weights: Tensor | None) -> Tensor:
    """The class weight of every pixel, 0 for void."""
    labeled = flat != VOID
    if class_weights is None:
        return labeled.float()
    return class_weights.float()[flat.clamp(min=0)] * labeled
