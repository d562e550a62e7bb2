"""Losses over dense logits, each as (sum, count), so that they add up over batches and processes.

Shape glossary: `B` batch size, `K` classes, `H, W` padded image. Logits are `(B, K, H, W)`, labels
are `(B, H, W)` int64 with `VOID` pixels ignored. Everything is computed in float32.
"""

from __future__ import annotations

import math

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
    """Compute the pixel-wise cross entropy, with the mean of `torch.nn.functional.cross_entropy`.

    Args:
        logits: `(B, K, H, W)`.
        labels: `(B, H, W)` int64, 0..K-1 or `VOID`.
        class_weights: `(K,)` float32; None gives every class the weight 1.
        label_smoothing: Share of the target that is spread over all classes, 0..1.

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
    """Compute the softmax focal loss (Lin et al. 2017, equation 5, with class weights as alpha).

    Args:
        logits: `(B, K, H, W)`.
        labels: `(B, H, W)` int64, 0..K-1 or `VOID`.
        gamma: Exponent that lowers the loss of well classified pixels; 0 gives the cross entropy.
        class_weights: `(K,)` float32; None gives every class the weight 1.

    Returns:
        Sum over labeled pixels, and the sum of their class weights.
    """
    rows, flat = _compute_log_probs(logits, labels)
    log_likelihood = -F.nll_loss(rows, flat, ignore_index=VOID, reduction="none")
    # The clamp keeps the gradient of the power finite if gamma < 1 and the prediction is certain.
    missed = (-torch.expm1(log_likelihood)).clamp(min=1e-8)
    weights = _compute_pixel_weights(flat, class_weights)
    return LossTerm((-weights * missed.pow(gamma) * log_likelihood).sum(), weights.sum())


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    threshold: float = 0.7,
    min_kept: float = 1 / 16,
    class_weights: Tensor | None = None,
) -> LossTerm:
    """Compute the cross entropy of the hard pixels of every image (online hard example mining).

    Source: Shrivastava, Gupta, Girshick, CVPR 2016 (the method); Wu, Shen, van den Hengel, "High-
    performance semantic segmentation using very deep fully convolutional networks", 2016, section
    3.2 (its form for pixels). A pixel is hard if the probability of its class is below `threshold`.
    If fewer pixels than the fraction `min_kept` of the image's labeled pixels are hard, those with
    the lowest probabilities are kept. Pixels are selected per image instead of over the batch, so
    that the selection does not depend on which images share a batch.

    Args:
        logits: `(B, K, H, W)`.
        labels: `(B, H, W)` int64, 0..K-1 or `VOID`.
        threshold: Probability of the true class below which a pixel is hard, above 0, at most 1.
        min_kept: Smallest fraction of an image's labeled pixels that are kept, 0..1.
        class_weights: `(K,)` float32; None gives every class the weight 1.

    Returns:
        Sum over the kept pixels, and the sum of their class weights.
    """
    rows, flat = _compute_log_probs(logits, labels)
    losses = F.nll_loss(rows, flat, ignore_index=VOID, reduction="none").view(labels.shape)
    kept = torch.stack(
        [
            _select_hard_pixels(image_losses, image_labels != VOID, threshold, min_kept)
            for image_losses, image_labels in zip(losses.detach(), labels, strict=True)
        ]
    )
    weights = _compute_pixel_weights(labels, class_weights) * kept
    return LossTerm((losses * weights).sum(), weights.sum())


def dice(logits: Tensor, labels: Tensor) -> LossTerm:
    """Compute the soft Dice loss, with one value per image and class present in its ground truth.

    This is the Dice coefficient of Milletari et al. 2016 with plain instead of squared sums in the
    denominator. It is computed per image instead of over the batch, so that it does not depend on
    which images share a batch. A class that is absent from an image has no Dice there. Its false
    positives lower the Dice of the classes that they displace.

    Args:
        logits: `(B, K, H, W)`.
        labels: `(B, H, W)` int64, 0..K-1 or `VOID`.

    Returns:
        Sum of `1 - Dice` over the pairs (image, class present in it), and the number of pairs.
    """
    return tversky(logits, labels, alpha=0.5, beta=0.5)


def tversky(logits: Tensor, labels: Tensor, *, alpha: float = 0.3, beta: float = 0.7) -> LossTerm:
    """Compute the Tversky loss, with one value per image and class present in its ground truth.

    Source: Salehi, Erdogmus, Gholipour, "Tversky loss function for image segmentation using 3D
    fully convolutional deep networks", MLMI 2017, whose best weights are the defaults. The index is
    `TP / (TP + alpha FP + beta FN)` with soft counts; weights of 0.5 give the Dice loss. Like that,
    it is computed per image and only for the classes present in it.

    Args:
        logits: `(B, K, H, W)`.
        labels: `(B, H, W)` int64, 0..K-1 or `VOID`.
        alpha: Weight of false positives.
        beta: Weight of false negatives.

    Returns:
        Sum of `1 - index` over the pairs (image, class present in it), and the number of pairs.
    """
    probs = logits.float().softmax(dim=1)
    classes = torch.arange(probs.shape[1], device=labels.device)
    truth = labels[:, None] == classes[:, None, None]
    labeled = (labels != VOID)[:, None]
    overlap = (probs * truth).sum(dim=(2, 3))
    predicted = (probs * labeled).sum(dim=(2, 3))
    actual = truth.sum(dim=(2, 3))
    present = actual > 0
    # TP + alpha (predicted - TP) + beta (actual - TP), sorted by summand.
    weighted = (1 - alpha - beta) * overlap + alpha * predicted + beta * actual
    index = overlap / weighted.clamp(min=1e-6)
    return LossTerm(((1 - index) * present).sum(), present.sum().float())


def _select_hard_pixels(
    losses: Tensor, labeled: Tensor, threshold: float, min_kept: float
) -> Tensor:
    """Return which pixels of an image are kept, `(H, W)` bool.

    Args:
        losses: `(H, W)` cross entropies, without gradient.
        labeled: `(H, W)` bool.
        threshold: Probability of the true class below which a pixel is hard.
        min_kept: Smallest fraction of the labeled pixels that are kept.
    """
    labeled_losses = losses[labeled]
    hard = losses > -math.log(threshold)
    num_kept = min(len(labeled_losses), math.ceil(min_kept * len(labeled_losses)))
    if num_kept > 0:
        # Ties with the last kept pixel are kept too, so that the order of pixels does not matter.
        limit = labeled_losses.topk(num_kept).values[-1]
        hard = hard | (losses >= limit)
    return hard & labeled


def _compute_log_probs(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return `(B * H * W, K)` log-probabilities and `(B * H * W,)` labels; unflattened on a CPU.

    The softmax runs over the channel dimension, which on a CPU is several times faster than over
    rows of few classes. On other devices the maps are flattened, because `nll_loss` is
    deterministic for rows but not for images. A CPU needs no such copy.
    """
    log_probs = logits.float().log_softmax(dim=1)
    if log_probs.device.type == "cpu":
        return log_probs, labels
    return log_probs.permute(0, 2, 3, 1).flatten(0, 2), labels.flatten()


def _compute_pixel_weights(flat: Tensor, class_weights: Tensor | None) -> Tensor:
    """Return the class weight of every pixel, 0 for void pixels."""
    labeled = flat != VOID
    if class_weights is None:
        return labeled.float()
    return class_weights.float()[flat.clamp(min=0)] * labeled
