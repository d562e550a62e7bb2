"""Boundary loss of label maps.

Source: Kervadec, Bouchtiba, Desrosiers, Granger, Dolz, Ben Ayed: Boundary loss for highly
unbalanced segmentation, MIDL 2019.

Shape glossary: `B` batch size, `K` classes, `H, W` padded image.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resnet_tasks.structures.evaluation import VOID
from resnet_tasks.structures.loss_term import LossTerm


def boundary(logits: Tensor, labels: Tensor) -> LossTerm:
    """Compute the boundary loss, with one value per image and class present in its ground truth.

    A pixel costs its distance to the boundary of the class, weighted by the probability that the
    prediction puts on the wrong side of it. The paper's equation 5 is the mean over pixels of
    `distance * probability`, where distances are negative inside the class. It drops the constant
    `distance * truth` of its equation 4. This function subtracts it, so that the loss is at least
    0, and 0 for a perfect prediction; the gradient is the same.

    The paper computes the distances of both sides as the reference implementation does: the
    outermost pixels of the class have the distance 0, and the pixels around them 1. Void pixels
    belong to no side. A class that covers all labeled pixels of an image has no boundary there.

    The distances are computed on the CPU in every call: about 15 ms per class of an image of
    512 x 1024 pixels.

    Args:
        logits: `(B, K, H, W)`.
        labels: `(B, H, W)` int64, 0..K-1 or `VOID`.

    Returns:
        Sum of the means over labeled pixels of the pairs (image, class present in it), in pixels,
        and the number of pairs.
    """
    probs = logits.float().softmax(dim=1)
    total = (probs * 0.0).sum()
    num_pairs = 0
    for image_probs, image_labels in zip(probs, labels, strict=True):
        array = image_labels.cpu().numpy()
        distances = np.zeros(image_probs.shape, np.float32)
        present = [label for label in np.unique(array).tolist() if label != VOID]
        for label in present:
            distances[label] = compute_signed_distances(array, label)
        num_labeled = max(1, int((array != VOID).sum()))
        constant = sum(float(distances[label][array == label].sum()) for label in present)
        weighted = torch.from_numpy(distances).to(probs.device) * image_probs
        total = total + (weighted.sum() - constant) / num_labeled
        num_pairs += len(present)
    return LossTerm(total, probs.new_tensor(float(num_pairs)))


def compute_signed_distances(labels: NDArray[np.int64], label: int) -> NDArray[np.float32]:
    """Compute the distance of every pixel to the boundary of a class.

    Args:
        labels: `(H, W)` labels or `VOID`.
        label: Class, which is present in `labels`.

    Returns:
        `(H, W)` float32 Euclidean distances, pixels: at least 1 outside the class, at most 0 inside
        it, and 0 on void pixels. All are 0 if no labeled pixel is outside the class.
    """
    inside = labels == label
    outside = ~inside & (labels != VOID)
    if not outside.any():
        return np.zeros(labels.shape, np.float32)
    to_inside, to_outside = (_compute_distances_to(region) for region in (inside, outside))
    distances = np.where(inside, 1 - to_outside, np.where(outside, to_inside, 0))
    return distances.astype(np.float32)


def _compute_distances_to(region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Compute the exact Euclidean distance of every pixel to the nearest pixel of a region."""
    distances: NDArray[np.float32] = cv2.distanceTransform(
        (~region).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE
    )
    return distances
