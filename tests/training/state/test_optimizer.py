"""Parameter groups and the learning rate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import RunError
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.model import TaskModel
from resnet_tasks.recipe.schema.training import TrainingRecipe
from resnet_tasks.training.state.optimizer import (
    build_parameter_groups,
    compute_lr_factor,
    make_optimizer,
    set_learning_rates,
)


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
        (g["lr"], g["weight_decay"]): len(g["params"])
        for g in build_parameter_groups(model, options)
    }  # type: ignore[arg-type]
    # backbone: 1 kernel decayed; bias, norm weight, norm bias not. head: kernel, bias.
    assert groups == {(0.05, 0.2): 1, (0.05, 0.0): 3, (0.1, 0.2): 1, (0.1, 0.0): 1}


BEIT = TrainingRecipe(
    learning_rate=1.0, layer_decay=0.5, backbone_lr_scale=0.1, weight_decay=0.0, device="cpu"
)


def rates(backbone: ResNet) -> dict[str, float]:
    """Parameter name -> its rate in the optimizer, under a backbone and two heads."""
    heads = {
        name: UNet(backbone.specs, ("a", "b"), {"decoder_channels": (8, 8, 8, 8, 8)})
        for name in ("slow", "plain")
    }
    model = TaskModel(backbone, heads, lr_scales={"slow": 0.25})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: float(group["lr"])  # type: ignore[arg-type]
        for group in build_parameter_groups(model, BEIT)
        for parameter in group["params"]  # type: ignore[attr-defined]
    }


def test_stages_and_heads_learn_at_their_own_rates() -> None:
    found = rates(ResNet("resnet10t"))
    by_hand = {
        "backbone.conv1.0.weight": 0.1 / 32,  # the stem: five below the heads
        "backbone.bn1.weight": 0.1 / 32,
        "backbone.layer1.0.conv1.weight": 0.1 / 16,
        "backbone.layer2.0.downsample.1.weight": 0.1 / 8,
        "backbone.layer3.0.bn2.bias": 0.1 / 4,
        "backbone.layer4.0.conv2.weight": 0.1 / 2,
    }
    assert {name: found[name] for name in by_hand} == pytest.approx(by_hand)
    assert {rate for name, rate in found.items() if name.startswith("heads.slow.")} == {0.25}
    assert {rate for name, rate in found.items() if name.startswith("heads.plain.")} == {1.0}


def test_preactivation_nets_have_their_stages_and_the_last_norm_is_of_the_last() -> None:
    found = rates(ResNet("resnetv2_18"))
    by_hand = {
        "backbone.stem.conv.weight": 0.1 / 32,
        "backbone.stages.0.blocks.0.conv1.weight": 0.1 / 16,
        "backbone.stages.1.blocks.1.norm2.weight": 0.1 / 8,
        "backbone.stages.2.blocks.0.conv2.weight": 0.1 / 4,
        "backbone.stages.3.blocks.0.conv1.weight": 0.1 / 2,
        "backbone.norm.weight": 0.1 / 2,
    }
    assert {name: found[name] for name in by_hand} == pytest.approx(by_hand)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18d",
        "skresnet18",
        "res2net50_14w_8s",
        "resnest14d",
        "legacy_seresnet18",
        "gcresnext26ts",
        "nf_resnet26",
        "seresnext26ts",
        "resnetrs50",
    ],
)
def test_every_parameter_of_the_family_has_a_stage(name: str) -> None:
    with torch.device("meta"):
        backbone = ResNet(name)
    stages = [backbone.find_stage(each) for each, _ in backbone.named_parameters()]
    assert stages == sorted(stages)
    assert set(stages) == {1, 2, 3, 4, 5}
    with pytest.raises(KeyError):
        backbone.find_stage("layer9.weight")


def test_rates_by_stage_need_a_backbone_with_stages() -> None:
    with pytest.raises(RunError, match=r"the backbone \(Sequential\) has no method `find_stage`"):
        build_parameter_groups(Model(), BEIT)


def test_rate_warms_up_and_falls_as_a_cosine() -> None:
    options = TrainingRecipe(warmup=0.1, schedule="cosine")
    assert compute_lr_factor(0, 100, options) == pytest.approx(1 / 11)
    assert compute_lr_factor(9, 100, options) == pytest.approx(10 / 11)
    assert compute_lr_factor(10, 100, options) == pytest.approx(1.0)
    assert compute_lr_factor(55, 100, options) == pytest.approx(0.5)
    assert compute_lr_factor(99, 100, options) == pytest.approx(
        0.5 * (1 + math.cos(math.pi * 89 / 90))
    )


def test_steps_and_constant() -> None:
    options = TrainingRecipe(warmup=0.0, schedule="steps", steps=(0.5, 0.75), step_factor=0.1)
    factors = [compute_lr_factor(step, 100, options) for step in (0, 49, 50, 74, 75)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01])
    assert compute_lr_factor(99, 100, TrainingRecipe(warmup=0.0, schedule="constant")) == 1.0


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_optimizers_step_at_their_own_rates(kind: str) -> None:
    model = Model()
    optimizer = make_optimizer(model, TrainingRecipe(optimizer=kind, learning_rate=0.1))  # type: ignore[arg-type]
    set_learning_rates(optimizer, 0.5)
    set_learning_rates(optimizer, 0.25)
    assert {group["lr"] for group in optimizer.param_groups} == {0.025}
    before = model.heads.weight.clone()
    model.heads(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    assert not torch.equal(before, model.heads.weight)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_parameters_may_meet_their_first_gradient_later(kind: str) -> None:
    """Who joins at the second step then moves as at a first step of its own."""
    late, alone = Model(), Model()
    alone.load_state_dict(late.state_dict())
    options = TrainingRecipe(optimizer=kind, learning_rate=0.1)  # type: ignore[arg-type]
    optimizers = [make_optimizer(each, options) for each in (late, alone)]
    late.backbone(torch.ones(1, 3, 2, 2)).sum().backward()
    optimizers[0].step()
    optimizers[0].zero_grad()
    for model, optimizer in zip((late, alone), optimizers, strict=True):
        model.heads(torch.ones(1, 4)).sum().backward()
        optimizer.step()
    assert torch.equal(late.heads.weight, alone.heads.weight)
