"""Hints at results that were probably read in another way than they were written.

Each hint names the number that another reading would give, so that a user can tell a fault of the
file from a poor model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.box_formats import (
    CORNER_FRACTION,
    BoxFormatCounts,
    count_box_formats,
)
from resnet_tasks.data.coco.categories import CategoryMap
from resnet_tasks.data.coco.results import ResultColumns
from resnet_tasks.data.coco.truth import TruthFile
from resnet_tasks.evaluation.coco.evaluator import CocoEvaluator
from resnet_tasks.number_formats import Count
from resnet_tasks.structures.evaluation import ResamplableEvaluator

Boxes = NDArray[np.float64]

PLAUSIBLE_AP50 = 0.5
"""AP50 from which the results were certainly read as they were written."""
LEAST_GAIN = 0.1
"""Increase in AP50, in addition to twice its value, from which another reading is reported."""
LEAST_COVERAGE = 0.9
"""Fraction of the images with objects below which the number of images with detections is
reported."""
CENTER_AP50 = 0.1
"""AP50 from which boxes are not read as centers. A box that is moved by half its size has an IoU of
1/7 with itself."""
LEAST_RESIZING = 0.05
"""Difference of a factor from 1 from which boxes may be those of resized images."""
BEYOND_FRACTION = 0.5
"""Fraction of boxes that extend beyond their images from which it is reported."""
MAX_NAMED = 3
"""Number of confused categories that are named."""


def find_hints(
    truth: TruthFile, detections: ResultColumns, evaluator: CocoEvaluator, ap50: float | None
) -> tuple[str, ...]:
    """Describe in sentences how the results may be meant.

    Args:
        truth: Ground truth of the results.
        detections: Results as they were read.
        evaluator: Evaluator with all images of the ground truth, in the order of the file.
        ap50: AP at IoU 0.5 of the results; None without objects.
    """
    hints = find_missing_images(truth, detections, evaluator, "AP50")
    if ap50 is None or not len(detections.scores):
        return hints
    return (*hints, *_find_other_categories(truth, evaluator, ap50))


def find_box_format_hints(
    truth: TruthFile,
    detections: ResultColumns,
    ap50: float | None,
    evaluate: Callable[[Boxes], tuple[float, float]],
) -> tuple[str, ...]:
    """Describe in a sentence which other format the boxes may have.

    Args:
        truth: Ground truth of the results.
        detections: Results with boxes.
        ap50: AP at IoU 0.5 of the results; None without objects.
        evaluate: Function that returns the AP and the AP at IoU 0.5 of the same results with other
            boxes, `(D, 4)` xywh.
    """
    boxes = detections.boxes
    if boxes is None or not len(boxes) or detections.mask_areas is not None:
        return ()
    sizes = truth.images.sizes[detections.images].astype(np.float64)
    counts = count_box_formats(boxes, sizes)
    ends = boxes[:, :2] + boxes[:, 2:]
    beyond = float((ends > sizes[:, ::-1] + 1).any(axis=1).mean())
    expected = "boxes of results are [x, y, width, height] in pixels of the image"
    evidence = f"{beyond:.0%} of the boxes extend beyond their images; "
    if counts.are_relative:
        evidence = f"{counts.describe_relative()}; "
    elif beyond < BEYOND_FRACTION:
        evidence = ""
    readings = []
    if ap50 is not None and ap50 < PLAUSIBLE_AP50:
        readings = _list_readings(boxes, sizes, counts, ap50)
        if ap50 < CENTER_AP50 and not counts.are_relative:
            readings += _find_resized_reading(truth, detections.images, boxes)
    if ap50 is not None and readings:
        # AP decides, because several readings may reach the same AP50.
        (_, best), form = max((evaluate(other), form) for form, other in readings)
        if _is_much_better(best, ap50):
            comparison = f"AP50 would be {best:.4f} instead of {ap50:.4f}"
            return (f"{evidence}read as {form}, {comparison}; {expected}",)
    if not evidence:
        return ()
    if counts.are_relative:
        return (f"{evidence}{expected}",)
    question = "are these corners [x1, y1, x2, y2], or pixels of a resized image?"
    return (f"{evidence}boxes are read as [x, y, width, height]: {question}",)


def _list_readings(
    boxes: Boxes, sizes: Boxes, counts: BoxFormatCounts, ap50: float
) -> list[tuple[str, Boxes]]:
    """Return the other readings of boxes that are possible, each with its description.

    Args:
        boxes: `(D, 4)` numbers of the file.
        sizes: `(D, 2)` heights and widths of the images in pixels.
        counts: Numbers of boxes that look like another format.
        ap50: AP at IoU 0.5 of the boxes as they are read.
    """
    is_relative = counts.are_relative
    unit = "fractions of the image size" if is_relative else "pixels"
    scaled = boxes * np.tile(sizes[:, ::-1], 2) if is_relative else boxes
    readings = [(f"[x, y, width, height] in {unit}", scaled)] if is_relative else []
    if is_relative or counts.corners >= CORNER_FRACTION * counts.boxes:
        lengths = np.maximum(scaled[:, 2:] - scaled[:, :2], 0)
        corners = np.concatenate((scaled[:, :2], lengths), axis=1)
        readings.append((f"corners [x1, y1, x2, y2] in {unit}", corners))
    if ap50 < CENTER_AP50:
        centers = np.concatenate((scaled[:, :2] - scaled[:, 2:] / 2, scaled[:, 2:]), axis=1)
        readings.append((f"[center x, center y, width, height] in {unit}", centers))
    return readings


def _find_resized_reading(
    truth: TruthFile, images: NDArray[np.int64], boxes: Boxes
) -> list[tuple[str, Boxes]]:
    """Return the reading as boxes of resized images, if objects and detections suggest a factor.

    Args:
        truth: Ground truth of the results.
        images: `(D,)` position of the image of each detection.
        boxes: `(D, 4)` xywh.
    """
    annotations = truth.annotations
    ends = np.full((2, len(truth.images), 2), -np.inf)
    for values, positions, places in (
        (ends[0], annotations.image_positions, annotations.boxes),
        (ends[1], images, boxes),
    ):
        np.maximum.at(values, positions, places[:, :2] + places[:, 2:])
    is_usable = (np.isfinite(ends) & (ends > 0)).all(axis=(0, 2))
    if not is_usable.any():
        return []
    # The objects of an image end about where its detections do.
    factors = np.median(ends[1][is_usable] / ends[0][is_usable], axis=0)
    if (np.abs(factors - 1) < LEAST_RESIZING).all():
        return []
    x, y = factors
    form = f"pixels of images resized to {x:.0%} of the width, {y:.0%} of the height"
    return [(form, boxes / np.tile(factors, 2))]


def find_missing_images(
    truth: TruthFile, detections: ResultColumns, evaluator: ResamplableEvaluator, metric: str
) -> tuple[str, ...]:
    """Return a note if many images with objects have no detection, or all objects are crowds.

    Args:
        truth: Ground truth of the results.
        detections: Results as they were read.
        evaluator: Evaluator with all images of the ground truth, in the order of the file.
        metric: Metric of the evaluator that is computed on the images with detections.
    """
    if not len(detections.scores):
        return ("the results are empty: nothing was detected in any image",)
    annotations, number = truth.annotations, len(truth.images)
    if not len(annotations.crowd):
        return ()
    if annotations.crowd.all():
        note = (
            f"all {Count(len(annotations.crowd)):object} of {truth.path} have `iscrowd: 1`, which "
            "evaluation ignores, so no metric is defined; if each is a single object, set its "
            "`iscrowd` to 0"
        )
        return (note,)
    has_objects = np.zeros(number, np.bool_)
    has_objects[annotations.image_positions[~annotations.crowd]] = True
    is_detected = np.zeros(number, np.bool_)
    is_detected[detections.images] = True
    total, covered = int(has_objects.sum()), int((has_objects & is_detected).sum())
    if covered >= LEAST_COVERAGE * total:
        return ()
    note = (
        f"the results have detections in {covered} of the {Count(total):image} with objects; the "
        f"objects of {Count(total - covered):other image} count as missed"
    )
    if covered:
        value = float(evaluator.resample(is_detected[None].astype(np.int64))[metric][0])
        note += f"; on the images with detections alone, {metric} is {value:.4f}"
    return (note,)


def _find_other_categories(
    truth: TruthFile, evaluator: CocoEvaluator, ap50: float
) -> tuple[str, ...]:
    """Return a note if the results are much better regardless of class."""
    if len(truth.categories.ids) < 2 or ap50 >= PLAUSIBLE_AP50:
        return ()
    match = evaluator.match_without_classes()
    if match.ap50 is None or not _is_much_better(match.ap50, ap50):
        return ()
    note = f"with classes ignored, AP50 would be {match.ap50:.4f} instead of {ap50:.4f}"
    if confused := _describe_confusion(match.confusion, truth.categories):
        note += f"; {confused}"
    note += (
        f"; a category_id of the results is an id in `categories` of {truth.path}, not an index: "
        "are the ids shifted or in another order?"
    )
    return (note,)


def _describe_confusion(confusion: NDArray[np.int64], categories: CategoryMap) -> str:
    """Name the categories whose detections lie on objects of another one, the most frequent first.

    Args:
        confusion: Matrix of `ClassAgnosticMatch`.
        categories: Categories of the ground truth.
    """
    nearest = confusion.argmax(axis=1)
    labels = np.flatnonzero((nearest != np.arange(len(nearest))) & (confusion.sum(axis=1) > 0))
    if not len(labels):
        return ""
    labels = labels[np.argsort(-confusion[labels].sum(axis=1), kind="stable")]

    def name(label: int) -> str:
        return f"{categories.ids[label]} ({categories.names[label]})"

    pairs = [f"{name(label)} on {name(nearest[label])}" for label in labels[:MAX_NAMED]]
    more = f", and {len(labels) - MAX_NAMED} more" if len(labels) > MAX_NAMED else ""
    return f"detections lie mostly on objects of another category: {', '.join(pairs)}{more}"


def _is_much_better(value: float, other: float) -> bool:
    return value >= other + LEAST_GAIN and value >= 2 * other
