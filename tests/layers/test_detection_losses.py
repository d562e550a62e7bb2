"""Detection losses equal torchvision's and hand-computed values, also for extreme logits."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from resnet_tasks.layers.box_coders import BoxCoder
from resnet_tasks.layers.detection_losses import (
    compute_box_loss,
    giou,
    iou,
    sigmoid_focal,
    smooth_l1,
)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_equals_torchvision(gamma: float) -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(20, 5)).requires_grad_()
    targets = (torch.rand(20, 5) > 0.7).float()
    ours = sigmoid_focal(logits, targets, gamma=gamma)
    theirs = sigmoid_focal_loss(logits, targets, gamma=gamma, reduction="sum")
    torch.testing.assert_close(ours, theirs)
    (mine,) = torch.autograd.grad(ours, logits)
    (yours,) = torch.autograd.grad(theirs, logits)
    torch.testing.assert_close(mine, yours, atol=1e-5, rtol=1e-4)


def test_focal_by_hand_and_at_extremes() -> None:
    # A logit of 0: p = 1/2, so alpha * (1/2)^2 * ln 2.
    value = sigmoid_focal(torch.zeros(1), torch.ones(1))
    assert value.item() == pytest.approx(0.25 * 0.25 * math.log(2))
    logits = torch.tensor([80.0, -80.0, 80.0]).bfloat16().requires_grad_()
    loss = sigmoid_focal(logits, torch.tensor([1.0, 0.0, 0.0]), gamma=0.5)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(0.75 * 80.0, rel=1e-3)
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_box_losses_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
    # Half of the box: IoU 0.5, and the hull is the box itself.
    half = torch.tensor([[0.0, 0.0, 10.0, 5.0], [20.0, 0.0, 30.0, 10.0]])
    assert giou(half, boxes).item() == pytest.approx(0.5, abs=1e-5)
    torch.testing.assert_close(
        giou(half, boxes), generalized_box_iou_loss(half, boxes, reduction="sum")
    )
    values = smooth_l1(torch.tensor([0.5, 2.0]), torch.zeros(2), beta=1.0)
    assert values.item() == pytest.approx(0.5 * 0.25 + 1.5)
    coder = BoxCoder()
    deltas = torch.tensor([[0.0, 0.0, 0.0, math.log(0.5)], [0.0] * 4])
    assert compute_box_loss(deltas, boxes, boxes, coder, "smooth_l1").item() == pytest.approx(
        math.log(2) - 0.5 / 9
    )
    assert compute_box_loss(deltas, boxes, boxes, coder, "giou").item() == pytest.approx(
        0.5, abs=1e-5
    )
    assert compute_box_loss(deltas, boxes, boxes, coder, "l1").item() == pytest.approx(math.log(2))
    nothing = torch.zeros(0, 4)
    assert compute_box_loss(nothing, nothing, nothing, coder, "giou") == 0


def test_iou_loss_by_hand() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]])
    predicted = torch.tensor([[0.0, 0.0, 10.0, 5.0], [20.0, 0.0, 22.0, 5.0]]).requires_grad_()
    # IoU 50/100, and 0/110; one square pixel is added to both areas.
    expected = math.log(101 / 51) + math.log(111)
    loss = iou(predicted, boxes)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad[0, 3] < 0  # a higher box overlaps more
    assert iou(boxes.bfloat16(), boxes).item() == 0
    assert iou(boxes[:0], boxes[:0]).item() == 0
