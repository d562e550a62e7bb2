"""Parameter groups and the learning rate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from resnet_tasks.recipe.schema import TrainingRecipe
from resnet_tasks.training.optimizer import make_optimizer, parameter_groups, rate_factor, set_rates


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.heads = nn.Linear(4, 2)
        self.frozen = nn.Linear(4, 2).requires_grad_(False)


def test_groups_by_rate_and_decay_and_without_frozen_parameters() -> None:
    options = TrainingRecipe(learning_rate=0.1, backbone_lr_scale=0.5, weight_decay=0.2)
    model = Model()
    groups = {
        (g["lr"], g["weight_decay"]): len(g["params"]) for g in parameter_groups(model, options)
    }  # type: ignore[arg-type]
    # backbone: 1 kernel decayed; bias, norm weight, norm bias not. head: kernel, bias.
    assert groups == {(0.05, 0.2): 1, (0.05, 0.0): 3, (0.1, 0.2): 1, (0.1, 0.0): 1}


def test_rate_warms_up_and_falls_as_a_cosine() -> None:
    options = TrainingRecipe(warmup=0.1, schedule="cosine")
    assert rate_factor(0, 100, options) == pytest.approx(1 / 11)
    assert rate_factor(9, 100, options) == pytest.approx(10 / 11)
    assert rate_factor(10, 100, options) == pytest.approx(1.0)
    assert rate_factor(55, 100, options) == pytest.approx(0.5)
    assert rate_factor(99, 100, options) == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))


def test_steps_and_constant() -> None:
    options = TrainingRecipe(warmup=0.0, schedule="steps", steps=(0.5, 0.75), step_factor=0.1)
    factors = [rate_factor(step, 100, options) for step in (0, 49, 50, 74, 75)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert rate_factor(99, 100, TrainingRecipe(warmup=0.0, schedule="constant")) == 1.0


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_optimizers_step_at_their_own_rates(kind: str) -> None:
    model = Model()
    optimizer = make_optimizer(model, TrainingRecipe(optimizer=kind, learning_rate=0.1))  # type: ignore[arg-type]
    set_rates(optimizer, 0.5)
    set_rates(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.025}
    before = model.heads.weight.clone()
    model.heads(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.heads.weight)
