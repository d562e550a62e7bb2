"""Detectors of torchvision as weights of `FasterRCNN` and `MaskRCNN`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from resnet_tasks.errors import HeadError
from resnet_tasks.heads.foreign_weights import FilledHead, ForeignModel, ForeignWeights
from resnet_tasks.heads.torchvision_classes import choose_rows

_BOX_PREDICTOR = "roi_heads.box_predictor."
_MASK_PREDICTOR = "roi_heads.mask_predictor.mask_fcn_logits."
_OLD_NAMES: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"), r"\1.0.\2"),
    (
        re.compile(r"^(roi_heads\.mask_head)\.mask_fcn(\d+)\.(weight|bias)$"),
        lambda match: f"{match[1]}.{int(match[2]) - 1}.0.{match[3]}",
    ),
    (re.compile(r"^(rpn\.head\.conv)\.(weight|bias)$"), r"\1.0.0.\2"),
)
"""Older names in torchvision's published checkpoints, and their current form."""


def split_torchvision_state_dict(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split the weights of a two-stage detector of torchvision into backbone and head.

    The published checkpoints have older names for the pyramid, the first convolution of the RPN and
    the mask branch; they are converted to the current ones.

    Args:
        state: State dict of the whole torchvision model.

    Returns:
        Weights of the ResNet under torchvision's names (`conv1.weight`, `layer1.0...`), and weights
        of the head under the names of `FasterRCNN`.

    Raises:
        HeadError: If a key belongs to neither.
    """
    body: dict[str, Tensor] = {}
    head: dict[str, Tensor] = {}
    for old_key, value in state.items():
        key = old_key
        for pattern, replacement in _OLD_NAMES:
            key = pattern.sub(replacement, key)
        if key.startswith("backbone.body."):
            body[key.removeprefix("backbone.body.")] = value
        elif key.startswith("backbone.fpn."):
            head[key.removeprefix("backbone.")] = value
        elif key.startswith(("rpn.", "roi_heads.")):
            head[key] = value
        else:
            raise HeadError(
                f"{key!r} is not a weight of torchvision's Faster R-CNN; expected keys below "
                "backbone.body, backbone.fpn, rpn and roi_heads"
            )
    return body, head


class TorchvisionDetector(ForeignWeights):
    """Faster R-CNN of torchvision; a mask or keypoint branch in the file is not used.

    See `choose_rows` for the classes.
    """

    source = "a Faster R-CNN of torchvision"
    pyramid = "fpn."
    mismatch_hint = (
        ", as torchvision's V2 detectors are; FasterRCNN_ResNet50_FPN_Weights.COCO_V1 fits"
    )

    def split(self, tensors: Mapping[str, Tensor]) -> ForeignModel | None:
        """Split a detector with the parts `backbone`, `rpn` and `roi_heads`."""
        if not {"backbone", "rpn", "roi_heads"} <= {key.split(".")[0] for key in tensors}:
            return None
        detector_tensors = {k: v for k, v in tensors.items() if k.split(".")[0] != "transform"}
        body, head = split_torchvision_state_dict(detector_tensors)
        return ForeignModel(
            "torchvision's Faster R-CNN",
            body,
            head,
            (_BOX_PREDICTOR,),
            ("roi_heads.mask_", "roi_heads.keypoint_"),
        )

    def infer_options(self, head: FilledHead, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Infer the channels of pyramid and box head, the pooled size and default anchors."""
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
        objectness, defaults = tensors.get("rpn.head.cls_logits.weight"), head.parse_options(None)
        # The user may choose other anchors, if their number is the same; a note mentions them.
        if objectness is not None and len(defaults.aspect_ratios) == len(objectness):
            current = head.options
            if len(current.sizes_per_level[0]) * len(current.aspect_ratios) != len(objectness):
                options |= {
                    "aspect_ratios": defaults.aspect_ratios,
                    "anchor_sizes": defaults.anchor_sizes,
                }
        return options

    def select_predictor_rows(
        self, head: FilledHead, model: ForeignModel, name: str
    ) -> tuple[dict[str, Tensor] | None, list[str]]:
        """Select the rows of the box predictor for the classes of a head."""
        row_indices, note = self._choose_rows(head, model, name)
        notes = [note, *_describe_anchor_changes(head, name)]
        if row_indices is None:
            return None, notes
        rows = len(model.head[f"{_BOX_PREDICTOR}cls_score.bias"])
        selected = {}
        for key, value in model.head.items():
            if key.startswith(model.predictor):
                per_class = value.reshape(rows, -1, *value.shape[1:])[row_indices]
                selected[key] = per_class.flatten(0, 1)
        return selected, notes

    @staticmethod
    def _choose_rows(
        head: FilledHead, model: ForeignModel, name: str
    ) -> tuple[list[int] | None, str]:
        """Choose the rows of background and classes, or None for random weights; and a note."""
        parts = ("cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias")
        if any(f"{_BOX_PREDICTOR}{part}" not in model.head for part in parts):
            return None, (
                f"heads.{name}: the file has no box predictor; the head's box predictor "
                "starts from random weights"
            )
        rows = len(model.head[f"{_BOX_PREDICTOR}cls_score.bias"])
        return choose_rows(head, rows, name, has_background=True)


class TorchvisionMaskDetector(TorchvisionDetector):
    """Mask R-CNN of torchvision; the masks of the classes follow the rows of the box predictor."""

    source = "a Mask R-CNN of torchvision"
    mismatch_hint = (
        ", as torchvision's V2 detectors are; MaskRCNN_ResNet50_FPN_Weights.COCO_V1 fits"
    )

    def split(self, tensors: Mapping[str, Tensor]) -> ForeignModel | None:
        """Split a detector that has a mask branch."""
        model = super().split(tensors)
        if model is None or not any(key.startswith("roi_heads.mask_") for key in model.head):
            return None
        return replace(
            model,
            kind="torchvision's Mask R-CNN",
            predictor=(_BOX_PREDICTOR, _MASK_PREDICTOR),
            extras=("roi_heads.keypoint_",),
        )

    def infer_options(self, head: FilledHead, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Infer the options of the box branch and the channels of the mask branch."""
        options = super().infer_options(head, tensors)
        layers = [
            tensors[key]
            for index in range(len(tensors))
            if (key := f"roi_heads.mask_head.{index}.0.weight") in tensors
        ]
        upsampling = tensors.get("roi_heads.mask_predictor.conv5_mask.weight")
        if not layers or upsampling is None:
            return options
        return {
            **options,
            "mask_head_channels": tuple(len(layer) for layer in layers),
            "mask_predictor_channels": upsampling.shape[1],
        }


def _describe_anchor_changes(head: FilledHead, name: str) -> list[str]:
    defaults = head.parse_options(None)
    changed = [
        f"{key} ({getattr(defaults, key)})"
        for key in ("anchor_sizes", "aspect_ratios")
        if getattr(head.options, key) != getattr(defaults, key)
    ]
    if not changed:
        return []
    learned = " and ".join(changed)
    note = (
        f"heads.{name}: the file's RPN was trained with {learned}; training must adapt it to the "
        "anchors of this head"
    )
    return [note]
