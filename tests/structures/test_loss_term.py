"""The mean of a loss term."""

from __future__ import annotations

import torch

from resnet_tasks.structures.loss_term import LossTerm


def test_loss_term_mean() -> None:
    value = torch.tensor(6.0, requires_grad=True)
    assert LossTerm(value, torch.tensor(4.0)).mean().item() == 1.5
    empty = LossTerm(value, torch.tensor(0.0)).mean()
    empty.backward()
    assert empty.item() == 0
    assert value.grad is not None
    assert value.grad.item() == 0


def test_a_minimum_of_the_count_keeps_a_loss_without_counted_elements() -> None:
    value = torch.tensor(6.0, requires_grad=True)
    assert LossTerm(value, torch.tensor(0.0), min_count=1.0).mean().item() == 6.0
    assert LossTerm(value, torch.tensor(4.0), min_count=1.0).mean().item() == 1.5
