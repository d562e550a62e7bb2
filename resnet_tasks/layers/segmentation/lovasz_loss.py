"""Lovász-softmax loss of label maps.

Source: Berman, Rannen Triki, Blaschko: The Lovász-Softmax loss: A tractable surrogate for the
optimization of the intersection-over-union measure in neural networks, CVPR 2018.

Shape glossary: `B` batch size, `K` classes, `H, W` padded image, `P` labeled pixels of an image.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.loss_term import LossTerm


def lovasz(logits: Tensor, labels: Tensor) -> LossTerm:
    """Compute the Lovász-softmax loss per image, over the classes present in its ground truth.

    This is the variant of the paper's section 3.1 with `classes = present` and `per_image`: a
    convex surrogate of `1 - IoU`, averaged over the classes of the image. It is computed per image
    instead of over the batch, so that it does not depend on which images share a batch. A class
    that is absent from an image has no IoU there.

    Args:
        logits: `(B, K, H, W)`.
        labels: `(B, H, W)` int64, 0..K-1 or `VOID`.

    Returns:
        Sum of the images' losses, and the number of images with a labeled pixel.
    """
    probs = logits.float().softmax(dim=1)
    total = probs.new_zeros(())
    for image_probs, image_labels in zip(probs, labels, strict=True):
        total = total + _compute_image_loss(image_probs, image_labels)
    num_labeled = (labels != VOID).flatten(1).any(dim=1).sum().float()
    return LossTerm(total, num_labeled)


def _compute_image_loss(probs: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean loss of the classes present in `(H, W)` labels, 0 if there is none."""
    labeled = labels != VOID
    flat = labels[labeled]
    # The sum of an empty selection is 0 and keeps the graph.
    rows = probs[:, labeled]
    present = torch.unique(flat)
    if not len(present):
        return rows.sum()
    losses = [_compute_class_loss(rows[label], flat == label) for label in present.tolist()]
    return torch.stack(losses).mean()


def _compute_class_loss(probs: Tensor, truth: Tensor) -> Tensor:
    """Compute the Lovász extension of `1 - IoU` of one class (algorithm 1 of the paper).

    Args:
        probs: `(P,)` probabilities of the class.
        truth: `(P,)` bool, True for the pixels of the class; at least one is True.
    """
    errors = (truth.float() - probs).abs()
    # The order has no gradient, so that neither do the weights.
    order = _argsort_descending(errors.detach())
    hits = truth[order].float()
    intersection = hits.sum() - hits.cumsum(dim=0)
    union = hits.sum() + (1 - hits).cumsum(dim=0)
    jaccard = 1 - intersection / union
    weights = torch.empty_like(jaccard)
    weights[order] = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
    return (errors * weights).sum()


def _argsort_descending(values: Tensor) -> Tensor:
    """Return the order of `(P,)` values; equal values, which get the same loss, in any order."""
    if values.device.type == "cpu":
        # NumPy sorts float32 about five times faster than torch.
        return torch.from_numpy(np.argsort(-values.numpy()))
    return values.argsort(descending=True)
