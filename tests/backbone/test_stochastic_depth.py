"""Stochastic depth: which blocks, how often, and never in evaluation or frozen stages."""

from __future__ import annotations

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.errors import ResnetTasksError


def rates(backbone: ResNet) -> list[float]:
    return [each.drop_prob for each in backbone.modules() if isinstance(each, DropPath)]


@pytest.mark.parametrize("name", ["resnet18", "resnetv2_18", "nf_resnet26", "resnest14d"])
def test_blocks_are_left_out_more_often_the_later_they_come(name: str) -> None:
    with torch.device("meta"):
        found = rates(ResNet(name, drop_path=0.2))
    assert found == sorted(found)
    assert found[-1] == pytest.approx(0.2)


def test_resnet18_by_hand() -> None:
    """Eight blocks; block l of 0..7 at 0.35 * l / 7; the first has none at all."""
    with torch.device("meta"):
        assert rates(ResNet("resnet18", drop_path=0.35)) == pytest.approx(
            [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35]
        )
        assert rates(ResNet("resnet18")) == []


def with_live_branches(**options: object) -> ResNet:
    """New branches end in a norm of weight 0, which would hide whether they are left out."""
    torch.manual_seed(0)
    backbone = ResNet("resnet18", weights="unloaded", **options)  # type: ignore[arg-type]
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return backbone


def test_randomness_is_of_the_step_and_absent_in_evaluation() -> None:
    backbone = with_live_branches(drop_path=0.9, norm="frozen")
    plain = with_live_branches(norm="frozen")
    assert backbone.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(backbone.state_dict())
    image = torch.rand(4, 3, 64, 64)

    def seeded(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return backbone(image)["C5"]

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))
    assert torch.equal(backbone.eval()(image)["C5"], plain.eval()(image)["C5"])


def test_frozen_stages_are_never_cut_and_checkpointing_draws_the_same() -> None:
    image = torch.rand(4, 3, 64, 64)
    frozen = with_live_branches(drop_path=0.9, frozen_stages=4)
    torch.manual_seed(1)
    first = frozen(image)
    torch.manual_seed(2)
    second = frozen(image)
    assert torch.equal(first["C4"], second["C4"])
    assert not torch.equal(first["C5"], second["C5"])

    gradients = []
    for checkpointing in (False, True):
        free = with_live_branches(drop_path=0.5, gradient_checkpointing=checkpointing)
        torch.manual_seed(1)
        free(image)["C5"].sum().backward()
        gradients.append(free.get_parameter("conv1.weight").grad)
    torch.testing.assert_close(gradients[0], gradients[1])


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ResnetTasksError, match="timm's legacy_seresnet18 has no stochastic depth"):
        ResNet("legacy_seresnet18", drop_path=0.1)
    with pytest.raises(
        ResnetTasksError, match=r"backbone\.drop_path is 1\.0; it must be at least 0"
    ):
        ResNet("resnet18", drop_path=1.0)
