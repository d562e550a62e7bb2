"""Batch norms that accept a single value per channel."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resnet_tasks.layers.folded_norms import fold_norms
from resnet_tasks.layers.segmentation.single_value_norms import accept_single_values


def make_layers(*, folded: bool) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    norm = layers[1]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight)
    if folded:
        fold_norms(layers)
    accept_single_values(layers)
    return layers


@pytest.mark.parametrize("folded", [False, True])
def test_a_single_value_uses_the_running_statistics_and_keeps_them(folded: bool) -> None:
    layers, values = make_layers(folded=folded), torch.randn(1, 3, 1, 1)
    before = {key: value.clone() for key, value in layers.state_dict().items()}
    output = layers.train()(values)
    output.sum().backward()
    torch.testing.assert_close(output, layers.eval()(values))
    for key, value in layers.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert all(parameter.grad.ne(0).any() for parameter in layers.parameters())


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 1, 1), (1, 3, 2, 1)])
def test_more_values_are_normalized_by_their_own_statistics(
    folded: bool, shape: tuple[int, ...]
) -> None:
    layers, values = make_layers(folded=folded).train(), torch.randn(shape)
    plain = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
    plain.load_state_dict(layers.state_dict())
    torch.testing.assert_close(layers(values), plain.train()(values))
    torch.testing.assert_close(layers.state_dict(), plain.state_dict())
