"""Norms of a finished network: replacement by other kinds, and freezing of their statistics."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from timm.layers import GroupNormAct, convert_sync_batchnorm
from timm.layers.evo_norm import EvoNorm2dB0, EvoNorm2dB1, EvoNorm2dB2, EvoNorm2dS0, EvoNorm2dS1
from timm.layers.filter_response_norm import FilterResponseNormAct2d, FilterResponseNormTlu2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

NORM_TYPES = (
    _BatchNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    EvoNorm2dB0,
    EvoNorm2dB1,
    EvoNorm2dB2,
    EvoNorm2dS0,
    EvoNorm2dS1,
    FilterResponseNormAct2d,
    FilterResponseNormTlu2d,
)
"""Kinds of norms in the nets of the ResNet family."""


def find_norms(module: nn.Module) -> list[nn.Module]:
    """Return all norms inside a module, of any kind."""
    return [child for child in module.modules() if isinstance(child, NORM_TYPES)]


def find_batch_norms(module: nn.Module) -> list[_BatchNorm]:
    """Return all norms inside a module that learn statistics over batches."""
    return [child for child in module.modules() if isinstance(child, _BatchNorm)]


def batch_to_group_norm(module: nn.Module, choose_num_groups: Callable[[int], int]) -> None:
    """Replace every batch norm by a group norm with the same scale and offset.

    An activation inside a norm is kept. Keys of the state dict stay the same, except those of the
    statistics, which a group norm does not have.

    Source: Wu and He, Group Normalization, ECCV 2018.

    Args:
        module: Module to change, in place.
        choose_num_groups: Function from channels to the number of groups, which must divide them.
    """
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            setattr(module, name, _make_group_norm(child, choose_num_groups(child.num_features)))
        else:
            batch_to_group_norm(child, choose_num_groups)


def choose_num_groups(channels: int) -> int:
    """Choose the number of groups so that a group has about 16 channels.

    Wu and He 2018, Table 3, find this on a par with 32 groups. The last blocks of a decoder have
    too few channels for 32 groups.
    """
    return math.gcd(channels, max(1, channels // 16))


def batch_to_sync_norm(module: nn.Module) -> None:
    """Replace every batch norm by one that shares its statistics between processes.

    Weights, statistics, inner activations and keys of the state dict stay as they are. In a single
    process the new norm computes the same as the old one.

    Args:
        module: Module to change, in place.
    """
    for name, child in module.named_children():
        setattr(module, name, convert_sync_batchnorm(child))


class FrozenStatistics(AbstractContextManager[None]):
    """Context in which batch norms normalize as usual but learn no statistics.

    It is meant for a second forward over the same batch, as in gradient checkpointing, which would
    otherwise count the batch twice.

    Args:
        module: Module whose batch norms are affected.
    """

    def __init__(self, module: nn.Module) -> None:
        self.norms = find_batch_norms(module)
        self.before: list[tuple[float | None, Tensor | None]] = []

    def __enter__(self) -> None:
        # A momentum of 0 leaves mean and variance unchanged. Evaluation mode would change which
        # tensors autograd saves, and checkpointing requires the same ones in both forwards.
        for norm in self.norms:
            count = norm.num_batches_tracked
            self.before.append((norm.momentum, None if count is None else count.clone()))
            norm.momentum = 0.0

    def __exit__(self, *_: object) -> None:
        for norm, (momentum, count) in zip(self.norms, self.before, strict=True):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)
        self.before.clear()


def _make_group_norm(norm: _BatchNorm, groups: int) -> nn.GroupNorm:
    channels = norm.num_features
    # timm's batch norms with an activation inside become group norms with the same activation.
    if hasattr(norm, "act"):
        group: nn.GroupNorm = GroupNormAct(channels, groups, norm.eps, apply_act=False)
        group.act = norm.act
        group.drop = norm.drop
    else:
        group = nn.GroupNorm(groups, channels, norm.eps)
    with torch.no_grad():
        group.weight.copy_(norm.weight)
        group.bias.copy_(norm.bias)
    return group
