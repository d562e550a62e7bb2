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
        nested: Whether each convolution forms a block with its norm and ReLU, as in torchvision's
            RetinaNet: the names begin with `0.0`, `1.0` instead of `0`, `3`, and a convolution
            before a norm has no bias.

    Raises:
        HeadError: If group norms cannot divide the channels.
    """

    def __init__(
        self,
        channels: int,
        num_convs: int = 4,
        *,
        norm: Literal["group"] | None = "group",
        nested: bool = False,
    ) -> None:
        # A group of one channel would have a single value on a level of one cell, such as P7 of a
        # small image.
        if norm == "group" and (channels % GROUPS or channels == GROUPS):
            raise HeadError(
                f"a tower with group norms needs channels in multiples of {GROUPS}, at "
                f"least {2 * GROUPS}, got {channels}; set pyramid_channels, or the channels of the "
                "shared pyramid"
            )
        blocks = []
        for _ in range(num_convs):
            has_bias = norm is None or not nested
            block: list[nn.Module] = [nn.Conv2d(channels, channels, 3, padding=1, bias=has_bias)]
            if norm == "group":
                block.append(nn.GroupNorm(GROUPS, channels))
            blocks.append([*block, nn.ReLU(inplace=True)])
        if nested:
            super().__init__(*(nn.Sequential(*block) for block in blocks))
        else:
            super().__init__(*(layer for block in blocks for layer in block))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def apply_to_levels(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Apply the same layers to every level: `(B, channels, Hk, Wk)` each, shapes unchanged."""
        return [self(level) for level in levels]
