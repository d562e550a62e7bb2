"""The Lovász-softmax loss equals that of smp and a sum over all orders by hand."""

from __future__ import annotations

import math

import pytest
import torch
from segmentation_models_pytorch.losses import LovaszLoss
from torch.nn import functional as F

from resnet_tasks.layers.segmentation.lovasz_loss import lovasz
from resnet_tasks.structures.evaluation import VOID


def test_is_that_of_smp_per_image() -> None:
    logits = torch.randn(3, 4, 8, 12, requires_grad=True)
    labels = torch.randint(0, 4, (3, 8, 12))
    labels[torch.rand(labels.shape) < 0.3] = VOID
    labels[0][labels[0] == 2] = 1  # a class that is absent from one image
    expected = LovaszLoss("multiclass", per_image=True, ignore_index=VOID)(logits, labels)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    term = lovasz(logits, labels)
    assert term.count.item() == 3
    assert term.mean().item() == pytest.approx(expected.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(term.mean(), logits)
    torch.testing.assert_close(gradient, expected_gradient)


def test_two_pixels_by_hand() -> None:
    # Probabilities (3/4, 1/4) and (1/2, 1/2) of pixels of the classes 0 and 1. Errors of class 0
    # are 1/4 on its pixel and 1/2 on the other one; with the larger error first, 1 - IoU is 1/2
    # after one pixel and 1 after both. The errors of class 1 are the same, in the other order:
    # without its own pixel, 1 - IoU is already 1.
    logits = torch.tensor([[[[math.log(3.0), 0.0]], [[0.0, 0.0]]]])
    term = lovasz(logits, torch.tensor([[[0, 1]]]))
    first, second = 0.5 * 0.5 + 0.25 * 0.5, 0.5 * 1.0
    assert term.sum.item() == pytest.approx((first + second) / 2)
    assert term.count.item() == 1


def test_certain_predictions_give_one_minus_iou() -> None:
    labels = torch.randint(0, 3, (1, 10, 10))
    predicted = torch.randint(0, 3, (1, 10, 10))
    logits = 1000.0 * F.one_hot(predicted, 3).permute(0, 3, 1, 2).float()
    ious = [
        ((labels == k) & (predicted == k)).sum() / ((labels == k) | (predicted == k)).sum()
        for k in range(3)
    ]
    assert lovasz(logits, labels).sum.item() == pytest.approx(1 - float(sum(ious)) / 3, rel=1e-5)


def test_images_of_void_do_not_count() -> None:
    labels = torch.randint(0, 4, (2, 8, 12))
    logits = torch.randn(2, 4, 8, 12)
    labels[1] = VOID
    term, alone = lovasz(logits, labels), lovasz(logits[:1], labels[:1])
    assert term.count.item() == 1
    assert term.sum.item() == pytest.approx(alone.sum.item())
