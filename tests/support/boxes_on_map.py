"""A combiner for tests: paints the boxes of a detector into the label map of a semantic head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from resnet_tasks.inference.combiners import Combiner, CombinerOptions, register_combiner
from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap


class BoxesOnMapOptions(CombinerOptions):
    """Options of `BoxesOnMap`.

    Attributes:
        score: Score from which a box is painted.
    """

    score: float = 0.5


@register_combiner("boxes_on_map")
class BoxesOnMap(Combiner):
    """Every pixel inside a box gets the class of the box, if the semantic head has it."""

    Options: ClassVar[type[CombinerOptions]] = BoxesOnMapOptions
    roles: ClassVar[Mapping[str, str]] = {
        "boxes": "detection",
        "pixels": "semantic_segmentation",
    }
    task: ClassVar[str] = "semantic_segmentation"

    def list_classes(self) -> tuple[str, ...]:
        return self.heads["pixels"].classes

    def combine(self, predictions: Mapping[str, Any], size: tuple[int, int]) -> SegmentationMap:
        boxes, labels = predictions["boxes"], predictions["pixels"].labels.copy()
        assert isinstance(boxes.boxes, np.ndarray)
        assert labels.shape == size
        classes = self.list_classes()
        for box, score, label in zip(boxes.boxes, boxes.scores, boxes.labels, strict=True):
            name = self.heads["boxes"].classes[int(label)]
            if score >= self.options.score and name in classes:
                x1, y1, x2, y2 = np.round(box).astype(int)
                labels[y1:y2, x1:x2] = classes.index(name)
        return SegmentationMap(labels, None, np.ones(size, np.float32))
