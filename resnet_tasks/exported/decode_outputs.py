"""Decoding of an exported graph's outputs into predictions in pixels of the original images.

The functions do the same as the heads' `decode`, but on numpy arrays.

Shapes: `B` images, `D` detections per image, `K` classes, `H, W` padded batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.exported.manifest import ExportedHead
from resnet_tasks.structures.geometry import Geometry
from resnet_tasks.structures.predictions.classification import Classification
from resnet_tasks.structures.predictions.detections import Detections
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap

Outputs = Mapping[str, NDArray[Any]]


def decode(head: ExportedHead, outputs: Outputs, geometries: Sequence[Geometry]) -> list[Any]:
    """Decode the outputs of one head into one prediction per image.

    Args:
        head: Task and classes of the head.
        outputs: Field name -> batched output of that head.
        geometries: Geometries of the images of the batch.
    """
    if head.task == "detection":
        return [_decode_detections(outputs, i, geometry) for i, geometry in enumerate(geometries)]
    if head.task == "semantic_segmentation":
        return [
            _decode_map(logits, geometry)
            for logits, geometry in zip(outputs["logits"], geometries, strict=True)
        ]
    probs: Any = outputs["probs"]
    return [Classification(image_probs, is_multi_label=head.multi_label) for image_probs in probs]


def _decode_detections(outputs: Outputs, index: int, geometry: Geometry) -> Detections:
    """Decode `boxes` `(B, D, 4)`, `scores` `(B, D)` (-1: no detection) and `labels` `(B, D)`."""
    is_valid = outputs["scores"][index] >= 0
    boxes = geometry.boxes_to_original(outputs["boxes"][index][is_valid])
    scores, labels = outputs["scores"][index][is_valid], outputs["labels"][index][is_valid]
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    order = np.flatnonzero(keep)[np.argsort(-scores[keep], kind="stable")]
    fields: Any = (boxes[order], scores[order], labels[order])
    return Detections(*fields)


def _decode_map(logits: NDArray[np.float32], geometry: Geometry) -> SegmentationMap:
    """Decode `(K, H, W)` logits into a label map of the original size.

    The logits are resized instead of the labels, so that class borders stay sharp.
    """
    resized = geometry.map_to_original(logits)
    probs = np.exp(resized - resized.max(axis=0))
    probs /= probs.sum(axis=0)
    fields: Any = (probs.argmax(axis=0), probs)
    return SegmentationMap(*fields)
