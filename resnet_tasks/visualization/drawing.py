"""Functions that draw predictions and ground truth on images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.data.coco.masks import encode_rle
from resnet_tasks.structures.evaluation import GroundTruth
from resnet_tasks.structures.label_maps import resize_labels
from resnet_tasks.structures.predictions.base import TEXT, Prediction
from resnet_tasks.structures.run_lengths import resize_mask
from resnet_tasks.structures.tasks import Task
from resnet_tasks.visualization.canvas import ImageCanvas
from resnet_tasks.visualization.colors import Color, assign_class_colors
from resnet_tasks.visualization.legend import draw_legend, stack_vertically

Pixels = NDArray[np.uint8]


def draw_prediction(
    image: Pixels,
    predictions: Mapping[str, Prediction],
    classes: Mapping[str, Sequence[str]],
    *,
    least_score: float | Mapping[str, float] = 0.5,
    scale: int = 1,
    categories: Sequence[str] = (),
    legend: dict[str, Color] | None = None,
) -> Pixels:
    """Draw the predictions of all heads on one image.

    Label maps are drawn first, objects over them, and image-level labels as text.

    Args:
        image: `(height, width, 3)` uint8 RGB, the original image.
        predictions: Head name -> prediction.
        classes: Head name -> class names.
        least_score: Minimum score of drawn objects and labels; one for all heads, or head name ->
            score.
        scale: Integer factor by which the drawing is larger than the image.
        categories: Category names of the dataset; with `classes`, they determine the colors.
        legend: Receives the name and color of every class that is drawn; None: not collected.
    """
    canvas = ImageCanvas(image, scale, assign_class_colors(categories, *classes.values()))
    num_texts = sum(prediction.drawing_order == TEXT for prediction in predictions.values())
    for name, prediction in sorted(predictions.items(), key=lambda item: item[1].drawing_order):
        least = least_score if isinstance(least_score, float | int) else least_score[name]
        prefix = f"{name}: " if num_texts > 1 else ""
        canvas.set_classes(classes[name])
        prediction.draw(canvas, classes[name], least, prefix)
    if legend is not None:
        legend.update(canvas.drawn_classes)
    return canvas.finish()


def draw_truth(
    image: Pixels,
    truths: Mapping[str, GroundTruth],
    classes: Mapping[str, Sequence[str]],
    tasks: Mapping[str, Task],
    *,
    scale: int = 1,
    categories: Sequence[str] = (),
    legend: dict[str, Color] | None = None,
) -> Pixels:
    """Draw the ground truth in the style of `draw_prediction`.

    Args:
        image: `(height, width, 3)` uint8 RGB, the original image or a resized copy.
        truths: Head name -> ground truth, in pixels of the original image.
        classes: Head name -> class names.
        tasks: Head name -> task, which determines the annotations that are drawn.
        scale: Integer factor by which the drawing is larger than the image.
        categories: Category names of the dataset; with `classes`, they determine the colors.
        legend: Receives the name and color of every class that is drawn; None: not collected.
    """
    canvas = ImageCanvas(image, scale, assign_class_colors(categories, *classes.values()))
    size = (int(image.shape[0]), int(image.shape[1]))
    for name in sorted(truths, key=lambda name: tasks[name].prediction.drawing_order):
        canvas.set_classes(classes[name])
        fitted = fit_truth(truths[name], tasks[name].fields, size)
        tasks[name].draw_truth(canvas, fitted, classes[name])
    if legend is not None:
        legend.update(canvas.drawn_classes)
    return canvas.finish()


def fit_truth(truth: GroundTruth, fields: Collection[str], size: tuple[int, int]) -> GroundTruth:
    """Map the annotations that are drawn to the frame of a drawing.

    Args:
        truth: Ground truth in pixels of the original image.
        fields: Fields of `Target` that are drawn.
        size: (height, width) of the drawing, pixels.

    Returns:
        Ground truth with masks as compressed RLE; None where `masks` are not drawn.
    """
    segmentations, boxes, semantic = truth.segmentations, truth.boxes_xywh, truth.semantic
    if segmentations is not None:
        segmentations = (
            tuple(None if s is None else encode_rle(s, *truth.size) for s in segmentations)
            if "masks" in fields
            else None
        )
    if truth.size != size:
        y, x = (new / old for new, old in zip(size, truth.size, strict=True))
        boxes = None if boxes is None else boxes * [x, y, x, y]
        semantic = None if semantic is None else _sample_labels(semantic, size)
        if segmentations is not None:
            segmentations = tuple(s and resize_mask(s, size) for s in segmentations)
    return replace(
        truth, size=size, boxes_xywh=boxes, semantic=semantic, segmentations=segmentations
    )


def _sample_labels(labels: NDArray[Any], size: tuple[int, int]) -> NDArray[np.int64]:
    """Sample `(h, w)` labels at the pixel centers of a smaller map."""
    return resize_labels(labels, size).astype(np.int64)


def compute_readable_scale(size: tuple[int, int]) -> int:
    """Return the integer factor that enlarges a small image until text is legible.

    The shorter side of the result is about 400 pixels.
    """
    return max(1, round(400 / min(size)))


def join_side_by_side(
    left: Pixels, right: Pixels, captions: tuple[str, str], legend: Mapping[str, Color]
) -> Pixels:
    """Join two images of the same size horizontally, each with a caption above it.

    Args:
        left: `(height, width, 3)` uint8 RGB.
        right: Image of the same size.
        captions: Caption of each image.
        legend: Class name -> color, drawn in alphabetical order below both images.
    """
    bar = max(18, round(left.shape[0] / 16))
    gap = np.full((left.shape[0] + bar, 4, 3), 255, np.uint8)
    pair = np.concatenate(
        (_add_caption(left, captions[0], bar), gap, _add_caption(right, captions[1], bar)), axis=1
    )
    entries = sorted(legend.items())
    return stack_vertically([pair, draw_legend(entries, pair.shape[1], bar / 42)])


def _add_caption(image: Pixels, caption: str, bar: int) -> Pixels:
    canvas = np.full((image.shape[0] + bar, image.shape[1], 3), 255, np.uint8)
    canvas[bar:] = image
    cv2.putText(
        canvas, caption, (4, bar - 5), cv2.FONT_HERSHEY_SIMPLEX, bar / 42, (0, 0, 0), 1, cv2.LINE_AA
    )
    return canvas


def as_rgb8(image: NDArray[np.float32]) -> Pixels:
    """Convert `(h, w, C)` float32 0..1 to `(h, w, 3)` uint8 RGB.

    Images with fewer than 3 channels repeat the first channel; images with more keep the first 3.
    """
    rgb = np.repeat(image[:, :, :1], 3, axis=2) if image.shape[2] < 3 else image[:, :, :3]
    return np.asarray(np.clip(rgb * 255.0 + 0.5, 0, 255), dtype=np.uint8)
