from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from resnet_tasks.backbone.family import ResNetSpec
from resnet_tasks.backbone.resnet import ResNet

STAGES = ("layer1", "layer2")


def pair(make: Callable[[bool], ResNet]) -> tuple[ResNet, ResNet]:
    plain, saving = make(False), make(True)
    saving.load_state_dict(plain.state_dict())
    return plain.train(), saving.train()


def step(backbone: ResNet, images: Tensor) -> Tensor:
    features = backbone(images)
    loss = torch.stack([each.square().mean() for each in features.values()]).sum()
    loss.backward()
    return loss.detach()


@pytest.mark.parametrize("name", ["test_resnet", "resnetv2_18", "nf_resnet26", "resnet33ts"])
def test_losses_gradients_and_statistics_are_those_of_a_plain_run(name: str) -> None:
    plain, saving = pair(lambda each: ResNet(name, gradient_checkpointing=each))
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(step(plain, images), step(saving, images))
    other = dict(saving.named_parameters())
    for key, value in plain.named_parameters():
        assert (value.grad is None) == (other[key].grad is None), key
        if value.grad is not None:
            torch.testing.assert_close(other[key].grad, value.grad, rtol=1e-5, atol=1e-6, msg=key)
    for key, value in plain.state_dict().items():
        assert torch.equal(saving.state_dict()[key], value), key


def test_statistics_are_learned_once_also_where_the_backward_runs_twice() -> None:
    backbone = ResNet("test_resnet", gradient_checkpointing=True).train()
    loss = backbone(torch.randn(2, 3, 64, 64))["C5"].sum()
    loss.backward(retain_graph=True)
    loss.backward()
    counts = {
        int(value)
        for key, value in backbone.state_dict().items()
        if key.endswith("num_batches_tracked")
    }
    assert counts == {1}


def test_frozen_stages_are_left_out_and_stay_frozen(tmp_path: Path) -> None:
    save_file(ResNet("test_resnet").state_dict(), tmp_path / "tiny.safetensors")
    plain, saving = pair(
        lambda each: ResNet(
            "test_resnet",
            weights=str(tmp_path / "tiny.safetensors"),
            frozen_stages=3,
            gradient_checkpointing=each,
        )
    )
    images = torch.randn(2, 3, 64, 64)
    before = {key: value.clone() for key, value in saving.state_dict().items()}
    assert torch.equal(step(plain, images), step(saving, images))
    for key, value in saving.named_parameters():
        assert (value.grad is None) == (
            key.split(".")[0] in ("conv1", "bn1", "layer1", "layer2")
        ), key
    for key, value in before.items():
        if key.startswith(STAGES):
            assert torch.equal(saving.state_dict()[key], value), key


def kept_bytes(backbone: ResNet, images: Tensor) -> int:
    """What autograd keeps for the backward, parameters left out."""
    own = {value.data_ptr() for value in backbone.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = backbone(images)
    del features
    return sum(kept.values())


def test_less_is_kept_for_the_backward() -> None:
    depth = ResNetSpec((6, 6, 6, 6), "basic")
    plain, saving = pair(lambda each: ResNet(depth, gradient_checkpointing=each))
    images = torch.randn(1, 3, 64, 64)
    assert kept_bytes(saving, images) < 0.6 * kept_bytes(plain, images)


def test_prediction_does_not_notice() -> None:
    plain, saving = pair(lambda each: ResNet("test_resnet", gradient_checkpointing=each))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(saving.eval()(images)["C5"], plain.eval()(images)["C5"])


@pytest.mark.slow
def test_1001_layers_run_forward_and_backward() -> None:
    depth = ResNetSpec((3, 46, 281, 3))
    assert depth.convolutions == 1001
    backbone = ResNet(depth, gradient_checkpointing=True).train()
    loss = step(backbone, torch.randn(2, 3, 32, 32))
    assert loss.isfinite()
    for key, value in backbone.named_parameters():
        assert value.grad is not None, key
        assert value.grad.isfinite().all(), key
    # Gradients reach the stem through all blocks.
    assert backbone.conv1.weight.grad.abs().sum() > 0
