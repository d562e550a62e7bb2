"""Selection of the rows of a pretrained predictor that belong to the classes of a head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from resnet_tasks.heads.base import Head
from resnet_tasks.heads.rcnn.faster_rcnn import FasterRCNN
from resnet_tasks.model_weights.foreign_models import ModelFile
from resnet_tasks.structures.evaluation import BACKGROUND

COCO_NAMES: tuple[str, ...] = tuple(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
"""Names of the 91 rows of torchvision's COCO detectors: background, then names by category id."""
NO_CLASS = ("__background__", "N/A")
_BOX_PREDICTOR = ("cls_score.weight", "cls_score.bias", "bbox_pred.weight", "bbox_pred.bias")


def select_predictor_rows(
    head: Head, file: ModelFile, name: str
) -> tuple[dict[str, Tensor] | None, list[str]]:
    """Select the tensors that depend on the classes, for the classes of a head.

    - Detectors with torchvision's 91 rows for COCO: if every class of the head is a COCO class, its
      row is used. Otherwise all rows are initialized at random, so that no class has an advantage.
    - Other files do not name their classes. If they have as many rows as the head needs, the rows
      are used in order.
    - A segmenter with one class (a sigmoid) is converted to background and that class (a softmax)
      with the same probabilities.

    Returns:
        Tensors under the head's names, or None if they keep their random initialization; and notes
        for the user.
    """
    if isinstance(head, FasterRCNN):
        return _select_box_rows(head, file, name)
    weight, bias = (file.head.get(f"classifier.0.{parameter}") for parameter in ("weight", "bias"))
    if weight is None or bias is None:
        return None, [
            (
                f"heads.{name}: the file has no classifier; the head's classifier starts from "
                "random weights"
            )
        ]
    rows, classes = len(weight), head.classes
    if rows == len(classes):
        note = (
            f"heads.{name}: the classifier's {rows} rows are used in order for "
            f"{_format_names(classes)}"
        )
        return {"classifier.0.weight": weight, "classifier.0.bias": bias}, [note]
    if rows == 1 and len(classes) == 2 and classes[0] == BACKGROUND:
        # softmax([0, x]) equals [1 - sigmoid(x), sigmoid(x)].
        weight, bias = (torch.cat([torch.zeros_like(tensor), tensor]) for tensor in (weight, bias))
        note = f"heads.{name}: the file's one class is used for {classes[1]}"
        return {"classifier.0.weight": weight, "classifier.0.bias": bias}, [note]
    note = (
        f"heads.{name}: only the classifier starts from random weights: the file has {rows} "
        f"classes, the head {len(classes)} ({_format_names(classes)})"
    )
    return None, [note]


def _select_box_rows(
    head: FasterRCNN, file: ModelFile, name: str
) -> tuple[dict[str, Tensor] | None, list[str]]:
    parts = {key: file.head.get(f"{file.predictor}{key}") for key in _BOX_PREDICTOR}
    notes = _describe_anchor_changes(head, name)
    if any(value is None for value in parts.values()):
        return None, [
            (
                f"heads.{name}: the file has no box predictor; the head's box predictor "
                "starts from random weights"
            ),
            *notes,
        ]
    rows, needed_rows = len(parts["cls_score.bias"]), len(head.classes) + 1  # type: ignore[arg-type]
    unknown_classes = [
        class_name
        for class_name in head.classes
        if class_name not in COCO_NAMES or class_name in NO_CLASS
    ]
    if rows == len(COCO_NAMES) and not unknown_classes:
        row_indices = [0, *(COCO_NAMES.index(class_name) for class_name in head.classes)]
        note = f"heads.{name}: the box predictor keeps COCO's rows of {_format_names(head.classes)}"
    elif rows == needed_rows and rows != len(COCO_NAMES):
        row_indices = list(range(rows))
        note = (
            f"heads.{name}: the box predictor's {rows} rows are used in order for background, "
            f"{_format_names(head.classes)}"
        )
    else:
        reason = (
            f"{_format_names(unknown_classes)} {'is' if len(unknown_classes) == 1 else 'are'} not "
            "among COCO's classes"
            if rows == len(COCO_NAMES)
            else f"the file has {rows} rows, the head needs {needed_rows}"
        )
        note = f"heads.{name}: only the box predictor starts from random weights: {reason}"
        return None, [note, *notes]
    selected_rows = {}
    for key, value in parts.items():
        assert value is not None
        per_class = value.reshape(rows, -1, *value.shape[1:])[row_indices]
        selected_rows[f"{file.predictor}{key}"] = per_class.flatten(0, 1)
    return selected_rows, [note, *notes]


def _describe_anchor_changes(head: FasterRCNN, name: str) -> list[str]:
    defaults = FasterRCNN.parse_options(None)
    changed = [
        f"{key} ({getattr(defaults, key)})"
        for key in ("anchor_sizes", "aspect_ratios")
        if getattr(head.options, key) != getattr(defaults, key)
    ]
    if not changed:
        return []
    learned = " and ".join(changed)
    return [f"heads.{name}: the file's proposals were trained with {learned}; they have to adapt"]


def _format_names(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
