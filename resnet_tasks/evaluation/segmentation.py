"""Mean IoU, mean Dice and pixel accuracy from one confusion matrix over the whole data set.

Shape glossary: `h, w` an original picture, `K` classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.metrics import BACKGROUND, VOID, Metric, Truth, as_array
from resnet_tasks.registry import EVALUATORS

if TYPE_CHECKING:
    from resnet_tasks.structures import SegmentationMap


class SegmentationEvaluator:
    """IoU and Dice of every class, counted over all pixels of all pictures together.

    Args:
        classes: Names in label order. Where the first one is `background`, the means are also given
            without it.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self._confusion = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        background = (
            "; background is a class like any other, *_foreground leaves it out of the mean"
            if self.has_background
            else ""
        )
        self.protocol = (
            "One confusion matrix over all pixels of all pictures at original size, void pixels "
            "left out; mIoU and Dice are means over the classes that occur in the truth "
            f"(of {len(self.classes)}){background}."
        )

    @property
    def has_background(self) -> bool:
        """Whether the first class is the background."""
        return bool(self.classes) and self.classes[0] == BACKGROUND

    @property
    def confusion(self) -> NDArray[np.int64]:
        """`(K, K)` pixels seen so far, by class of the truth (row) and of the prediction."""
        return self._confusion.copy()

    def update(self, prediction: SegmentationMap, truth: Truth) -> None:
        """Takes one picture.

        Raises:
            DataError: If the picture's pixels are not annotated, sizes differ, or a label is no
                index into the classes.
        """
        where = f"image {truth.image_id!r}"
        expected = truth.semantic
        if expected is None:
            raise DataError(
                f"{where} has no annotated pixels and cannot be evaluated; leave it out"
            )
        found = as_array(prediction.labels)
        if found.shape != expected.shape:
            raise DataError(
                f"{where}: the predicted map has size {found.shape} (height, width), its truth "
                f"{expected.shape}; `decode` must give maps of the original size"
            )
        num_classes = len(self.classes)
        valid = expected != VOID
        expected, found = expected[valid].astype(np.int64), found[valid].astype(np.int64)
        for labels, what in ((expected, "truth"), (found, "prediction")):
            outside = (labels < 0) | (labels >= num_classes)
            if outside.any():
                raise DataError(
                    f"{where}: its {what} holds label {int(labels[outside][0])}; allowed are 0 to "
                    f"{num_classes - 1}, indices into the evaluator's classes"
                )
        pairs = np.bincount(expected * num_classes + found, minlength=num_classes**2)
        self._confusion += pairs.reshape(num_classes, num_classes)

    def compute(self) -> dict[str, Metric]:
        """All numbers over the pictures seen so far.

        Returns:
            `mIoU` and `Dice` with their values per class, `pixel_accuracy` (per class: recall), and
            with a background class `mIoU_foreground` and `Dice_foreground`. None where the truth
            has no such pixel.
        """
        hits = np.diagonal(self._confusion).astype(np.float64)
        expected = self._confusion.sum(axis=1)
        found = self._confusion.sum(axis=0)
        iou = self._by_class(hits, expected + found - hits)
        dice = self._by_class(2 * hits, expected + found)
        accuracy = float(hits.sum() / expected.sum()) if expected.any() else None
        metrics = {
            "mIoU": Metric(_mean(iou), iou),
            "Dice": Metric(_mean(dice), dice),
            "pixel_accuracy": Metric(accuracy, self._by_class(hits, expected)),
        }
        if self.has_background:
            for name, values in (("mIoU", iou), ("Dice", dice)):
                foreground = {key: values[key] for key in self.classes[1:]}
                metrics[f"{name}_foreground"] = Metric(_mean(foreground), foreground)
        return metrics

    def _by_class(
        self, counts: NDArray[np.float64], totals: NDArray[np.generic]
    ) -> dict[str, float | None]:
        """`counts / totals` by name; None for classes that the truth does not hold."""
        occurs = self._confusion.sum(axis=1) > 0
        return {
            name: float(counts[i] / totals[i]) if occurs[i] else None
            for i, name in enumerate(self.classes)
        }


def _mean(values: dict[str, float | None]) -> float | None:
    defined = [value for value in values.values() if value is not None]
    return float(np.mean(defined)) if defined else None


@EVALUATORS.register("semantic_segmentation")
def segmentation_evaluator(classes: tuple[str, ...]) -> SegmentationEvaluator:
    """The evaluator of semantic segmentation heads."""
    return SegmentationEvaluator(classes)
