"""What is found in an image: tensors from a model of torch, numpy arrays from an exported one.

Shape glossary: `N` objects, `K` classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.evaluation import as_array

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """Objects found in one image, best first.

    Attributes:
        boxes: `(N, 4)` float32 xyxy, pixels of the original image.
        scores: `(N,)` float32, 0..1, falling.
        labels: `(N,)` int64, indices into the head's classes.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class SegmentationMap:
    """The class of every pixel of one image, at its original size.

    Attributes:
        labels: `(height, width)` whole numbers, indices into the head's classes; int64 from
            `decode`, narrower where windows were put together.
        probs: `(K, height, width)` float32, sums to 1 over classes; None where an image was too
            big to keep them.
        confidence: `(height, width)` float32, the probability of the label, where that is all that
            was kept.
    """

    labels: Tensor
    probs: Tensor | None
    confidence: Tensor | None = None


@dataclass(frozen=True)
class Classification:
    """What one image shows as a whole.

    Attributes:
        probs: `(K,)` float32, 0..1, in the order of the head's classes; sums to 1 unless
            `is_multi_label`.
        is_multi_label: Whether each class is a yes or no of its own.
    """

    probs: Tensor
    is_multi_label: bool = False

    @property
    def labels(self) -> NDArray[np.int64]:
        """`(L,)` int64 classes found, best first: the best one; of several labels, those from 0.5.

        Among equals the first in class order is the best.
        """
        probs = as_array(self.probs)
        order = np.argsort(-probs, kind="stable")
        return order[probs[order] >= 0.5] if self.is_multi_label else order[:1]
