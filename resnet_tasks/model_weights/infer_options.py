"""Options of a head that a file needs, inferred from the shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from resnet_tasks.heads.base import Head
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.heads.semantic.unet import UNet
from resnet_tasks.model_weights.foreign_models import ModelFile


def find_differing_options(head: Head, file: ModelFile) -> dict[str, Any]:
    """Return options whose value differs from the one that the file needs: name -> file's value."""
    if isinstance(head, FasterRCNN):
        file_options = _infer_detector_options(head, file.head)
    elif isinstance(head, UNet):
        file_options = _infer_unet_options(file.head)
    else:
        file_options = _infer_fpn_options(file.head)
    own = head.options.model_dump()
    if (shared := _get_shared_channels(head)) is not None:
        own["pyramid_channels"] = shared
    return {k: v for k, v in file_options.items() if v is not None and own[k] != v}


def _get_shared_channels(head: Head) -> int | None:
    """Return the channels of the shared pyramid that a head reads; None if it reads none."""
    return head.specs["P2"].channels if "P2" in head.specs else None


def suggest_options(head: Head, file: ModelFile, name: str) -> str:
    """Suggest the settings that make the file fit, if they can be inferred."""
    wrong = find_differing_options(head, file)
    if not wrong:
        hint = (
            ", as torchvision's V2 detectors are; FasterRCNN_ResNet50_FPN_Weights.COCO_V1 fits"
            if isinstance(head, FasterRCNN)
            else ", whatever its options; choose a model with the library's default decoder"
        )
        return f"{file.kind} in this file has an architecture that the head cannot have{hint}"
    shared = _get_shared_channels(head) is not None
    texts = (
        f"pyramid.channels={value}"
        if shared and key == "pyramid_channels"
        else f"heads.{name}.options.{key}={_format_value(value)}"
        for key, value in wrong.items()
    )
    return f"set {' and '.join(texts)}"


def _infer_detector_options(head: FasterRCNN, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    pyramid = tensors.get("fpn.inner_blocks.0.0.weight")
    hidden = tensors.get("roi_heads.box_head.fc6.weight")
    if pyramid is None or hidden is None:
        return {}
    channels = len(pyramid)
    options: dict[str, Any] = {
        "pyramid_channels": channels,
        "box_head_channels": len(hidden),
        "roi_output_size": round((hidden.shape[1] / channels) ** 0.5),
    }
    objectness, defaults = tensors.get("rpn.head.cls_logits.weight"), FasterRCNN.parse_options(None)
    # The user may choose other anchors of the same number; `predictor_rows` adds a note about them.
    if objectness is not None and len(defaults.aspect_ratios) == len(objectness):
        own = head.options
        if len(own.sizes_per_level[0]) * len(own.aspect_ratios) != len(objectness):
            options |= {
                "aspect_ratios": defaults.aspect_ratios,
                "anchor_sizes": defaults.anchor_sizes,
            }
    return options


def _infer_unet_options(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    blocks = {
        int(match[1]): len(value)
        for key, value in tensors.items()
        if (match := re.match(r"decoder\.blocks\.(\d+)\.conv2\.0\.weight$", key))
    }
    channels = tuple(blocks[index] for index in sorted(blocks)) if len(blocks) == 5 else None
    has_statistics = any(key.endswith("running_var") for key in tensors)
    return {"decoder_channels": channels, "norm": "batch" if has_statistics else None}


def _infer_fpn_options(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    pyramid = tensors.get("decoder.p5.weight")
    branch = tensors.get("decoder.seg_blocks.0.block.0.block.0.weight")
    classifier = tensors.get("classifier.0.weight")
    if pyramid is None or branch is None or classifier is None:
        return {}
    return {
        "pyramid_channels": len(pyramid),
        "segmentation_channels": len(branch),
        "merge": "add" if classifier.shape[1] == len(branch) else "cat",
    }


def _format_value(value: object) -> str:
    return str(list(value)) if isinstance(value, tuple) else str(value)
