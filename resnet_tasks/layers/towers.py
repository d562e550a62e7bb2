"""Tower of convolutions that dense heads apply to every pyramid level.

Source: Lin et al., RetinaNet, ICCV 2017, section 4; Tian et al., FCOS, ICCV 2019, section 4
(group norms).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from resnet_tasks.errors import HeadError

GROUPS = 32
"""Number of groups of the group norms (Wu and He, 2018)."""


class ConvTower(nn.Sequential):
    """Sequence of 3x3 convolution, norm and ReLU, shared by all levels.

    Batch norms are not offered: their statistics would mix levels of different scale.

    Args:
        channels: Channels of the input and of every layer.
        num_convs: Number of convolutions.
        norm: `group`, or None for convolutions without a norm.

    Raises:
        HeadError: If group norms cannot divide the channels.
    """

    def __init__(
        self, channels: int, num_convs: int = 4, *, norm: Literal["group"] | None = "group"
    ) -> None:
        if norm == "group" and channels % GROUPS:
            raise HeadError(
                f"a tower with group norms needs channels in multiples of {GROUPS}, got {channels}"
            )
        layers: list[nn.Module] = []
        for _ in range(num_convs):
            layers.append(nn.Conv2d(channels, channels, 3, padding=1))
            if norm == "group":
                layers.append(nn.GroupNorm(GROUPS, channels))
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def apply_to_levels(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Apply the same layers to every level: `(B, channels, Hk, Wk)` each, shapes unchanged."""
        return [self(level) for level in levels]
