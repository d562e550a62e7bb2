"""Feature pyramid: C2..C5 -> P2..P6, every level with the same channels.

Source: Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017, section 3.
Parameter names are torchvision's, so that its checkpoints load.

Shape glossary: `B` batch size, `Hk, Wk` cells of level k.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.errors import HeadError
from resnet_tasks.layers.strides import check_strides
from resnet_tasks.structures.feature_spec import FeatureSpec


def get_shared_channels(specs: Mapping[str, FeatureSpec], requested: int | None, who: str) -> int:
    """Return the number of channels of a shared pyramid, which all of its levels must have.

    Args:
        specs: Channels and stride of the levels.
        requested: Value of the head's option `pyramid_channels`; None if it is not set.
        who: Name of the head, for error messages.

    Raises:
        HeadError: If the levels differ in channels, or have other channels than requested.
    """
    level_channels = ", ".join(f"{level} {spec.channels}" for level, spec in specs.items())
    channels = {spec.channels for spec in specs.values()}
    if len(channels) != 1:
        raise HeadError(
            f"{who} needs the same channels on every pyramid level, got {level_channels}"
        )
    (shared,) = channels
    if requested not in (None, shared):
        raise HeadError(
            f"{who} shares a pyramid of {shared} channels, but its option pyramid_channels is "
            f"{requested}; remove that option and set pyramid.channels"
        )
    return shared


class FeaturePyramid(nn.Module):
    """Top-down pyramid with lateral connections.

    Level `Ck` becomes `Pk`. Unless `extra_level` is False, one coarser level is subsampled from the
    coarsest one (P6 of the paper's footnote 1).

    Attributes:
        specs: Channels and stride of the levels that `forward` returns, finest first.

    Args:
        specs: Channels and stride of the levels `C2`, `C3`, ... to build on, finest first; each
            stride is twice the previous one.
        channels: Channels of every pyramid level.
        extra_level: Whether to add the subsampled level.

    Raises:
        HeadError: If a stride is not twice the previous one.
    """

    def __init__(
        self, specs: Mapping[str, FeatureSpec], channels: int = 256, *, extra_level: bool = True
    ) -> None:
        super().__init__()
        check_strides(specs, "a feature pyramid")
        self.in_levels = tuple(specs)
        self.inner_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(spec.channels, channels, 1)) for spec in specs.values()
        )
        self.layer_blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1)) for _ in specs
        )
        self.specs = {
            f"P{level[1:]}": FeatureSpec(channels, spec.stride) for level, spec in specs.items()
        }
        self.extra_level = ""
        if extra_level:
            last = self.in_levels[-1]
            self.extra_level = f"P{int(last[1:]) + 1}"
            self.specs[self.extra_level] = FeatureSpec(channels, 2 * specs[last].stride)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight, a=1)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the pyramid levels.

        Args:
            features: Level -> `(B, channels of the level, Hk, Wk)`; other levels are ignored.

        Returns:
            `P2`, ... -> `(B, channels, Hk, Wk)`, finest first.
        """
        pyramid: dict[str, Tensor] = {}
        top: Tensor | None = None
        for index in reversed(range(len(self.in_levels))):
            level = self.in_levels[index]
            lateral = self.inner_blocks[index](features[level])
            if top is not None:
                lateral = lateral + F.interpolate(top, size=lateral.shape[-2:], mode="nearest")
            top = lateral
            pyramid[f"P{level[1:]}"] = self.layer_blocks[index](lateral)
        pyramid = {name: pyramid[name] for name in self.specs if name in pyramid}
        if self.extra_level:
            last = f"P{self.in_levels[-1][1:]}"
            pyramid[self.extra_level] = F.max_pool2d(pyramid[last], kernel_size=1, stride=2)
        return pyramid
