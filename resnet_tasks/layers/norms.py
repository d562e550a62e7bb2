"""Norms that do not depend on the batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def batch_to_group_norm(module: nn.Module, groups_of: Callable[[int], int]) -> None:
    """Puts a group norm with the same scale and offset in the place of every batch norm.

    Source: Wu and He, Group Normalization, ECCV 2018.

    Args:
        module: Changed in place.
        groups_of: Channels -> number of groups, which must divide them.
    """
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            assert not hasattr(child, "act"), "the activation inside this norm would be lost"
            channels = child.num_features
            group = nn.GroupNorm(groups_of(channels), channels, child.eps)
            with torch.no_grad():
                group.weight.copy_(child.weight)
                group.bias.copy_(child.bias)
            setattr(module, name, group)
        else:
            batch_to_group_norm(child, groups_of)
