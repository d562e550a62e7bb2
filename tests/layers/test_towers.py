"""Towers keep shapes, share their weights between levels, and refuse channels without groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resnet_tasks.errors import HeadError
from resnet_tasks.layers.towers import ConvTower


def test_layers_and_shared_weights() -> None:
    tower = ConvTower(32, 3)
    kinds = [type(layer) for layer in tower]
    assert kinds == [nn.Conv2d, nn.GroupNorm, nn.ReLU] * 3
    levels = [torch.randn(2, 32, 8, 8), torch.randn(2, 32, 4, 2)]
    results = tower.apply_to_levels(levels)
    assert [result.shape for result in results] == [level.shape for level in levels]
    torch.testing.assert_close(results[1], tower(levels[1]))
    assert [type(layer) for layer in ConvTower(20, 1, norm=None)] == [nn.Conv2d, nn.ReLU]


def test_channels_without_groups_are_refused() -> None:
    with pytest.raises(HeadError, match="multiples of 32, got 20"):
        ConvTower(20)
