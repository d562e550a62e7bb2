"""Towers keep shapes, share their weights between levels, and refuse channels without groups."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resnet_tasks.errors import HeadError
from resnet_tasks.layers.towers import ConvTower


def test_layers_and_shared_weights() -> None:
    tower = ConvTower(64, 3)
    kinds = [type(layer) for layer in tower]
    assert kinds == [nn.Conv2d, nn.GroupNorm, nn.ReLU] * 3
    levels = [torch.randn(2, 64, 8, 8), torch.randn(2, 64, 1, 1)]
    results = tower.apply_to_levels(levels)
    assert [result.shape for result in results] == [level.shape for level in levels]
    torch.testing.assert_close(results[1], tower(levels[1]))
    assert [type(layer) for layer in ConvTower(20, 1, norm=None)] == [nn.Conv2d, nn.ReLU]


def test_channels_without_groups_are_refused() -> None:
    for channels in (20, 32):
        with pytest.raises(HeadError, match=f"multiples of 32, at least 64, got {channels}; set"):
            ConvTower(channels)


def test_nested_layers_have_torchvisions_names() -> None:
    with_norm, without = (
        ConvTower(64, 2, norm=norm, nested=True).state_dict()
        for norm in ("group", None)  # type: ignore[arg-type]
    )
    assert list(without) == ["0.0.weight", "0.0.bias", "1.0.weight", "1.0.bias"]
    assert list(with_norm) == [
        f"{block}.{part}" for block in range(2) for part in ("0.weight", "1.weight", "1.bias")
    ]
