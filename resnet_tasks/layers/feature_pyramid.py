"""Feature pyramid: C2..C5 -> P2..P6 or P2..P7, every level with the same channels.

Source: Lin et al., Feature Pyramid Networks for Object Detection, CVPR 2017, section 3; Lin et al.,
RetinaNet, ICCV 2017, section 4 (convolved levels). Parameter names are torchvision's, so that its
checkpoints load.

Shape glossary: `B` batch size, `Hk, Wk` cells of level k.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resnet_tasks.errors import HeadError
from resnet_tasks.layers.strides import check_strides
from resnet_tasks.layers.tracing import is_traced
from resnet_tasks.structures.feature_spec import FeatureSpec

ExtraLevels = Literal["pooled", "convolved", "convolved_c5"]
"""Variant of a pyramid: how the levels above its coarsest input are computed.

- `pooled`: one level, every second cell of the one below (P6 of Faster R-CNN and Mask R-CNN).
- `convolved`: two levels, 3x3 convolutions of stride 2 (P6 and P7 of RetinaNet and FCOS).
- `convolved_c5`: the same two levels, computed from C5 instead of P5 (torchvision's RetinaNet v2).
"""


class PyramidVariantError(HeadError):
    """Refusal of a shared pyramid whose extra levels are of another variant than a head needs.

    Args:
        message: Complete sentence.
        needed: Variant that the head needs.
    """

    def __init__(self, message: str, needed: ExtraLevels) -> None:
        super().__init__(message)
        self.needed = needed


def get_shared_channels(
    specs: Mapping[str, FeatureSpec], requested: int | None, reader: str
) -> int:
    """Return the number of channels of a shared pyramid, which all of its levels must have.

    Args:
        specs: Channels and stride of the levels.
        requested: Value of the head's option `pyramid_channels`; None if it is not set.
        reader: Name of the head, for error messages.

    Raises:
        HeadError: If the levels differ in channels, or have other channels than requested.
    """
    level_channels = ", ".join(f"{level} {spec.channels}" for level, spec in specs.items())
    channels = {spec.channels for spec in specs.values()}
    if len(channels) != 1:
        raise HeadError(
            f"{reader} needs the same channels on every pyramid level, got {level_channels}"
        )
    (shared,) = channels
    if requested not in (None, shared):
        raise HeadError(
            f"{reader} shares a pyramid of {shared} channels, but its option pyramid_channels is "
            f"{requested}; remove that option and set pyramid.channels"
        )
    return shared


def has_shared_pyramid(
    specs: Mapping[str, FeatureSpec], levels: Sequence[str], variant: ExtraLevels, reader: str
) -> bool:
    """Return whether the offered levels include a shared pyramid that a head can read.

    Args:
        specs: Channels, stride and variant of all offered levels.
        levels: Pyramid levels that the head reads.
        variant: Variant of the extra levels that the head needs.
        reader: Name of the head, for error messages.

    Returns:
        True if all levels are offered; False if there is no shared pyramid.

    Raises:
        PyramidVariantError: If the shared pyramid is of another variant.
    """
    for level, spec in specs.items():
        if spec.variant not in ("", variant):
            raise PyramidVariantError(
                f"{reader} needs a pyramid with {variant} extra levels, but {level} of the shared "
                f"pyramid is {spec.variant}; set pyramid.extra_levels={variant}, or remove pyramid",
                variant,
            )
    return all(level in specs for level in levels)


class ConvolvedLevels(nn.Module):
    """Two levels above a pyramid, 3x3 convolutions of stride 2; torchvision's `LastLevelP6P7`.

    Args:
        in_channels: Channels of the coarsest level.
        channels: Channels of both levels.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.p6 = nn.Conv2d(in_channels, channels, 3, stride=2, padding=1)
        self.p7 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, coarsest: Tensor) -> tuple[Tensor, Tensor]:
        """Map the coarsest level `(B, in_channels, H, W)` to the two levels above it."""
        p6 = self.p6(_widen(coarsest))
        return p6, self.p7(_widen(F.relu(p6)))


def _widen(values: Tensor) -> Tensor:
    """Append a column of zeros to a map of width 1 in training.

    oneDNN (torch 2.14) leaves parts of the gradient of 3x3 filters of stride 2 uninitialized in
    bf16 if the map has a single column. The convolution of the widened map is the same, because its
    padding is zero too.
    """
    if not torch.is_grad_enabled() or is_traced() or values.shape[3] > 1:
        return values
    return F.pad(values, (0, 1))


class FeaturePyramid(nn.Module):
    """Top-down pyramid with lateral connections.

    Level `Ck` becomes `Pk`. Above the coarsest one follow the levels of `extra_levels`.

    Attributes:
        specs: Channels, stride and variant of the levels, finest first.
        computed_levels: Levels that `forward` returns: all, unless some are skipped.

    Args:
        specs: Channels and stride of the levels `C2`, `C3`, ... to build on, finest first; each
            stride is twice the previous one.
        channels: Channels of every pyramid level.
        extra_levels: Variant of the levels above the coarsest input; None: no such levels.

    Raises:
        HeadError: If a stride is not twice the previous one.
    """

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        channels: int = 256,
        *,
        extra_levels: ExtraLevels | None = "pooled",
    ) -> None:
        super().__init__()
        assert extra_levels is None or extra_levels in get_args(ExtraLevels)
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
        self.extra_levels = extra_levels
        last = self.in_levels[-1]
        self.coarsest = f"P{last[1:]}"
        counts = {None: 0, "pooled": 1, "convolved": 2, "convolved_c5": 2}
        for step in range(counts[extra_levels]):
            self.specs[f"P{int(last[1:]) + 1 + step}"] = FeatureSpec(
                channels, specs[last].stride * 2 ** (step + 1), extra_levels or ""
            )
        if extra_levels in ("convolved", "convolved_c5"):
            from_pyramid = extra_levels == "convolved"
            in_channels = channels if from_pyramid else specs[last].channels
            self.extra_blocks = ConvolvedLevels(in_channels, channels)
        self.computed_levels = tuple(self.specs)
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
            `P2`, ... -> `(B, channels, Hk, Wk)`, finest first, without levels that are skipped
            (see `skip_finest_levels`).
        """
        pyramid: dict[str, Tensor] = {}
        top: Tensor | None = None
        num_skipped = len(self.specs) - len(self.computed_levels)
        for index in reversed(range(num_skipped, len(self.in_levels))):
            level = self.in_levels[index]
            lateral = self.inner_blocks[index](features[level])
            if top is not None:
                lateral = lateral + F.interpolate(top, size=lateral.shape[-2:], mode="nearest")
            top = lateral
            pyramid[f"P{level[1:]}"] = self.layer_blocks[index](lateral)
        extra_names = list(self.specs)[len(self.in_levels) :]
        source = features[self.in_levels[-1]]
        if self.extra_levels != "convolved_c5":
            source = pyramid[self.coarsest]
        pyramid |= zip(extra_names, self._compute_extra_levels(source), strict=True)
        return {name: pyramid[name] for name in self.computed_levels}

    def skip_finest_levels(self, read: Collection[str]) -> None:
        """Skip the levels that are finer than the finest one that is read; they cost the most.

        Their filters stay in the state dict, but are not trained.

        Args:
            read: Levels that heads read; other names are ignored.
        """
        names = list(self.specs)
        first = min((names.index(name) for name in read if name in names), default=0)
        first = min(first, len(self.in_levels) - 1)
        self.computed_levels = tuple(names[first:])
        for blocks in (self.inner_blocks, self.layer_blocks):
            for block in blocks[:first]:
                block.requires_grad_(False)

    def _compute_extra_levels(self, source: Tensor) -> tuple[Tensor, ...]:
        if self.extra_levels is None:
            return ()
        if self.extra_levels == "pooled":
            return (F.max_pool2d(source, kernel_size=1, stride=2),)
        p6, p7 = self.extra_blocks(source)
        return p6, p7
