"""Functions that draw predictions and ground truth on images."""

from __future__ import annotations

import colorsys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.evaluation import VOID, GroundTruth
from resnet_tasks.structures.label_maps import resize_labels
from resnet_tasks.structures.predictions.base import TEXT, Prediction

Pixels = NDArray[np.uint8]

_GOLDEN_ANGLE = 0.381966  # fraction of a full turn: neighboring labels get distant hues


def get_label_color(label: int) -> tuple[int, int, int]:
    """Return the RGB color of a label, 0..255; the same in every drawing."""
    value = 1.0 if label % 2 == 0 else 0.8
    red, green, blue = colorsys.hsv_to_rgb((0.02 + label * _GOLDEN_ANGLE) % 1.0, 0.75, value)
    return (round(red * 255), round(green * 255), round(blue * 255))


def draw_map(image: Pixels, labels: NDArray[np.int64], classes: Sequence[str]) -> Pixels:
    """Blend a label map over an RGB image; background and void pixels stay unchanged."""
    palette = np.asarray([get_label_color(i) for i in range(len(classes))], dtype=np.float32)
    visible = labels != VOID
    if classes and classes[0] == "background":
        visible &= labels != 0
    blended = image.astype(np.float32)
    blended[visible] = 0.55 * blended[visible] + 0.45 * palette[labels[visible]]
    return blended.astype(np.uint8)


def draw_boxes(
    image: Pixels,
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    scores: NDArray[np.float32] | None = None,
) -> Pixels:
    """Draw boxes with class names and scores on a copy of an image.

    Args:
        image: `(height, width, 3)` uint8 RGB.
        boxes: `(N, 4)` xyxy, pixels of `image`.
        labels: `(N,)` indices into `classes`.
        classes: Class names in label order.
        scores: `(N,)`, 0..1; None: no scores are written.
    """
    canvas = np.ascontiguousarray(image)
    if canvas is image:
        # `ascontiguousarray` does not copy an array that is already contiguous.
        canvas = canvas.copy()
    thickness = max(1, round(min(image.shape[:2]) / 240))
    for i, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        color = get_label_color(int(label))
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color, thickness)
        text = classes[int(label)] if scores is None else f"{classes[int(label)]} {scores[i]:.2f}"
        _write_text(canvas, text, (x1, y1), color)
    return canvas


def draw_heat(
    image: Pixels,
    heat: NDArray[np.float32],
    box: tuple[float, float, float, float] | None = None,
) -> Pixels:
    """Blend a heat map over an RGB image, and draw the box that it explains.

    Args:
        image: `(height, width, 3)` uint8 RGB.
        heat: `(height, width)`, 0..1; pixels with 0 stay unchanged.
        box: xyxy, pixels of `image`; None: no box is drawn.
    """
    heat_colors = cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_TURBO)[:, :, ::-1]
    opacity = 0.6 * heat[:, :, None]
    canvas: Pixels = ((1 - opacity) * image + opacity * heat_colors).astype(np.uint8)
    if box is not None:
        x1, y1, x2, y2 = (round(value) for value in box)
        canvas = np.ascontiguousarray(canvas)
        thickness = max(1, round(min(image.shape[:2]) / 240))
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (255, 255, 255), thickness)
    return canvas


def draw_lines(image: Pixels, lines: Sequence[tuple[str, int]]) -> Pixels:
    """Write lines of text at the top left of a copy of an image.

    Args:
        image: `(height, width, 3)` uint8 RGB.
        lines: (text, label) pairs; the label determines the color.
    """
    canvas = image.copy()
    y = 0
    for text, label in lines:
        y += _compute_text_height(canvas)
        _write_text(canvas, text, (0, y), get_label_color(label))
    return canvas


def _compute_text_scale(canvas: Pixels) -> float:
    return float(max(0.33, min(canvas.shape[:2]) / 1100))


def _compute_text_height(canvas: Pixels) -> int:
    """Return the height of a line of text, pixels."""
    (_, height), base = cv2.getTextSize(
        "Ag", cv2.FONT_HERSHEY_SIMPLEX, _compute_text_scale(canvas), 1
    )
    return int(height + base)


def _write_text(
    canvas: Pixels, text: str, corner: tuple[int, int], color: tuple[int, int, int]
) -> None:
    scale = _compute_text_scale(canvas)
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = int(np.clip(corner[0], 0, max(0, canvas.shape[1] - width)))
    y = int(np.clip(corner[1], height + base, canvas.shape[0]))
    cv2.rectangle(canvas, (x, y - height - base), (x + width, y), color, -1)
    cv2.putText(
        canvas, text, (x, y - base), cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA
    )


class ImageCanvas:
    """RGB image that predictions and ground truth are drawn on, in pixels of the image.

    Args:
        image: `(height, width, 3)` uint8 RGB; it is not changed.
        scale: Integer factor by which the drawing is larger than the image.
    """

    def __init__(self, image: Pixels, scale: int = 1) -> None:
        self._pixels = _enlarge(image, scale)
        self._scale = scale
        self._lines: list[tuple[str, int]] = []

    def draw_map(self, labels: NDArray[Any], classes: Sequence[str]) -> None:
        """Blend an `(h, w)` label map over the image; see the function `draw_map`."""
        self._pixels = draw_map(self._pixels, _enlarge(labels, self._scale), classes)

    def draw_masks(
        self, masks: Sequence[tuple[int, int, NDArray[Any]]], labels: NDArray[Any]
    ) -> None:
        """Blend masks over the image, each given as (left, top, `(h, w)` bool bitmap)."""
        canvas = self._pixels.copy()
        for (left, top, bitmap), label in zip(masks, labels, strict=True):
            mask = _enlarge(bitmap, self._scale)
            y, x = top * self._scale, left * self._scale
            region = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
            color = np.asarray(get_label_color(int(label)), np.float32)
            region[mask] = (0.55 * region[mask] + 0.45 * color).astype(np.uint8)
        self._pixels = canvas

    def draw_boxes(
        self,
        boxes: NDArray[Any],
        labels: NDArray[Any],
        classes: Sequence[str],
        scores: NDArray[Any] | None,
    ) -> None:
        """Draw `(N, 4)` xyxy boxes with class names; see the function `draw_boxes`."""
        self._pixels = draw_boxes(self._pixels, boxes * self._scale, labels, classes, scores)

    def write_line(self, text: str, label: int = 0) -> None:
        """Write a line of text at the top left, in the color of a label."""
        self._lines.append((text, label))

    def finish(self) -> Pixels:
        """Return the drawing."""
        return draw_lines(self._pixels, self._lines) if self._lines else self._pixels


def draw_prediction(
    image: Pixels,
    predictions: Mapping[str, Prediction],
    classes: Mapping[str, Sequence[str]],
    *,
    least_score: float | Mapping[str, float] = 0.5,
    scale: int = 1,
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
    """
    canvas = ImageCanvas(image, scale)
    num_texts = sum(prediction.drawing_order == TEXT for prediction in predictions.values())
    for name, prediction in sorted(predictions.items(), key=lambda item: item[1].drawing_order):
        least = least_score if isinstance(least_score, float | int) else least_score[name]
        prefix = f"{name}: " if num_texts > 1 else ""
        prediction.draw(canvas, classes[name], least, prefix)
    return canvas.finish()


def draw_truth(
    image: Pixels,
    truths: Mapping[str, GroundTruth],
    classes: Mapping[str, Sequence[str]],
    box_heads: Collection[str],
    *,
    scale: int = 1,
) -> Pixels:
    """Draw the ground truth in the style of `draw_prediction`.

    Args:
        image: `(height, width, 3)` uint8 RGB, the original image.
        truths: Head name -> ground truth.
        classes: Head name -> class names.
        box_heads: Heads whose boxes are drawn; the other heads get their semantic maps drawn.
            Image-level labels are written for all heads that have them.
        scale: Integer factor by which the drawing is larger than the image.
    """
    canvas = _enlarge(image, scale)
    for name, truth in truths.items():
        if name not in box_heads and truth.semantic is not None:
            canvas = draw_map(canvas, _enlarge(truth.semantic, scale), classes[name])
    for name, truth in truths.items():
        if name in box_heads and truth.boxes_xywh is not None and truth.labels is not None:
            low = truth.boxes_xywh[:, :2]
            corners = np.concatenate((low, low + truth.boxes_xywh[:, 2:]), axis=1)
            scaled = (corners * scale).astype(np.float32)
            canvas = draw_boxes(canvas, scaled, truth.labels, classes[name])
    lines = [
        (classes[name][label], label)
        for name, truth in truths.items()
        if truth.image_labels is not None
        for label in truth.image_labels[truth.image_labels >= 0].tolist()
    ]
    return draw_lines(canvas, lines) if lines else canvas


def resize_truth(
    truth: GroundTruth, ratio: tuple[float, float], size: tuple[int, int]
) -> GroundTruth:
    """Map ground truth to the frame of a smaller drawing; arguments as in `Prediction.resize`."""
    factor = np.asarray([ratio[1], ratio[0], ratio[1], ratio[0]])
    return replace(
        truth,
        size=size,
        boxes_xywh=None if truth.boxes_xywh is None else truth.boxes_xywh * factor,
        semantic=None if truth.semantic is None else _sample_labels(truth.semantic, size),
    )


def _sample_labels(labels: NDArray[Any], size: tuple[int, int]) -> NDArray[np.int64]:
    """Sample `(h, w)` labels at the pixel centers of a smaller map."""
    return resize_labels(labels, size).astype(np.int64)


def _enlarge(array: NDArray[Any], scale: int) -> NDArray[Any]:
    """Enlarge an image by bicubic interpolation, or a label map by repetition."""
    if scale == 1:
        return array
    if array.ndim == 2:
        return array.repeat(scale, axis=0).repeat(scale, axis=1)
    size = (array.shape[1] * scale, array.shape[0] * scale)
    return np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_CUBIC))


def compute_readable_scale(size: tuple[int, int]) -> int:
    """Return the integer factor that enlarges a small image until text is legible.

    The shorter side of the result is about 400 pixels.
    """
    return max(1, round(400 / min(size)))


def join_side_by_side(left: Pixels, right: Pixels, captions: tuple[str, str]) -> Pixels:
    """Join two images of the same size horizontally, each with a caption above it."""
    bar = max(18, round(left.shape[0] / 16))
    gap = np.full((left.shape[0] + bar, 4, 3), 255, np.uint8)
    return np.concatenate(
        (_add_caption(left, captions[0], bar), gap, _add_caption(right, captions[1], bar)), axis=1
    )


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
