"""Predicted instances of one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.records import boxes_to_xywh
from resnet_tasks.structures.evaluation import as_array
from resnet_tasks.structures.run_lengths import Rle


@dataclass(frozen=True)
class InstanceSegmentation:
    """Detected objects of one image with their masks, sorted by falling score.

    Attributes:
        boxes: `(N, 4)` float32 xyxy, pixels of the original image.
        scores: `(N,)` float32, 0..1, falling.
        labels: `(N,)` int64, indices into the head's classes.
        segmentations: `(N,)` masks, compressed COCO RLE of the original image.
    """

    boxes: Any
    scores: Any
    labels: Any
    segmentations: tuple[Rle, ...]

    def __len__(self) -> int:
        return len(self.segmentations)

    def select(self, indices: NDArray[np.intp]) -> InstanceSegmentation:
        """Return the instances at `indices`, in that order."""
        return InstanceSegmentation(
            self.boxes[indices],
            self.scores[indices],
            self.labels[indices],
            tuple(self.segmentations[i] for i in indices.tolist()),
        )

    def to_coco_results(
        self, image_id: int | str, category_ids: Sequence[int]
    ) -> list[dict[str, Any]]:
        """Return one entry of a COCO results file per instance, numbers at full precision.

        Args:
            image_id: Id of the image in the COCO file.
            category_ids: Category id of each label.
        """
        rows = zip(
            boxes_to_xywh(self.boxes).tolist(),
            as_array(self.scores).astype(np.float64).tolist(),
            as_array(self.labels).tolist(),
            self.segmentations,
            strict=True,
        )
        return [
            {
                "image_id": image_id,
                "category_id": category_ids[label],
                "bbox": box,
                "score": score,
                "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()},
            }
            for box, score, label, rle in rows
        ]
