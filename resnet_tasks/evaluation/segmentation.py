"""IoU, Dice and pixel accuracy: over all pixels of a dataset together, and image by image.

Shape glossary: `h, w` an original image, `K` classes, `P` images, `R` resampled datasets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from hotcoco.metrics import pixel_confusion
from numpy.typing import NDArray

from resnet_tasks.errors import DataError
from resnet_tasks.evaluation.numerics.weighted_means import (
    Counts,
    average_defined,
    average_over_images,
    build_metrics,
    flatten_class_values,
    ratio,
)
from resnet_tasks.structures.arrays import as_array
from resnet_tasks.structures.evaluation import BACKGROUND, VOID, GroundTruth, Metric

if TYPE_CHECKING:
    from resnet_tasks.structures.predictions.segmentation_map import SegmentationMap

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 15  # Guo et al., ICML 2017: bins of equal width of confidence
_UNSIGNED_VOID = VOID % 2**32
"""`VOID` as an unsigned label; hotcoco has no negative ones."""


class SegmentationEvaluator:
    """Evaluator of IoU and Dice per class, over all images together and as means over images.

    Memory does not depend on the size of the images: three counts per image and class.

    Args:
        classes: Class names in label order. If the first one is `background`, means without it are
            also computed.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        size = len(self.classes)
        self._confusion = np.zeros((size, size), dtype=np.int64)
        self._ids: dict[int | str, None] = {}
        # `(3, K)` pixel counts per image: correct, ground truth, prediction.
        self._counts: list[Ints] = []
        self._surprise: list[float] = []
        self._bins = np.zeros((3, BINS))
        background = (
            "; background is a class like any other, *_foreground excludes it from the mean"
            if self.has_background
            else ""
        )
        self.protocol = (
            "One confusion matrix over all pixels of all images at original size, void pixels "
            "excluded; mIoU and Dice are means over the classes that occur in the ground truth "
            f"(of {len(self.classes)}){background}. *_per_image: for each image the mean over the "
            "classes in its ground truth or prediction (absent from both: not counted, from one: "
            "0), then the mean over images; per class, the mean over images that have the class in "
            "ground truth or prediction."
        )

    @property
    def has_background(self) -> bool:
        """True if the first class is the background."""
        return bool(self.classes) and self.classes[0] == BACKGROUND

    @property
    def confusion(self) -> NDArray[np.int64]:
        """`(K, K)` pixel counts so far, ground truth by row, prediction by column."""
        return self._confusion.copy()

    @property
    def image_ids(self) -> tuple[int | str, ...]:
        """Ids of the images added so far."""
        return tuple(self._ids)

    def update(self, prediction: SegmentationMap, truth: GroundTruth) -> None:
        """Add one image.

        Raises:
            DataError: If the image was added before, its pixels are not annotated, the sizes
                differ, or a label is not an index into the classes.
        """
        confidence = None if prediction.confidence is None else as_array(prediction.confidence)
        if prediction.probs is not None and len(prediction.probs) == len(self.classes):
            confidence = as_array(prediction.probs).max(axis=0)
        self.update_labels(as_array(prediction.labels), truth, confidence=confidence)

    def update_labels(
        self,
        labels: NDArray[np.generic],
        truth: GroundTruth,
        *,
        confidence: NDArray[Any] | None = None,
    ) -> None:
        """Add the label map of one image.

        Args:
            labels: `(h, w)` indices into `classes`, at the original size of the image.
            truth: Ground truth of the image, with annotated pixels.
            confidence: `(h, w)` probability of the label, 0..1; None if unknown.

        Raises:
            DataError: If the image was added before, its pixels are not annotated, the sizes
                differ, or a label is not an index into the classes.
        """
        if truth.image_id in self._ids:
            raise DataError(
                f"image {truth.image_id!r} is evaluated twice; add each image only once"
            )
        expected, predicted = prepare_label_maps(labels, truth, len(self.classes))
        pairs = pixel_confusion(
            expected.astype(np.uint32), predicted, len(self.classes), ignore_index=_UNSIGNED_VOID
        ).astype(np.int64)
        num_pixels = int(pairs.sum())
        self._confusion += pairs
        self._ids[truth.image_id] = None
        self._counts.append(np.stack((np.diagonal(pairs), pairs.sum(axis=1), pairs.sum(axis=0))))
        if confidence is None:
            num_wrong = num_pixels - int(np.trace(pairs))
            self._surprise.append(num_wrong / max(num_pixels, 1))
            return
        valid = expected != VOID
        valid_confidence = confidence[valid]
        bins = np.clip(np.ceil(valid_confidence * BINS).astype(np.intp) - 1, 0, BINS - 1)
        bins += BINS * (expected == predicted)[valid]  # wrong pixels first, then correct ones
        numbers = np.bincount(bins, minlength=2 * BINS).reshape(2, BINS)
        weights = np.bincount(bins, valid_confidence, minlength=2 * BINS).reshape(2, BINS)
        self._bins += (numbers.sum(axis=0), weights.sum(axis=0), numbers[1])
        self._surprise.append(float(weights[0].sum()) / max(num_pixels, 1))

    def compute(self) -> dict[str, Metric]:
        """Compute all metrics over the images added so far.

        Returns:
            `mIoU` and `Dice` with their values per class, `pixel_accuracy` (per class: recall),
            `mIoU_per_image` and `Dice_per_image`, and with a background class `mIoU_foreground`,
            `Dice_foreground` and the same per image. None if the ground truth has no such pixel
            (per image: neither ground truth nor prediction).
        """
        return build_metrics(self.resample(np.ones((1, len(self._ids)), np.int64)))

    def resample(self, counts: Counts) -> dict[str, Floats]:
        """Compute the metrics of resampled datasets; see `ResamplableEvaluator.resample`."""
        size = len(self.classes)
        table = np.reshape(self._counts, (len(self._ids), 3, size)).astype(np.int64)
        summed = (counts @ table.reshape(len(table), 3 * size)).reshape(len(counts), 3, size)
        hits, expected, _ = (summed[:, i] for i in range(3))
        # Classes without a pixel in the ground truth are undefined over the whole dataset.
        iou, dice = (
            np.where(expected > 0, ratios, np.nan) for ratios in _compute_iou_and_dice(summed)
        )
        accuracy = ratio(hits.sum(axis=1), expected.sum(axis=1))
        metrics = flatten_class_values("mIoU", average_defined(iou, axis=1), iou, self.classes)
        metrics |= flatten_class_values("Dice", average_defined(dice, axis=1), dice, self.classes)
        metrics |= flatten_class_values(
            "pixel_accuracy", accuracy, ratio(hits, expected), self.classes
        )
        if self.has_background:
            for name, values in (("mIoU", iou), ("Dice", dice)):
                inner = values[:, 1:]
                mean = average_defined(inner, axis=1)
                metrics |= flatten_class_values(f"{name}_foreground", mean, inner, self.classes[1:])
        for name, values in zip(("mIoU", "Dice"), _compute_iou_and_dice(table), strict=True):
            metrics |= _average_over_images(f"{name}_per_image", values, counts, self.classes)
            if self.has_background:
                name_inside = f"{name}_per_image_foreground"
                metrics |= _average_over_images(
                    name_inside, values[:, 1:], counts, self.classes[1:]
                )
        return metrics

    def details(self) -> dict[str, Any]:
        """Return confusion matrix, reliability and images; see `DetailedEvaluator.details`.

        `surprise` of an image is the fraction of wrong pixels, each weighted with its confidence.
        `reliability` exists if confidences were given; bins without a pixel are omitted, and `ece`
        is the expected calibration error over the bins.
        """
        size = len(self.classes)
        table = np.reshape(self._counts, (len(self._ids), 3, size)).astype(np.int64)
        quality = average_defined(_compute_iou_and_dice(table)[0], axis=1)
        details: dict[str, Any] = {
            "confusion": {"labels": list(self.classes), "matrix": self._confusion.tolist()},
            "images": [
                {"image_id": image_id, "quality": float(iou), "surprise": surprise}
                for image_id, iou, surprise in zip(self._ids, quality, self._surprise, strict=True)
                if not np.isnan(iou)
            ],
        }
        count, confidence, right = self._bins[:, self._bins[0] > 0]
        if count.size:
            details["reliability"] = {
                "confidence": (confidence / count).tolist(),
                "accuracy": (right / count).tolist(),
                "count": count.astype(np.int64).tolist(),
                "ece": float(np.abs(right - confidence).sum() / count.sum()),
            }
        return details


def prepare_label_maps(labels: Any, truth: GroundTruth, num_classes: int) -> tuple[Ints, Ints]:
    """Check that the label maps of ground truth and prediction are comparable, and return them.

    Args:
        labels: `(h, w)` predicted labels, tensor or array.
        truth: Ground truth of the same image.
        num_classes: Number of classes; valid labels are below it.

    Returns:
        Two `(h, w)` int64 maps, ground truth and prediction; the ground truth is `VOID` at pixels
        that are not evaluated.

    Raises:
        DataError: If the image's pixels are not annotated, the sizes differ, or a label is not an
            index into the classes.
    """
    location = f"image {truth.image_id!r}"
    if truth.semantic is None:
        raise DataError(f"{location} has no annotated pixels and cannot be evaluated; skip it")
    expected = np.asarray(truth.semantic).astype(np.int64, copy=False)
    predicted = as_array(labels).astype(np.int64, copy=False)
    if predicted.shape != expected.shape:
        raise DataError(
            f"{location}: the predicted label map has size {predicted.shape} (height, width), but "
            f"the ground truth has {expected.shape}; `decode` must return maps of the original size"
        )
    valid = expected != VOID
    for values, map_name in ((expected, "ground truth"), (predicted, "prediction")):
        outside = valid & ((values < 0) | (values >= num_classes))
        if outside.any():
            raise DataError(
                f"{location}: the {map_name} has label {int(values[outside][0])}; allowed are 0 to "
                f"{num_classes - 1}, indices into the evaluator's classes"
            )
    return expected, predicted


def _compute_iou_and_dice(table: Ints) -> tuple[Floats, Floats]:
    """Compute `(N, K)` IoU and Dice from counts `(N, 3, K)`; NaN for a class without any pixel."""
    hits, expected, predicted = table[:, 0], table[:, 1], table[:, 2]
    return ratio(hits, expected + predicted - hits), ratio(2 * hits, expected + predicted)


def _average_over_images(
    name: str, values: Floats, counts: Counts, classes: Sequence[str]
) -> dict[str, Floats]:
    """Average `(P, K)` values over images: the mean over classes of each image, and every class."""
    overall = average_over_images(average_defined(values, axis=1), counts)
    return flatten_class_values(name, overall, average_over_images(values, counts), classes)
