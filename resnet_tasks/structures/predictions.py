"""Predictions for one image: tensors from a torch model, numpy arrays from an exported model.

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
    """Detected objects of one image, sorted by falling score.

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
    """Class of every pixel of one image, at its original size.

    Attributes:
        labels: `(height, width)` integers, indices into the head's classes; int64 from `decode`, a
            narrower type for maps merged from windows.
        probs: `(K, height, width)` float32, sums to 1 over classes; None if the probabilities were
            not kept (large images).
        confidence: `(height, width)` float32 probability of the label, if it was kept instead of
            `probs`.
    """

    labels: Tensor
    probs: Tensor | None
    confidence: Tensor | None = None


@dataclass(frozen=True)
class Classification:
    """Class probabilities of one whole image.

    Attributes:
        probs: `(K,)` float32, 0..1, in the order of the head's classes; sums to 1 unless
            `is_multi_label`.
        is_multi_label: Whether the classes are independent yes/no decisions.
    """

    probs: Tensor
    is_multi_label: bool = False

    @property
    def labels(self) -> NDArray[np.int64]:
        """`(L,)` int64 predicted classes, sorted by falling probability.

        Single-label: the most probable class. Multi-label: the classes with a probability of at
        least 0.5. Ties are resolved in class order.
        """
        probs = as_array(self.probs)
        order = np.argsort(-probs, kind="stable")
        return order[probs[order] >= 0.5] if self.is_multi_label else order[:1]
