"""A ResNet as a backbone: image -> `{"C1": .., "C5": ..}`.

Built on timm's ResNet family, so that every variant (18 to 420, ResNeXt, ResNet-D, wide, SE, ECA,
GN) is a name.

Shape glossary: `B` batch, `C` channels of a picture, `H, W` the padded batch, `Hk, Wk` level k with
stride 2^k.
"""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resnet_tasks.backbone.pretrained import IMAGENET_MEAN, IMAGENET_STD, LoadReport, load_weights
from resnet_tasks.errors import ResnetTasksError, WeightsError
from resnet_tasks.layers.norms import batch_to_group_norm
from resnet_tasks.registry import nearest
from resnet_tasks.structures import FeatureSpec

LEVELS = ("C1", "C2", "C3", "C4", "C5")
"""The stem before pooling, then the outputs of the four residual stages."""
NORMS = ("train", "frozen", "group")
_STAGES = (
    ("conv1", "bn1", "act1", "maxpool"),
    ("layer1",),
    ("layer2",),
    ("layer3",),
    ("layer4",),
)
_UNTRAINED = ("none", "unloaded")


class ResNet(nn.Module):
    """Features of five strides from one picture.

    He et al., "Deep Residual Learning for Image Recognition", 2015, Table 1, and the variants that
    timm builds from it. Keys of the state dict are timm's, which for plain variants are
    torchvision's too (`conv1.weight`, `bn1.*`, `layer1.0.conv1.weight`, ...), without classifier.
    New weights are Kaiming-normal, and the last norm of every residual branch starts at zero, so
    that each block starts as the identity.

    Frozen stages run without a graph: not even their input gets a gradient. They are always in
    evaluation mode and their parameters have `requires_grad` False.

    Attributes:
        name: The variant.
        specs: Level -> channels and stride.
        mean: Per channel, on the 0..1 scale, what the weights expect to be subtracted.
        std: Per channel, on the 0..1 scale, what the weights expect to be divided by.
        license: Licence of the weights; empty without weights.
        weights_description: Where the weights came from.
        report: What was loaded; None without weights.

    Args:
        name: One of `backbone_names()`.
        weights: `none`, `imagenet`, `timm:TAG`, `torchvision:ENUM`, `hf-hub:REPO`, `URL#sha256=HEX`
            a local file or a run folder (see `pretrained.load_weights`). `unloaded`: the caller
            loads a state dict next, so that frozen parts are allowed.
        in_channels: Channels of a picture; the stem is adapted where it is not 3.
        frozen_stages: 0 none, 1 the stem with its pooling, 2..5 through C2..C5.
        norm: `train`; `frozen`: all norms keep statistics and scale; `group`: batch norms become
            group norms of 32 groups (fewer where 32 does not divide) that take over the scale and
            offset.
        accept_license: Whether weights for non-commercial use are welcome.

    Raises:
        ResnetTasksError: If the name is unknown or not of the family, or an argument is out of
            range.
        WeightsError: If weights cannot be had, read, or do not cover the backbone, or if random
            weights would be frozen.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str = "none",
        in_channels: int = 3,
        frozen_stages: int = 0,
        norm: Literal["train", "frozen", "group"] = "train",
        accept_license: bool = False,
    ) -> None:
        super().__init__()
        _check_arguments(name, weights, in_channels, frozen_stages, norm)
        net = timm.create_model(
            name, pretrained=False, in_chans=in_channels, num_classes=0, global_pool=""
        )
        for stage in _STAGES:
            for part in stage:
                self.add_module(part, getattr(net, part))
        self.name = name
        self.frozen_stages = frozen_stages
        self.norm = norm
        self.specs = {
            level: FeatureSpec(int(info["num_chs"]), int(info["reduction"]))
            for level, info in zip(LEVELS, net.feature_info, strict=True)
        }
        if norm == "group":
            # 32 groups, as Wu and He 2018 train their ResNets.
            batch_to_group_norm(self, lambda channels: math.gcd(32, channels))
        self.mean, self.std = (
            _per_channel(IMAGENET_MEAN, in_channels),
            _per_channel(IMAGENET_STD, in_channels),
        )
        self.license = ""
        self.weights_description = "random initialisation"
        self.report: LoadReport | None = None
        if weights not in _UNTRAINED:
            self._load(weights, in_channels, accept_license)
        self._freeze()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Features of all five levels.

        Args:
            images: `(B, C, H, W)` normalised; any memory format, channels-last is the fast one.

        Returns:
            `C1`..`C5` -> `(B, channels, ceil(H/stride), ceil(W/stride))`, after the activation; C1
            before pooling.
        """
        features: dict[str, Tensor] = {}
        x = images
        for number, (level, stage) in enumerate(zip(LEVELS, _STAGES, strict=True), start=1):
            with torch.set_grad_enabled(torch.is_grad_enabled() and number > self.frozen_stages):
                for part in stage:
                    if part == "maxpool":
                        features[level] = x
                    x = self.get_submodule(part)(x)
                features.setdefault(level, x)
        return features

    def train(self, mode: bool = True) -> ResNet:
        """Training mode, in which frozen stages and frozen norms stay in evaluation mode."""
        super().train(mode)
        for stage in _STAGES[: self.frozen_stages]:
            for part in stage:
                self.get_submodule(part).eval()
        if self.norm == "frozen":
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _load(self, weights: str, in_channels: int, accept_license: bool) -> None:
        report = load_weights(
            self, weights, self.name, in_channels=in_channels, accept_license=accept_license
        )
        self.adopt(report, in_channels)

    def adopt(self, report: LoadReport, in_channels: int) -> None:
        """Takes over what travels with weights that were loaded into this backbone."""
        self.report = report
        self.mean = _per_channel(report.mean, in_channels)
        self.std = _per_channel(report.std, in_channels)
        self.license = report.license
        self.weights_description = report.source

    def _freeze(self) -> None:
        for stage in _STAGES[: self.frozen_stages]:
            for part in stage:
                self.get_submodule(part).requires_grad_(False)
        if self.norm == "frozen":
            for module in self.modules():
                if isinstance(module, (_BatchNorm, nn.GroupNorm)):
                    module.requires_grad_(False)
        self.train(self.training)


def backbone_names(pattern: str = "*") -> list[str]:
    """Names of all variants that match a shell pattern (`"resnet*d"`), in timm's natural order."""
    return [name for name in timm.list_models(module="resnet") if fnmatchcase(name, pattern)]


def _check_arguments(
    name: str, weights: str, in_channels: int, frozen_stages: int, norm: str
) -> None:
    names = backbone_names()
    if name not in names:
        other = (
            "is no ResNet that this package supports"
            if name in timm.list_models()
            else "is unknown"
        )
        close = nearest(name, names)
        hint = f"did you mean {close!r}?" if close else "`backbone_names()` lists all"
        raise ResnetTasksError(f"backbone.name: {name!r} {other} ({len(names)} are); {hint}")
    if in_channels < 1:
        raise ResnetTasksError(f"backbone: in_channels is {in_channels}, but must be at least 1")
    if not 0 <= frozen_stages <= len(_STAGES):
        raise ResnetTasksError(
            f"backbone.frozen_stages is {frozen_stages}; allowed are 0 (none), 1 (the stem) to 5 "
            "(through C5)"
        )
    if norm not in NORMS:
        raise ResnetTasksError(f"backbone.norm is {norm!r}; allowed are {', '.join(NORMS)}")
    if weights == "none" and (frozen_stages > 0 or norm == "frozen"):
        key, remedy = (
            (f"backbone.frozen_stages={frozen_stages}", "backbone.frozen_stages=0")
            if frozen_stages > 0
            else ("backbone.norm=frozen", "backbone.norm=train")
        )
        raise WeightsError(
            f"{key} with backbone.weights=none would freeze random features; set {remedy}, or "
            "name weights"
        )


def _per_channel(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    """Constants for `channels` channels, in the way in which the stem is adapted."""
    if channels == 1:
        return (sum(values) / len(values),)
    return tuple(values[i % len(values)] for i in range(channels))
