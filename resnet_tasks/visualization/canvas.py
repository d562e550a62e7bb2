"""Image that predictions and ground truth are drawn on: maps, masks, boxes and text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from resnet_tasks.structures.evaluation import BACKGROUND, VOID
from resnet_tasks.visualization.colors import (
    Color,
    build_palette,
    choose_text_color,
    get_label_color,
)

Pixels = NDArray[np.uint8]

_MAX_LABELED_FRACTION = 0.12
"""Maximum fraction of a drawing that class names at boxes may cover; more would hide objects."""


def draw_map(
    image: Pixels,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    colors: Mapping[str, Color] | None = None,
) -> Pixels:
    """Blend a label map over an RGB image; background and void pixels stay unchanged.

    Args:
        image: `(height, width, 3)` uint8 RGB.
        labels: `(height, width)` indices into `classes`, or `VOID`.
        classes: Class names in label order.
        colors: Class name -> color; None: those of `assign_class_colors`.
    """
    palette = np.asarray(build_palette(classes, colors), dtype=np.float32)
    visible = labels != VOID
    if BACKGROUND in classes:
        visible &= labels != classes.index(BACKGROUND)
    blended = image.astype(np.float32)
    blended[visible] = 0.55 * blended[visible] + 0.45 * palette[labels[visible]]
    return blended.astype(np.uint8)


def draw_boxes(
    image: Pixels,
    boxes: NDArray[np.float32],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    scores: NDArray[np.float32] | None = None,
    *,
    colors: Mapping[str, Color] | None = None,
    with_text: bool = True,
) -> Pixels:
    """Draw boxes with class names and scores on a copy of an image.

    Args:
        image: `(height, width, 3)` uint8 RGB.
        boxes: `(N, 4)` xyxy, pixels of `image`.
        labels: `(N,)` indices into `classes`.
        classes: Class names in label order.
        scores: `(N,)`, 0..1; None: no scores are written.
        colors: Class name -> color; None: those of `assign_class_colors`.
        with_text: Whether to write class names and scores.
    """
    canvas = np.ascontiguousarray(image)
    if canvas is image:
        # `ascontiguousarray` does not copy an array that is already contiguous.
        canvas = canvas.copy()
    palette = build_palette(classes, colors)
    thickness = max(1, round(min(image.shape[:2]) / 240))
    if len(boxes):
        # Thick lines would hide small objects.
        median_side = float(np.median((boxes[:, 2:] - boxes[:, :2]).min(axis=1)))
        thickness = min(thickness, max(1, round(median_side / 16)))
    texts = _describe_boxes(labels, classes, scores)
    for box, label in zip(boxes, labels, strict=True):
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), palette[int(label)], thickness)
    # Text is written last, so that no box crosses it.
    for box, label, text in zip(boxes, labels, texts if with_text else [], strict=with_text):
        _write_text(canvas, text, (round(float(box[0])), round(float(box[1]))), palette[int(label)])
    return canvas


def _describe_boxes(
    labels: NDArray[np.int64], classes: Sequence[str], scores: NDArray[np.float32] | None
) -> list[str]:
    names = [classes[label] for label in labels.tolist()]
    if scores is None:
        return names
    return [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]


def draw_lines(image: Pixels, lines: Sequence[tuple[str, Color]]) -> Pixels:
    """Write lines of text at the top left of a copy of an image.

    Args:
        image: `(height, width, 3)` uint8 RGB.
        lines: (text, color of its background) pairs.
    """
    canvas = image.copy()
    y = 0
    for text, color in lines:
        y += _compute_text_height(canvas)
        _write_text(canvas, text, (0, y), color)
    return canvas


def _compute_text_scale(canvas: Pixels) -> float:
    return float(max(0.33, min(canvas.shape[:2]) / 1100))


def _compute_text_height(canvas: Pixels) -> int:
    """Return the height of a line of text, pixels."""
    return _measure_text(canvas, "Ag")[1]


def _measure_text(canvas: Pixels, text: str) -> tuple[int, int]:
    """Return the width and height of a line of text, pixels."""
    scale = _compute_text_scale(canvas)
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    return int(width), int(height + base)


def _compute_text_area(canvas: Pixels, texts: Sequence[str]) -> int:
    """Return the number of pixels that texts cover, if they do not overlap."""
    return sum(width * height for width, height in (_measure_text(canvas, t) for t in texts))


def _erode(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the pixels of a mask whose four neighbors belong to it."""
    padded = np.pad(mask, 1)
    rows = padded[:-2, 1:-1] & padded[2:, 1:-1]
    return np.asarray(rows & padded[1:-1, :-2] & padded[1:-1, 2:], np.bool_)


def _write_text(
    canvas: Pixels, text: str, corner: tuple[int, int], color: tuple[int, int, int]
) -> None:
    scale = _compute_text_scale(canvas)
    (width, height), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    x = int(np.clip(corner[0], 0, max(0, canvas.shape[1] - width)))
    y = int(np.clip(corner[1], height + base, canvas.shape[0]))
    cv2.rectangle(canvas, (x, y - height - base), (x + width, y), color, -1)
    ink = choose_text_color(color)
    cv2.putText(canvas, text, (x, y - base), cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1, cv2.LINE_AA)


class ImageCanvas:
    """RGB image that predictions and ground truth are drawn on, in pixels of the image.

    Args:
        image: `(height, width, 3)` uint8 RGB; it is not changed.
        scale: Integer factor by which the drawing is larger than the image.
        colors: Class name -> color; other names get the colors of `assign_class_colors`.

    Attributes:
        drawn_classes: Name -> color of the classes that were drawn, for a legend.
    """

    def __init__(
        self, image: Pixels, scale: int = 1, colors: Mapping[str, Color] | None = None
    ) -> None:
        self._pixels = _enlarge(image, scale)
        self._scale = scale
        self._colors = colors
        self._palette: tuple[Color, ...] = ()
        self._lines: list[tuple[str, Color]] = []
        self._classes: tuple[str, ...] = ()
        self.drawn_classes: dict[str, Color] = {}

    def set_classes(self, classes: Sequence[str]) -> None:
        """Set the classes of the labels that are drawn next."""
        self._classes = tuple(classes)
        self._palette = build_palette(classes, self._colors)

    def draw_map(self, labels: NDArray[Any], classes: Sequence[str]) -> None:
        """Blend an `(h, w)` label map over the image; see the function `draw_map`."""
        self._record_labels(labels, classes)
        enlarged = _enlarge(labels, self._scale)
        self._pixels = draw_map(self._pixels, enlarged, classes, self._colors)

    def draw_masks(
        self, masks: Iterable[tuple[int, int, NDArray[Any]]], labels: NDArray[Any]
    ) -> None:
        """Blend masks over the image, and draw their outlines.

        Args:
            masks: (left, top, `(h, w)` bool bitmap) of each mask.
            labels: `(N,)` labels of the masks.
        """
        self._record_labels(labels, self._classes)
        canvas = self._pixels.copy()
        for (left, top, bitmap), label in zip(masks, labels.tolist(), strict=True):
            mask = _enlarge(bitmap, self._scale)
            y, x = top * self._scale, left * self._scale
            region = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
            color = np.asarray(self._get_color(label), np.float32)
            region[mask] = (0.55 * region[mask] + 0.45 * color).astype(np.uint8)
            # Without outlines, touching objects of one class would look like one object.
            region[mask & ~_erode(mask)] = color.astype(np.uint8)
        self._pixels = canvas

    def draw_boxes(
        self,
        boxes: NDArray[Any],
        labels: NDArray[Any],
        classes: Sequence[str],
        scores: NDArray[Any] | None,
    ) -> None:
        """Draw `(N, 4)` xyxy boxes with class names, and scores unless they are None.

        If the names would hide a large part of the image, the number of objects of each class is
        written once, at the top left.
        """
        self._record_labels(labels, classes)
        texts = _describe_boxes(labels, classes, scores)
        has_room = _compute_text_area(self._pixels, texts) <= (
            _MAX_LABELED_FRACTION * self._pixels.shape[0] * self._pixels.shape[1]
        )
        self._pixels = draw_boxes(
            self._pixels,
            boxes * self._scale,
            labels,
            classes,
            scores,
            colors=self._colors,
            with_text=has_room,
        )
        if not has_room:
            palette = build_palette(classes, self._colors)
            for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
                self._lines.append((f"{classes[label]}: {count}", palette[label]))

    def write_line(self, text: str, label: int = 0) -> None:
        """Write a line of text at the top left, in the color of a label."""
        self._lines.append((text, self._get_color(label)))

    def finish(self) -> Pixels:
        """Return the drawing."""
        return draw_lines(self._pixels, self._lines) if self._lines else self._pixels

    def _record_labels(self, labels: NDArray[Any], classes: Sequence[str]) -> None:
        """Add the classes of labels to `drawn_classes`, except void and background."""
        palette = build_palette(classes, self._colors)
        is_drawn = np.zeros(len(classes), np.bool_)
        # Blocks keep the temporary arrays small for large label maps.
        for block in np.array_split(labels.ravel(), 1 + (labels.size >> 20)):
            is_drawn[block[(block >= 0) & (block < len(classes))]] = True
        for label in np.flatnonzero(is_drawn).tolist():
            if classes[label] != BACKGROUND:
                self.drawn_classes[classes[label]] = palette[label]

    def _get_color(self, label: int) -> Color:
        return self._palette[label] if label < len(self._palette) else get_label_color(label)


def _enlarge(array: NDArray[Any], scale: int) -> NDArray[Any]:
    """Enlarge an image by bicubic interpolation, or a label map by repetition."""
    if scale == 1:
        return array
    if array.ndim == 2:
        return array.repeat(scale, axis=0).repeat(scale, axis=1)
    size = (array.shape[1] * scale, array.shape[0] * scale)
    return np.asarray(cv2.resize(array, size, interpolation=cv2.INTER_CUBIC))
