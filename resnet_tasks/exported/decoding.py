"""From what an exported graph gives to predictions in pixels of the original pictures.

The counterpart of the heads' `decode` on numpy arrays.

Shapes: `B` pictures, `D` detections of a picture, `K` classes, `H, W` padded batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.exported.manifest import ExportedHead
from resnet_tasks.geometry import Geometry
from resnet_tasks.predictions import Classification, Detections, SegmentationMap

Outputs = Mapping[str, NDArray[Any]]


def decode(head: ExportedHead, outputs: Outputs, geometries: Sequence[Geometry]) -> list[Any]:
    """One prediction per picture.

    Args:
        head: What the outputs are.
        outputs: Of that head, by field.
        geometries: Of the pictures.
    """
    if head.task == "detection":
        return [_detections(outputs, i, each) for i, each in enumerate(geometries)]
    if head.task == "semantic_segmentation":
        return [
            _map(logits, each) for logits, each in zip(outputs["logits"], geometries, strict=True)
        ]
    probs: Any = outputs["probs"]
    return [Classification(each, is_multi_label=head.multi_label) for each in probs]


def _detections(outputs: Outputs, index: int, geometry: Geometry) -> Detections:
    """From `boxes` `(B, D, 4)`, `scores` `(B, D)` (-1: no detection) and `labels` `(B, D)`."""
    found = outputs["scores"][index] >= 0
    boxes = geometry.boxes_to_original(outputs["boxes"][index][found])
    scores, labels = outputs["scores"][index][found], outputs["labels"][index][found]
    keep = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    order = np.flatnonzero(keep)[np.argsort(-scores[keep], kind="stable")]
    made: Any = (boxes[order], scores[order], labels[order])
    return Detections(*made)


def _map(logits: NDArray[np.float32], geometry: Geometry) -> SegmentationMap:
    """From `(K, H, W)` logits, which are resized, so that borders stay sharp."""
    resized = geometry.map_to_original(logits)
    probs = np.exp(resized - resized.max(axis=0))
    probs /= probs.sum(axis=0)
    made: Any = (probs.argmax(axis=0), probs)
    return SegmentationMap(*made)
