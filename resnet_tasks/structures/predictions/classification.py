"""Class probabilities of one whole image.

Shape glossary: `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.predictions.base import TEXT, Canvas, Prediction
from resnet_tasks.structures.predictions.comparison import OutputDifference, Tolerance

if TYPE_CHECKING:
    from torch import Tensor

MAX_LISTED = (3, 5)
"""Number of classes that a drawing lists, for single-label and multi-label predictions."""


@dataclass(frozen=True)
class Classification(Prediction):
    """Class probabilities of one whole image.

    Attributes:
        probs: `(K,)` float32, 0..1, in the order of the head's classes; sums to 1 unless
            `is_multi_label`.
        is_multi_label: Whether the classes are independent yes/no decisions.
    """

    probs: Tensor
    is_multi_label: bool = False

    drawing_order: ClassVar[int] = TEXT

    @property
    def labels(self) -> NDArray[np.int64]:
        """`(L,)` int64 predicted classes, sorted by descending probability.

        Single-label: the most probable class. Multi-label: the classes with a probability of at
        least 0.5. Ties are resolved in class order.
        """
        probs, order = as_array(self.probs), self._rank()
        return order[probs[order] >= 0.5] if self.is_multi_label else order[:1]

    def _rank(self) -> NDArray[np.int64]:
        """Return the labels by descending probability; ties in class order."""
        return np.argsort(-as_array(self.probs), kind="stable")

    def draw(
        self, canvas: Canvas, classes: Sequence[str], min_score: float, prefix: str = ""
    ) -> None:
        """Write the best three classes, or the most probable labels of a multi-label head."""
        probs, order = as_array(self.probs), self._rank()
        if self.is_multi_label:
            order = order[probs[order] >= min_score]
        for label in order[: MAX_LISTED[self.is_multi_label]].tolist():
            canvas.write_line(f"{prefix}{classes[label]} {float(probs[label]):.2f}", label)

    def to_results(
        self, image_id: int | str, category_ids: Sequence[int], min_score: float = 0.0
    ) -> list[dict[str, Any]]:
        """Return one entry `{image_id, category_ids, scores}`, with descending scores."""
        probs = as_array(self.probs)
        scores = {label: round(float(probs[label]), 6) for label in self._rank().tolist()}
        kept_labels = [label for label, score in scores.items() if score >= min_score]
        return [
            {
                "image_id": image_id,
                "category_ids": [category_ids[label] for label in kept_labels],
                "scores": [scores[label] for label in kept_labels],
            }
        ]

    def compare(self, other: Any, tolerance: Tolerance, difference: OutputDifference) -> None:
        """Compare the probabilities of the classes."""
        del tolerance
        difference.add_score_gap(np.abs(as_array(self.probs) - as_array(other.probs)).max())

    def find_problem(self, size: tuple[int, int], num_classes: int) -> str | None:
        """Check the shape, type and values of the probabilities."""
        del size
        probs = as_array(self.probs)
        if probs.shape != (num_classes,) or probs.dtype != np.float32:
            return (
                f"probs must be float32 of shape {(num_classes,)}, one per class, got "
                f"{probs.dtype} of shape {probs.shape}"
            )
        if not ((probs >= 0) & (probs <= 1)).all():
            return "the probabilities of an image must lie in 0..1"
        if not self.is_multi_label and not abs(float(probs.sum()) - 1) < 1e-4:
            return (
                "the probabilities of an image must sum to 1 unless `is_multi_label`, got "
                f"{float(probs.sum()):.6g}"
            )
        return None
