"""Conversion of checkpoints of other projects to our key names, color order and pixel scale.

This package uses torchvision's names for plain variants, RGB on the 0..1 scale, and blocks that
halve the resolution in their 3x3 convolution. A checkpoint does not state how its model read
images, but its tensors mostly reveal it.

Sources: detectron2's `modeling/backbone/resnet.py` (names), `config/defaults.py` and
`MODEL_ZOO.md` (pixel constants and strides of its ImageNet models).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from resnet_tasks.errors import WeightsError

CAFFE_RATIO = 300.0
"""Ratio of the variance after the stem to the squared weights that indicates 0..255 pixels.

The ratio is about 1 for images of unit variance and some thousand for images on the 0..255 scale.
"""
_STAGE = re.compile(r"^res([2-5])\.(\d+)\.(conv[123]|shortcut)\.(norm\.)?(.+)$")
_STEM = re.compile(r"^stem\.conv1\.(norm\.)?(.+)$")
_REMEDY = (
    "this package halves in the 3x3 convolution and reads RGB, so their results would be silently "
    "wrong; use weights that were trained like torchvision's (detectron2's torchvision/R-50.pkl, "
    "MMDetection's style='pytorch'), or backbone.weights=imagenet"
)


@dataclass(frozen=True)
class ConvertedWeights:
    """Tensors under the names of this package, with the constants of their training images.

    Attributes:
        tensors: Name -> tensor; the stem reads RGB.
        notes: Sentences that describe conversions and assumptions.
        mean: Mean per channel (RGB), 0..1 scale; None if the file does not state it.
        std: Standard deviation per channel (RGB), 0..1 scale; None if the file does not state it.
    """

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def convert_layout(tensors: Mapping[str, Tensor], source: str) -> ConvertedWeights:
    """Convert tensors of any known layout to the names and color order of this package.

    Args:
        tensors: Name -> tensor, with the prefixes of wrappers stripped.
        source: Prefix of error messages, which names the checkpoint.

    Raises:
        WeightsError: If the model read images on another scale, or halved the resolution in another
            convolution, in a way that a backbone of this package cannot reproduce.
    """
    converted = dict(tensors)
    if _is_own_layout(converted):
        own = {key: tuple(map(float, converted.pop(key).tolist())) for key in ("mean", "std")}
        note = "mean and std are those stored with the weights"
        return ConvertedWeights(converted, (note,), own["mean"], own["std"])
    notes: list[str] = []
    is_detectron = any(key.startswith("stem.conv1.") for key in converted) and any(
        key.startswith("res2.") for key in converted
    )
    if is_detectron:
        converted = {_to_torchvision_name(key): value for key, value in converted.items()}
        notes.append("names are detectron2's")
    mean, std, flip = _detect_pixel_format(converted, source)
    if flip:
        converted["conv1.weight"] = converted["conv1.weight"].flip(1)
        notes.append("trained on BGR images: the stem's input channels are reversed to RGB")
    elif is_detectron and mean is None:
        notes.append(
            "assumed to be trained on RGB with ImageNet's mean and std and strides in 3x3 "
            "convolutions, since the norms hold statistics; do not use them if the model read BGR"
        )
    return ConvertedWeights(converted, tuple(notes), mean, std)


def _is_own_layout(tensors: Mapping[str, Tensor]) -> bool:
    mean, std = tensors.get("mean"), tensors.get("std")
    return mean is not None and std is not None and mean.ndim == 1 and mean.shape == std.shape


def _to_torchvision_name(key: str) -> str:
    stem = _STEM.match(key)
    if stem:
        return f"{'bn1' if stem[1] else 'conv1'}.{stem[2]}"
    match = _STAGE.match(key)
    if not match:
        return key
    block = f"layer{int(match[1]) - 1}.{match[2]}"
    if match[3] == "shortcut":
        return f"{block}.downsample.{1 if match[4] else 0}.{match[5]}"
    return f"{block}.{match[3].replace('conv', 'bn') if match[4] else match[3]}.{match[5]}"


def _detect_pixel_format(
    tensors: dict[str, Tensor], source: str
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, bool]:
    """Detect mean and std (RGB, 0..1; None if unknown), and whether the stem reads BGR.

    `pixel_mean` and `pixel_std` are removed from `tensors`.
    """
    stem = tensors.get("conv1.weight")
    is_color = stem is not None and stem.ndim == 4 and stem.shape[1] == 3
    second = tensors.get("layer1.0.conv2.weight")
    is_grouped = second is not None and second.shape[1] < second.shape[0]
    has_bottlenecks = "layer1.0.conv3.weight" in tensors
    stated = tuple(
        tensors.pop(key).flatten().tolist() if key in tensors else None
        for key in ("pixel_mean", "pixel_std")
    )
    is_folded = _has_folded_norms(tensors)
    is_caffe = (is_folded and not is_grouped) or _reads_bytes(tensors)
    if has_bottlenecks and (is_caffe or (stated[1] is not None and max(stated[1]) < 2)):
        raise WeightsError(
            f"{source} holds a Caffe-style model (pixels on the 0..255 scale in BGR order, "
            f"strides in 1x1 convolutions), as MSRA's R-50 and R-101 are; {_REMEDY}"
        )
    if stated[0] is not None and stated[1] is not None and is_color:
        # ImageNet's red is brighter than its blue, so that an ascending mean belongs to BGR.
        flip = stated[0][0] < stated[0][-1]
        order = -1 if flip else 1
        mean = tuple(value / 255 for value in stated[0][::order])
        return mean, tuple(value / 255 for value in stated[1][::order]), flip
    if is_caffe:
        raise WeightsError(
            f"{source} holds a model that reads pixels on the 0..255 scale, but does not state the "
            f"channel order; {_REMEDY}"
        )
    # Folded norms and grouped convolutions: ResNeXts trained with Caffe2 on BGR images that were
    # normalized with ImageNet's constants.
    return None, None, is_folded and is_color


def _has_folded_norms(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the norms only scale and shift, like Caffe's affine layers.

    Such norms have a mean of 0 and a variance of 1. Untrained norms have them too, but they also
    have a shift of 0.
    """
    norm = re.compile(r"^(bn1|layer\d+\..+)\.running_(mean|var)$")
    statistics = {key: value for key, value in tensors.items() if norm.match(key)}
    shift = tensors.get("bn1.bias")
    if not statistics or shift is None or not bool(torch.any(shift != 0)):
        return False
    return all(
        bool(torch.all((value - float(key.endswith("var"))).abs() < 1e-3))
        for key, value in statistics.items()
    )


def _reads_bytes(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether the statistics after the stem indicate images on the 0..255 scale."""
    weight, variance = tensors.get("conv1.weight"), tensors.get("bn1.running_var")
    if weight is None or variance is None or weight.ndim != 4 or len(weight) != len(variance):
        return False
    power = weight.float().square().sum((1, 2, 3))
    is_alive = power > 1e-6  # the ratio is meaningless for dead filters
    if not bool(is_alive.any()):
        return False
    ratio = (variance.float()[is_alive] / power[is_alive]).median()
    return bool(ratio > CAFFE_RATIO)
