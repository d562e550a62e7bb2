"""The ResNet family: which of timm's models belong to it, nets of any depth, and their trunks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import pairwise
from typing import Any, Literal, cast

import timm
from timm.models.resnet import BasicBlock, Bottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import nn

from resnet_tasks.errors import ResnetTasksError, WeightsError
from resnet_tasks.registry import find_nearest
from resnet_tasks.structures.feature_spec import FeatureSpec

LEVELS = ("C1", "C2", "C3", "C4", "C5")
"""The stem before pooling, then the outputs of the four residual stages."""
CUSTOM = "resnet"
"""`backbone.name` of a ResNet that `backbone.layers` describes."""
OUTPUT_STRIDES = (8, 16, 32)
WHOLE_MODULES = ("resnet", "resnetv2", "sknet", "res2net", "resnest", "senet")
MIXED_MODULES = ("byobnet", "nfnet")
"""timm's modules that hold ResNets, known by their names, among other nets."""
BY_NAME = ("imagenet", "timm", "torchvision")
"""Kinds of weights that belong to a variant's name."""
_CLASSIFIER = ("global_pool", "fc", "head", "last_linear")


@dataclass(frozen=True)
class ResNetSpec:
    """A ResNet that has no name: plain stem and stages, of any depth.

    He et al. 2015, Table 1, has basic blocks (two 3x3 convolutions) in nets of 18 and 34 layers and
    bottleneck blocks (1x1, 3x3, 1x1) in deeper ones; 50 layers are `(3, 4, 6, 3)`.

    Attributes:
        layers: Blocks of the stages C2..C5.
        block: The kind of block.

    Raises:
        ResnetTasksError: If these are not four positive numbers.
    """

    layers: tuple[int, ...]
    block: Literal["basic", "bottleneck"] = "bottleneck"

    def __post_init__(self) -> None:
        if len(self.layers) != 4 or any(num_blocks < 1 for num_blocks in self.layers):
            raise ResnetTasksError(
                f"backbone.layers is {list(self.layers)}; give the blocks of the four stages C2 to "
                "C5, each at least 1, such as [3, 4, 6, 3]"
            )
        if self.block not in ("basic", "bottleneck"):
            raise ResnetTasksError(
                f"backbone.block is {self.block!r}; allowed are basic and bottleneck"
            )

    @property
    def convolutions(self) -> int:
        """Depth as the paper counts it: convolutions on the longest path and the classifier."""
        return (3 if self.block == "bottleneck" else 2) * sum(self.layers) + 2

    def check_weights(self, weights: str) -> None:
        """Refuses weights that belong to the name of a variant.

        Raises:
            WeightsError: If `weights` are of such a kind.
        """
        if weights.partition(":")[0] in BY_NAME:
            raise WeightsError(
                f"backbone.weights is {weights!r}, but nobody trained a {self}; use none, or a "
                "file that covers it"
            )

    def __str__(self) -> str:
        return f"{CUSTOM} of {list(self.layers)} {self.block} blocks"


@dataclass(frozen=True)
class Trunk:
    """A net without its classifier, as a chain of parts.

    Attributes:
        children: Name -> module, what to keep of the net; names are timm's.
        stages: Paths of the parts of each stage, in the order in which they run: the stem with its
            pooling, then the four residual stages. What follows the last one (the final norm of
            pre-activation nets) belongs to it.
        taps: Level -> path of the part after which it is taken.
        specs: Level -> channels and stride.
    """

    children: dict[str, nn.Module]
    stages: tuple[tuple[str, ...], ...]
    taps: dict[str, str]
    specs: dict[str, FeatureSpec]


@cache
def list_all_backbones() -> tuple[str, ...]:
    """Names of all variants, family by family, each in timm's natural order.

    The rule: a chain of residual blocks in four stages behind a stem, with five levels of strides
    2, 4, 8, 16 and 32. These are timm's modules resnet, resnetv2, sknet, res2net, resnest and
    senet, and of byobnet and nfnet what has ResNet or ResNeXt in its name. Not among them: nets
    that only share the name (CSPResNet splits its channels, TResNet has no stride of 2), hybrids
    with self-attention, which are tied to one image size, and `bat_resnext26ts`, whose attention
    wants levels of whole blocks of 8 x 8 cells.
    """
    names = [name for module in WHOLE_MODULES for name in timm.list_models(module=module)]
    mixed = [name for module in MIXED_MODULES for name in timm.list_models(module=module)]
    names += [name for name in mixed if "resnet" in name or "resnext" in name]
    return tuple(name for name in names if not name.startswith("bat_"))


def list_backbones(pattern: str = "*") -> list[str]:
    """Names of all variants that match a shell pattern (`"resnet*d"`)."""
    return [name for name in list_all_backbones() if fnmatchcase(name, pattern)]


def build_trunk(
    name: str | ResNetSpec, *, in_channels: int = 3, output_stride: int = 32, drop_path: float = 0.0
) -> Trunk:
    """A net with random weights, cut where its classifier begins.

    Args:
        name: One of `backbone_names()`, or a depth.
        in_channels: Channels of an image.
        output_stride: Stride of C5; the convolutions of stages that would exceed it are dilated.
        drop_path: Stochastic depth of the last block.

    Raises:
        ResnetTasksError: If the name is unknown or not of the family, or the net cannot be dilated
            or cut.
    """
    if not 0 <= drop_path < 1:
        raise ResnetTasksError(f"backbone.drop_path is {drop_path}; allowed is 0 to below 1")
    if output_stride not in OUTPUT_STRIDES:
        raise ResnetTasksError(
            f"backbone.output_stride is {output_stride}; allowed are 8, 16 and 32"
        )
    net = _build_net(name, in_channels, output_stride, drop_path)
    children: dict[str, nn.Module] = {}
    for child, module in net.named_children():
        if child in _CLASSIFIER:
            break
        children[child] = module
    return _cut_trunk(children, cast("list[dict[str, object]]", net.feature_info))


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
        "is no ResNet that this package supports" if name in timm.list_models() else "is unknown"
    )
    close = find_nearest(name, names)
    hint = f"did you mean {close!r}?" if close else "`resnet-tasks backbones` lists all"
    raise ResnetTasksError(f"backbone.name: {name!r} {other} ({len(names)} are); {hint}")


def _cut_trunk(children: dict[str, nn.Module], levels: Sequence[dict[str, object]]) -> Trunk:
    """Cuts a chain at the parts that timm names for its levels."""
    parts: list[str] = []
    for name, child in children.items():
        if name in ("stem", "stages"):
            parts += [f"{name}.{inner}" for inner, _ in child.named_children()]
        else:
            parts.append(name)
    ends = [parts.index(str(level["module"])) for level in levels]
    ends[-1] = len(parts) - 1
    # The stem reaches up to the first residual stage, which C2 is named after.
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
