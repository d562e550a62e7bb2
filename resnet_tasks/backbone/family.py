"""The ResNet family: timm's models that belong to it, custom depths, and their trunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise
from operator import mul
from typing import Any, Literal, cast

import timm
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import nn

from resnet_tasks.errors import ResnetTasksError, WeightsError
from resnet_tasks.registry import find_nearest
from resnet_tasks.structures.feature_spec import FeatureSpec

LEVELS = ("C1", "C2", "C3", "C4", "C5")
"""The stem before pooling, followed by the outputs of the four residual stages."""
CUSTOM = "resnet"
"""`backbone.name` of a ResNet that `backbone.layers` and `backbone.block` describe."""
OUTPUT_STRIDES = (8, 16, 32)
MAX_BLOCKS = 512
"""Maximum number of residual blocks of a custom ResNet.

Of the published nets for ImageNet, ResNet-RS-420 has 139, and one of 1,001 layers has 333.
"""
MAX_PARAMETERS = 1_000_000_000
"""Maximum number of parameters of a custom ResNet; ResNeXt-101 32x48d has 829 million."""
_BLOCK_PARAMETERS = (70_000, 280_000, 1_120_000, 4_460_000)
"""Approximate number of parameters of a block of the stages C2..C5, of either kind."""
WHOLE_MODULES = ("resnet", "resnetv2", "sknet", "res2net", "resnest", "senet")
MIXED_MODULES = ("byobnet", "nfnet")
"""timm's modules that hold ResNets among other nets; the ResNets are recognized by name."""
BY_NAME = ("imagenet", "timm", "torchvision")
"""Kinds of weights that exist only for named variants."""
_CLASSIFIER = ("global_pool", "fc", "head", "last_linear")


@dataclass(frozen=True)
class ResNetSpec:
    """Plain ResNet of any depth, described by its blocks instead of a name.

    He et al. 2015, Table 1, use basic blocks (two 3x3 convolutions) in nets of 18 and 34 layers and
    bottleneck blocks (1x1, 3x3, 1x1) in deeper ones; 50 layers are `(3, 4, 6, 3)`.

    Attributes:
        layers: Number of blocks in the stages C2..C5.
        block: Kind of block: `basic` or `bottleneck`.

    Raises:
        ResnetTasksError: If `layers` is not four positive numbers, or exceeds `MAX_BLOCKS` or
            `MAX_PARAMETERS`, or if `block` is unknown.
    """

    layers: tuple[int, ...]
    block: Literal["basic", "bottleneck"] = "bottleneck"

    def __post_init__(self) -> None:
        if len(self.layers) != 4 or any(num_blocks < 1 for num_blocks in self.layers):
            raise ResnetTasksError(
                f"backbone.layers is {list(self.layers)}; set the number of blocks of the four "
                "stages C2 to C5, each at least 1, such as [3, 4, 6, 3]"
            )
        parameters = sum(map(mul, self.layers, _BLOCK_PARAMETERS))
        if sum(self.layers) > MAX_BLOCKS or parameters > MAX_PARAMETERS:
            raise ResnetTasksError(
                f"backbone.layers is {list(self.layers)}: {sum(self.layers):,} blocks with about "
                f"{parameters // 10**6:,} million parameters, more than the limits of {MAX_BLOCKS} "
                f"blocks and {MAX_PARAMETERS // 10**6:,} million; ResNet-152 has [3, 8, 36, 3]"
            )
        if self.block not in ("basic", "bottleneck"):
            raise ResnetTasksError(f"backbone.block is {self.block!r}; allowed: basic, bottleneck")

    @property
    def convolutions(self) -> int:
        """Depth as the paper counts it: convolutions on the longest path, plus the classifier."""
        return (3 if self.block == "bottleneck" else 2) * sum(self.layers) + 2

    def check_weights(self, weights: str) -> None:
        """Refuse weights that exist only for named variants.

        Raises:
            WeightsError: If `weights` is of one of the kinds in `BY_NAME`.
        """
        if weights.partition(":")[0] in BY_NAME:
            raise WeightsError(
                f"backbone.weights is {weights!r}, but no pretrained weights exist for a {self}; "
                "use none, or a file that covers it"
            )

    def __str__(self) -> str:
        return f"{CUSTOM} of {list(self.layers)} {self.block} blocks"


@dataclass(frozen=True)
class Trunk:
    """A net without its classifier, as a chain of parts.

    Attributes:
        children: Name -> module, for the parts of the net that are kept; names are timm's.
        stages: Paths of the parts of each stage, in execution order: the stem with its pooling,
            then the four residual stages. Parts after the last stage (the final norm of
            pre-activation nets) belong to the last stage.
        taps: Level -> path of the part whose output is the level.
        specs: Level -> channels and stride.
    """

    children: dict[str, nn.Module]
    stages: tuple[tuple[str, ...], ...]
    taps: dict[str, str]
    specs: dict[str, FeatureSpec]


@cache
def list_all_backbones() -> tuple[str, ...]:
    """List the names of all variants, family by family, each in timm's natural order.

    A variant is a stem and a chain of residual blocks in four stages, with five levels of strides
    2, 4, 8, 16 and 32. These are all nets of timm's modules resnet, resnetv2, sknet, res2net,
    resnest and senet, and the nets of byobnet and nfnet with ResNet or ResNeXt in their name.
    Excluded are nets that only share the name (CSPResNet splits its channels, TResNet has no
    stride of 2), hybrids with self-attention, which are tied to one image size, and
    `bat_resnext26ts`, whose attention needs levels that divide into blocks of 8 x 8 cells.
    """
    names = [name for module in WHOLE_MODULES for name in timm.list_models(module=module)]
    mixed = [name for module in MIXED_MODULES for name in timm.list_models(module=module)]
    names += [name for name in mixed if "resnet" in name or "resnext" in name]
    return tuple(name for name in names if not name.startswith("bat_"))


def list_backbones(pattern: str = "*") -> list[str]:
    """List the names of all variants that match a shell pattern, such as `"resnet*d"`."""
    return [name for name in list_all_backbones() if fnmatchcase(name, pattern)]


def build_trunk(
    name: str | ResNetSpec, *, in_channels: int = 3, output_stride: int = 32, drop_path: float = 0.0
) -> Trunk:
    """Build a net with random weights and remove its classifier.

    Args:
        name: One of `list_backbones()`, or the spec of a custom ResNet.
        in_channels: Channels of an image.
        output_stride: Stride of C5: 8, 16 or 32. Stages that would exceed it use dilated
            convolutions.
        drop_path: Stochastic depth rate of the last block, 0 to below 1.

    Raises:
        ResnetTasksError: If the name is unknown or not in the family, an argument is out of range,
            or the net supports neither dilation nor stochastic depth.
    """
    if not 0 <= drop_path < 1:
        raise ResnetTasksError(
            f"backbone.drop_path is {drop_path}; it must be at least 0 and below 1"
        )
    if output_stride not in OUTPUT_STRIDES:
        raise ResnetTasksError(f"backbone.output_stride is {output_stride}; allowed: 8, 16, 32")
    net = _build_net(name, in_channels, output_stride, drop_path)
    children: dict[str, nn.Module] = {}
    for child, module in net.named_children():
        if child in _CLASSIFIER:
            break
        children[child] = module
    return _cut_trunk(children, cast("list[dict[str, object]]", net.feature_info))


def expand_dilation(stage: nn.Module, dilation: int) -> None:
    """Give the first block of a stage the dilation of its other blocks, in place.

    Args:
        stage: Dilated stage, whose convolutions have a stride of 1.
        dilation: Dilation of its other blocks, for a stage of a single block.
    """
    blocks: Any = getattr(stage, "blocks", stage)
    first, *others = blocks
    peers = dict(others[0].named_modules()) if others else {}
    for name, layer in first.named_modules():
        if not isinstance(layer, nn.Conv2d) or layer.kernel_size == (1, 1):
            continue
        peer = peers.get(name)
        if isinstance(peer, nn.Conv2d):
            layer.dilation, layer.padding = peer.dilation, peer.padding
        else:
            layer.dilation = (dilation, dilation)
            rows, columns = layer.kernel_size
            layer.padding = (dilation * (rows // 2), dilation * (columns // 2))


def _build_net(
    name: str | ResNetSpec, in_channels: int, output_stride: int, drop_path: float
) -> nn.Module:
    options: dict[str, Any] = {"in_chans": in_channels, "num_classes": 0, "global_pool": ""}
    if drop_path:
        options["drop_path_rate"] = drop_path
    if output_stride != 32:
        options["output_stride"] = output_stride
    net: nn.Module
    if isinstance(name, ResNetSpec):
        block = Bottleneck if name.block == "bottleneck" else BasicBlock
        net = TimmResNet(block, name.layers, **options)
        return net
    _check_name(name)
    if output_stride != 32 and name.startswith("legacy_"):
        modern = name.removeprefix("legacy_")
        raise ResnetTasksError(
            f"backbone.output_stride is {output_stride}, but timm's {name} cannot be dilated; use "
            "32, or "
            + (
                modern
                if modern in list_all_backbones()
                else "a variant without legacy_ in its name"
            )
        )
    if drop_path and name.startswith("legacy_"):
        raise ResnetTasksError(
            f"backbone.drop_path is {drop_path}, but timm's {name} has no stochastic depth; use 0, "
            "or a variant without legacy_ in its name"
        )
    net = timm.create_model(name, pretrained=False, **options)
    return net


def _check_name(name: str) -> None:
    names = list_all_backbones()
    if name in names:
        return
    if name == CUSTOM:
        raise ResnetTasksError(
            f"backbone.name: {name!r} needs backbone.layers, such as [3, 4, 6, 3]; or name a "
            "variant such as resnet50"
        )
    other = (
        "is not a ResNet that this package supports" if name in timm.list_models() else "is unknown"
    )
    close = find_nearest(name, names)
    hint = f"did you mean {close!r}?" if close else "`resnet-tasks backbones` lists all"
    raise ResnetTasksError(
        f"backbone.name: {name!r} {other} ({len(names)} names are known); {hint}"
    )


def _cut_trunk(children: dict[str, nn.Module], levels: Sequence[dict[str, object]]) -> Trunk:
    """Cut a chain of parts into stages at the parts that timm names as its feature levels."""
    parts: list[str] = []
    for name, child in children.items():
        if name in ("stem", "stages"):
            parts += [f"{name}.{inner}" for inner, _ in child.named_children()]
        else:
            parts.append(name)
    ends = [parts.index(str(level["module"])) for level in levels]
    ends[-1] = len(parts) - 1
    # The stem, pooling included, ends before the first residual stage, whose output is C2.
    cuts = [0, ends[1], *(end + 1 for end in ends[1:])]
    return Trunk(
        children,
        tuple(tuple(parts[a:b]) for a, b in pairwise(cuts)),
        {level: parts[end] for level, end in zip(LEVELS, ends, strict=True)},
        {
            level: FeatureSpec(int(str(info["num_chs"])), int(str(info["reduction"])))
            for level, info in zip(LEVELS, levels, strict=True)
        },
    )
