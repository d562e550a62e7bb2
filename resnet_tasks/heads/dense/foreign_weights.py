"""One-stage detectors of torchvision as weights of `FCOS` and `RetinaNet`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from resnet_tasks.heads.foreign_weights import FilledHead, ForeignModel, ForeignWeights
from resnet_tasks.heads.torchvision_classes import choose_rows

_PREDICTOR = "head.classification_head.cls_logits."
_CENTERNESS = "head.regression_head.bbox_ctrness."
_BODY = "backbone.body."
_OldName = tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]
_OLD_PYRAMID: _OldName = (
    re.compile(r"^(fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$"),
    r"\1.0.\2",
)
_OLD_TOWER: _OldName = (
    re.compile(r"^(head\.(?:classification|regression)_head\.conv)\.(\d+)\.(weight|bias)$"),
    lambda match: f"{match[1]}.{int(match[2]) // 2}.0.{match[3]}",
)
"""Older names in torchvision's published checkpoints, and their current form."""


class TorchvisionDenseDetector(ForeignWeights):
    """One-stage detector of torchvision; see `choose_rows` for the classes.

    Attributes:
        kind: Name of the model, for messages.
        has_centerness: Whether the model predicts a centerness.
        old_names: Older names of tensors, and their current form.
    """

    pyramid = "fpn."
    kind: str
    has_centerness: bool
    old_names: tuple[_OldName, ...] = (_OLD_PYRAMID,)

    def split(self, tensors: Mapping[str, Tensor]) -> ForeignModel | None:
        """Split a detector with the parts `backbone` and `head`."""
        has_centerness = any(key.startswith(_CENTERNESS) for key in tensors)
        is_dense = any(key.startswith("head.classification_head.") for key in tensors) and any(
            key.startswith("head.regression_head.bbox_reg.") for key in tensors
        )
        if not is_dense or has_centerness != self.has_centerness:
            return None
        body: dict[str, Tensor] = {}
        head: dict[str, Tensor] = {}
        for key, value in tensors.items():
            if key.startswith(_BODY):
                body[key.removeprefix(_BODY)] = value
            elif not key.startswith("transform."):
                head[self._convert_name(key)] = value
        return ForeignModel(f"torchvision's {self.kind}", body, head, (_PREDICTOR,))

    def _convert_name(self, name: str) -> str:
        name = name.removeprefix("backbone.") if name.startswith("backbone.fpn.") else name
        for pattern, replacement in self.old_names:
            name = pattern.sub(replacement, name)
        return name

    def infer_options(self, head: FilledHead, tensors: Mapping[str, Tensor]) -> dict[str, Any]:  # noqa: ARG002
        """Infer the channels of the pyramid and the number of convolutions of the towers."""
        pyramid = tensors.get("fpn.layer_blocks.0.0.weight")
        convolutions = [
            key
            for key, value in tensors.items()
            if key.startswith("head.regression_head.conv.") and value.ndim == 4
        ]
        if pyramid is None:
            return {}
        return {"pyramid_channels": len(pyramid), "num_convs": len(convolutions)}

    def select_predictor_rows(
        self, head: FilledHead, model: ForeignModel, name: str
    ) -> tuple[dict[str, Tensor] | None, list[str]]:
        """Select the rows of the class predictor for the classes of a head."""
        parts = [f"{_PREDICTOR}{part}" for part in ("weight", "bias")]
        boxes = model.head.get("head.regression_head.bbox_reg.bias")
        if boxes is None or any(part not in model.head for part in parts):
            note = (
                f"heads.{name}: the file has no box predictor; the head's box predictor starts "
                "from random weights"
            )
            return None, [note]
        per_cell = len(boxes) // 4
        num_rows = len(model.head[parts[1]]) // per_cell
        rows, note = choose_rows(head, num_rows, name, has_background=False)
        notes = [note, *self._describe_differences(head, name)]
        if rows is None:
            return None, notes
        selected = {}
        for part in parts:
            value = model.head[part]
            per_class = value.reshape(per_cell, num_rows, *value.shape[1:])[:, rows]
            selected[part] = per_class.flatten(0, 1)
        return selected, notes

    def _describe_differences(self, head: FilledHead, name: str) -> list[str]:  # noqa: ARG002
        """Return notes on settings that the file was trained with and the head does not have."""
        return []


class TorchvisionFCOS(TorchvisionDenseDetector):
    """FCOS of torchvision."""

    source = "an FCOS of torchvision"
    kind = "FCOS"
    has_centerness = True


class TorchvisionRetinaNet(TorchvisionDenseDetector):
    """RetinaNet of torchvision, first and second version."""

    source = "a RetinaNet of torchvision"
    kind = "RetinaNet"
    has_centerness = False
    old_names = (_OLD_PYRAMID, _OLD_TOWER)

    def infer_options(self, head: FilledHead, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """Infer norms, the input of P6, and default anchors, too."""
        options = super().infer_options(head, tensors)
        p6, boxes = (
            tensors.get(f"{layer}.weight")
            for layer in ("fpn.extra_blocks.p6", "head.regression_head.bbox_reg")
        )
        if p6 is None or boxes is None or not options:
            return options
        has_norms = "head.regression_head.conv.0.1.weight" in tensors
        # As in torchvision, P6 is computed from P5 if both have the same channels.
        reads_p5 = p6.shape[1] == options["pyramid_channels"]
        options |= {
            "tower_norm": "group" if has_norms else "none",
            "extra_levels": "convolved" if reads_p5 else "convolved_c5",
        }
        per_cell, defaults = len(boxes) // 4, head.parse_options(None)
        # The user may choose other anchors, if their number is the same; a note mentions them.
        if per_cell != _count_anchors(head.options) and per_cell == _count_anchors(defaults):
            names = ("anchor_sizes", "aspect_ratios")
            options |= {name: getattr(defaults, name) for name in names}
        return options

    def _describe_differences(self, head: FilledHead, name: str) -> list[str]:
        defaults = head.parse_options(None)
        changed = [
            f"{key} ({getattr(defaults, key)})"
            for key in ("anchor_sizes", "aspect_ratios")
            if getattr(head.options, key) != getattr(defaults, key)
        ]
        if not changed:
            return []
        note = (
            f"heads.{name}: the file was trained with {' and '.join(changed)}; training must adapt "
            "it to the anchors of this head"
        )
        return [note]


def _count_anchors(options: Any) -> int:
    return len(options.sizes_per_level[0]) * len(options.aspect_ratios)
