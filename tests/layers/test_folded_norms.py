"""Folded norms change nothing that can be seen: values, gradients, keys, learning."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from resnet_tasks.backbone.resnet import ResNet
from resnet_tasks.layers.folded_norms import (
    FoldedBatchNorm2d,
    FoldingConv2d,
    fold_norms,
    fold_permanently,
)
from resnet_tasks.layers.norms import find_batch_norms
from resnet_tasks.runs.model_cost import measure_peak_bytes


def net() -> nn.Sequential:
    """Convolutions with and without bias, a norm without scale, and one that cannot be folded."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3, groups=2, stride=2),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(),
        nn.BatchNorm2d(8),
    )
    layers.train()(torch.randn(4, 3, 24, 24))
    for norm in find_batch_norms(layers):
        if norm.affine:
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
    return layers.eval()


def learn(module: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    module.zero_grad()
    made = module(images)
    (made * torch.linspace(-1, 1, made.numel()).view(made.shape)).sum().backward()
    found = {name: each.grad for name, each in module.named_parameters()}
    return made, {name: gradient for name, gradient in found.items() if gradient is not None}


def test_values_and_gradients_stay() -> None:
    plain, images = net(), torch.randn(2, 3, 16, 16)
    folded = copy.deepcopy(plain)
    assert fold_norms(folded) == 2
    assert [type(each) for each in folded][-1] is nn.BatchNorm2d
    wanted, wanted_gradients = learn(plain, images)
    made, gradients = learn(folded, images)
    torch.testing.assert_close(made, wanted, atol=1e-5, rtol=1e-4)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted_gradients[name], atol=1e-3, rtol=1e-3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = folded(images)
    assert (rounded.float() - wanted).abs().max() < 0.03 * wanted.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_filters_are_not_kept_for_the_backward(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        *(each for _ in range(12) for each in (nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64)))
    ).eval()
    fold_norms(layers)
    images, outputs = torch.randn(1, 64, 4, 4), []

    def forward() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs.append(layers(images))

    assert (
        measure_peak_bytes(forward, torch.device("cpu")) < 3 * 64 * 64 * 9 * 4
    )  # three layers' of twelve
    outputs[0].float().sum().backward()
    assert all(each.grad is not None for each in layers.parameters())


def test_norms_that_learn_are_left_alone() -> None:
    plain = net().train()
    folded = copy.deepcopy(plain)
    fold_norms(folded)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(folded(images), plain(images))
    for mine, yours in zip(folded.buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, yours)


def test_weights_come_and_go_under_their_names() -> None:
    plain = net()
    folded = copy.deepcopy(plain)
    fold_norms(folded)
    assert list(folded.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in folded.named_modules()] == [n for n, _ in plain.named_modules()]
    with torch.no_grad():
        for each in plain.parameters():
            each.mul_(1.5)
    folded.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(folded(images), plain(images), atol=1e-4, rtol=1e-4)


def test_copies_fold_norms_of_their_own() -> None:
    folded = net()
    fold_norms(folded)
    twin, images = copy.deepcopy(folded), torch.randn(1, 3, 16, 16)
    before = folded(images)
    with torch.no_grad():
        twin[1].running_mean += 1  # type: ignore[operator]
    assert torch.equal(folded(images), before)
    assert not torch.allclose(twin(images), before)


def test_layers_that_are_replaced_are_noticed() -> None:
    images = torch.randn(1, 3, 16, 16)
    for place, layer in ((1, nn.Identity()), (0, nn.Conv2d(3, 8, 3))):
        plain = net()
        folded = copy.deepcopy(plain)
        fold_norms(folded)
        plain[place] = folded[place] = layer
        torch.testing.assert_close(folded(images), plain(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet26t", "seresnet50", "resnext26ts"])
def test_backbones_say_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deep stems, squeeze-and-excitation, grouped filters and norms with activations inside."""
    torch.manual_seed(0)
    folded = ResNet(name)
    for norm in find_batch_norms(folded):
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        norm.momentum = 1.0
    images = torch.randn(4, 3, 96, 96)
    folded.train()(images)
    monkeypatch.setattr("resnet_tasks.backbone.resnet.fold_norms", lambda module: 0)
    plain = ResNet(name)
    plain.load_state_dict(folded.state_dict())
    assert not any(isinstance(each, FoldedBatchNorm2d) for each in plain.modules())
    if "resnet" in name:
        assert any(isinstance(each, FoldingConv2d) for each in folded.modules())
    with torch.no_grad():
        made, wanted = folded.eval()(images), plain.eval()(images)
    for level, feature in wanted.items():
        assert (made[level] - feature).norm() <= 1e-3 * feature.norm(), level


def test_folded_for_good_there_is_nothing_left_to_scale() -> None:
    layers = net()
    images = torch.randn(2, 3, 24, 24)
    wanted = layers(images)
    fold_norms(layers)
    fold_permanently(layers)
    assert [type(each) for each in layers] == [
        nn.Conv2d,
        nn.Identity,
        nn.ReLU,
        nn.Conv2d,
        nn.Identity,
        nn.ReLU,
        nn.BatchNorm2d,
    ]
    assert torch.allclose(layers(images), wanted, atol=1e-5)
    assert all(not isinstance(each, FoldingConv2d) for each in layers)
